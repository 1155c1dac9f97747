"""The ablation between the definitions: the effect of each difference, alone and together."""

import numpy as np

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
