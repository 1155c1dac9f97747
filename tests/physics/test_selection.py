"""The trigger: the status of an event, and the isolations behind it."""

import numpy as np
import pytest

from hepflow.physics.columns import columns
from hepflow.physics.selection import (
    INCOMPLETE,
    NO_LEPTON,
    NOT_ISOLATED,
    PASSES,
    REASONS,
    isolations,
    passes,
    statuses,
)
from tests.support.delphes_events import event, lepton, neutral, to_awkward, track

CLUTTER = {
    "EFlowTrack": [track(9.0, 4.0)],
    "EFlowPhoton": [neutral(2.0, 4.5)],
    "EFlowNeutralHadron": [neutral(2.0, 4.2)],
}


def beside(pt):
    """Return a photon of this ET next to a lepton at the origin."""
    return {**CLUTTER, "EFlowPhoton": [neutral(pt, 0.1)]}


@pytest.mark.parametrize("flavour", ["Electron", "MuonTight"])
def test_every_event_has_the_status_of_its_reason(flavour):
    events = to_awkward(
        [
            event(**{flavour: [lepton(40.0)]}, **beside(16.0)),  # 0.4 of the lepton
            event(**{flavour: [lepton(40.0)]}, **beside(20.0)),  # 0.5
            event(**{flavour: [lepton(23.0)]}, **CLUTTER),
            event(**CLUTTER),
            event(**{flavour: [lepton(40.0)]}),
        ]
    )
    flat = columns(events)
    found = statuses(flat)
    assert found.dtype == np.int8
    assert found.tolist() == [PASSES, NOT_ISOLATED, NO_LEPTON, NO_LEPTON, PASSES]
    # the reference takes 1 off the charged sum, so that the second lepton passes
    expected = [PASSES, PASSES, NO_LEPTON, NO_LEPTON, INCOMPLETE]
    assert statuses(flat, "reference").tolist() == expected
    assert passes(events).tolist() == [True, False, False, False, True]
    assert passes(events, "reference").tolist() == [True, True, False, False, False]
    assert PASSES not in REASONS


def test_a_second_lepton_that_is_isolated_saves_the_event():
    crowded = [lepton(60.0), lepton(30.0, 2.0)]
    for leptons in (crowded, crowded[::-1]):
        assert passes(to_awkward([event(MuonTight=leptons, **beside(40.0))])).all()
    assert not passes(to_awkward([event(MuonTight=crowded[:1], **beside(40.0))])).any()


def test_the_isolation_limit_is_on_the_sum_of_the_three():
    def around(each):
        return event(
            Electron=[lepton(100.0)],
            EFlowTrack=[track(each, 0.1)],
            EFlowPhoton=[neutral(each, -0.1)],
            EFlowNeutralHadron=[neutral(each, 0.0, 0.1)],
        )

    assert passes(to_awkward([around(14.0), around(16.0)])).tolist() == [True, False]


def test_isolations_are_sums_by_kind_in_the_cone_over_the_leptons_momentum():
    crowded = event(
        Electron=[lepton(10.0), lepton(20.0, 2.0)],
        MuonTight=[lepton(40.0, 0.0, 0.2)],
        EFlowTrack=[track(4.0, 0.1), track(10.0, 0.0), track(2.0, 0.31), track(0.5, 0.1)],
        EFlowPhoton=[neutral(3.0, 0.2), neutral(1.0, 0.2)],
        EFlowNeutralHadron=[neutral(5.0, -0.2), neutral(6.0, 2.2)],
    )
    found = isolations(to_awkward([event(), crowded, event(MuonTight=[lepton(5.0)])])).to_list()
    nothing = {"charged": 0.0, "gamma": 0.0, "neutral": 0.0}
    # the track of 10 GeV is the first electron's own, but not the muon's
    assert found[1]["Electron"] == [
        pytest.approx({"charged": 0.4, "gamma": 0.3, "neutral": 0.5}),
        pytest.approx({"charged": 0.0, "gamma": 0.0, "neutral": 0.3}),
    ]
    assert found[1]["MuonTight"] == [
        pytest.approx({"charged": 14 / 40, "gamma": 3 / 40, "neutral": 5 / 40})
    ]
    assert found[0] == {"Electron": [], "MuonTight": []}
    assert found[2] == {"Electron": [], "MuonTight": [nothing]}
