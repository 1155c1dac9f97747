"""The ablation between the definitions: the effect of each difference, alone and together."""

import math

import numpy as np
import pytest

from hepflow.physics.ablation import FEATURES, STEPS, compare
from hepflow.physics.features import compute_features
from tests.support.delphes_events import event, lepton, neutral, random_events, to_awkward, track

CLUTTER = {
    "EFlowTrack": [track(9.0, 4.0)],
    "EFlowPhoton": [neutral(2.0, 4.5)],
    "EFlowNeutralHadron": [neutral(2.0, 4.2)],
}


def test_all_differences_together_lead_from_the_reference_to_the_corrected_definitions():
    events = to_awkward(random_events(60, seed=11))
    change = compare(events)["all together"]
    reference, corrected = (
        set(compute_features(events, name).index.tolist()) for name in ("reference", "corrected")
    )
    assert change.n_before == len(reference)
    assert (change.gained, change.lost) == (len(corrected - reference), len(reference - corrected))


def test_a_step_changes_only_its_own_features():
    changes = compare(
        to_awkward(
            [event(Electron=[lepton(40.0)], MissingET=[{"MET": 30.0, "Phi": 2.0}], **CLUTTER)]
        )
    )
    moved = {
        name: [FEATURES[i] for i in np.flatnonzero(change.moved)]
        for name, change in changes.items()
    }
    assert moved["mt_is_mass"] == ["MT"]
    assert (
        moved["leave_self_out"] == ["mean ChPFIso", "mean GammaPFIso", "mean NeuPFIso"]
        or "LepIsoCh" in moved["leave_self_out"]
    )
    assert (
        moved["leading_in_flavour"]
        == moved["flavour_by_pt"]
        == moved["cap_by_pt"]
        == moved["keep_incomplete"]
        == []
    )


def test_events_without_a_photon_are_gained():
    changes = compare(to_awkward([event(Electron=[lepton(40.0)], EFlowTrack=[track(2.0)])]))
    assert {name: change.gained for name, change in changes.items() if change.gained} == {
        "keep_incomplete": 1,
        "all together": 1,
    }


def test_chunks_add_up():
    events = to_awkward(random_events(40, seed=12))
    whole, first, second = compare(events), compare(events[:15]), compare(events[15:])
    for name in STEPS:
        together = first[name] + second[name]
        assert (together.gained, together.lost, together.changed) == (
            whole[name].gained,
            whole[name].lost,
            whole[name].changed,
        )
        np.testing.assert_allclose(together.distance, whole[name].distance)
        np.testing.assert_array_equal(together.farthest, whole[name].farthest)


def distances(change):
    return {name: d for name, d in zip(FEATURES, change.distance, strict=True) if d}


def test_the_distance_of_a_step_is_summed_over_events_and_its_largest_kept():
    """MT by hand, and a row for each of lepton, track, photon and neutral hadron."""
    angles = (math.pi / 2, 1.0, 0.0)
    plain = [
        event(Electron=[lepton(40.0)], MissingET=[{"MET": 20.0, "Phi": phi}], **CLUTTER)
        for phi in angles
    ]
    changes = compare(to_awkward(plain))
    square = [2 * 40 * 20 * (1 - math.cos(phi)) for phi in angles]
    moves = [abs(one - math.sqrt(one)) for one in square]
    mt = changes["mt_is_mass"]
    assert distances(mt) == {"MT": pytest.approx(sum(moves), rel=1e-5)}
    assert mt.farthest[FEATURES.index("MT")] == pytest.approx(max(moves), rel=1e-5)
    assert mt.moved[FEATURES.index("MT")] == mt.changed == 2  # an MT of 0 is its own square
    # the reference counts a candidate itself, and takes 1 off every charged sum
    own = changes["leave_self_out"]
    assert distances(own) == {
        "LepIsoCh": 3.0,
        "mean ChPFIso": 3 * 0.75,
        "mean GammaPFIso": 3 * 0.25,
        "mean NeuPFIso": 3 * 0.25,
    }
    assert own.farthest[FEATURES.index("mean ChPFIso")] == 0.75
    assert (own.n_before, own.gained, own.lost, own.changed) == (3, 0, 0, 3)


def test_an_event_whose_lepton_is_isolated_by_one_definition_alone_is_lost():
    across = event(
        Electron=[lepton(30.0, phi=3.1)],
        EFlowTrack=[track(60.0, phi=-3.1)],
        EFlowPhoton=[neutral(2.0)],
        EFlowNeutralHadron=[neutral(2.0)],
    )
    changes = compare(to_awkward([across]))
    assert {name: change.lost for name, change in changes.items() if change.lost} == {
        "wrap_phi": 1,
        "all together": 1,
    }
    assert changes["wrap_phi"].n_before == 1
    assert not changes["wrap_phi"].distance.any()


def test_no_events_have_no_effect():
    for change in compare(to_awkward([])).values():
        assert (change.n_before, change.gained, change.lost, change.changed) == (0, 0, 0, 0)
        assert change.distance.tolist() == change.farthest.tolist() == [0.0] * len(FEATURES)
