"""The skim: which events and particles it drops, at the cuts and around them."""

import math

import awkward as ak
import numpy as np
import pytest

from hepflow.physics.features import compute_features
from hepflow.physics.skim import drop_soft, has_lepton, is_finite
from hepflow.schema import COLLECTIONS
from tests.support.delphes_events import event, lepton, neutral, random_events, to_awkward, track


@pytest.mark.parametrize("flavour", ["Electron", "MuonTight"])
def test_an_event_needs_one_lepton_of_either_flavour_above_23_gev(flavour):
    leptons = [[], [23.0], [23.0, 23.01], [40.0, 5.0], [22.0, 1.0]]
    events = to_awkward([event(**{flavour: [lepton(pt) for pt in some]}) for some in leptons])
    assert has_lepton(events).tolist() == [False, False, True, True, False]


def test_particles_at_or_below_the_cuts_are_dropped_and_leptons_kept():
    soft = event(
        EFlowTrack=[track(0.5), track(0.51), track(0.4), track(7.0)],
        EFlowPhoton=[neutral(1.0), neutral(1.01)],
        EFlowNeutralHadron=[neutral(0.9), neutral(3.0), neutral(1.0)],
        Electron=[lepton(0.1)],
        MissingET=[{"MET": 0.0, "Phi": 0.0}],
    )
    thin = drop_soft(to_awkward([soft, event()]))
    assert thin["EFlowTrack", "PT"].to_list() == [pytest.approx([0.51, 7.0]), []]
    assert thin["EFlowPhoton", "ET"].to_list() == [pytest.approx([1.01]), []]
    assert thin["EFlowNeutralHadron", "ET"].to_list() == [[3.0], []]
    assert thin["Electron", "PT"].to_list() == [pytest.approx([0.1]), []]
    assert thin["MissingET", "MET"].to_list() == [[0.0], []]
    assert thin.fields == list(COLLECTIONS)


def test_a_skim_takes_events_with_some_of_the_collections():
    events = to_awkward([event(EFlowPhoton=[neutral(0.5), neutral(2.0)])])
    thin = drop_soft(events[["Jet", "EFlowPhoton"]])
    assert thin.fields == ["Jet", "EFlowPhoton"]
    assert thin["EFlowPhoton", "ET"].to_list() == [[2.0]]


@pytest.mark.parametrize("definitions", ["corrected", "reference"])
def test_a_skim_does_not_change_the_features(definitions):
    events = to_awkward(random_events(12, seed=5))
    whole = compute_features(events, definitions)
    thin = compute_features(drop_soft(events), definitions)
    np.testing.assert_array_equal(thin.hlf, whole.hlf)
    np.testing.assert_array_equal(thin.particles, whole.particles)


def test_an_event_with_one_number_that_is_not_finite_is_found():
    bad = [
        event(EFlowTrack=[track(1.0), track(math.nan)]),
        event(),
        event(EFlowTrack=[track(1.0, vertex=(0.0, 0.0, math.inf)), track(2.0)]),
        event(Electron=[lepton(30.0)], EFlowTrack=[track(1.0)]),
        event(MissingET=[{"MET": 1.0, "Phi": -math.inf}]),
        event(Electron=[lepton(math.nan)], MissingET=[{"MET": math.nan, "Phi": 0.0}]),
    ]
    assert is_finite(to_awkward(bad)).tolist() == [False, True, False, True, False, False]
    assert is_finite(to_awkward([])).tolist() == []
    assert is_finite(ak.zip({"Jet": to_awkward(bad)["Jet"]}, depth_limit=1)).all()
