"""Numbers and sums of candidates, against plain Python, of events and of particles of a store."""

import numpy as np
import pytest

from hepflow.physics.columns import columns
from hepflow.physics.features import compute_features
from hepflow.physics.multiplicities import NUMBERS, OF_EVENTS, listed, of_columns, of_particles
from hepflow.schema import PARTICLE, Feature
from tests.support.delphes_events import event, jet, neutral, random_events, to_awkward, track


def plain(one: dict) -> list[float]:
    tracks = [t for t in one["EFlowTrack"] if np.float32(t["PT"]) > 0.5]
    photons = [p for p in one["EFlowPhoton"] if np.float32(p["ET"]) > 1]
    hadrons = [h for h in one["EFlowNeutralHadron"] if np.float32(h["ET"]) > 1]
    soft_jets = [j for j in one["Jet"] if np.float32(j["PT"]) > 15]
    numbers = [len(tracks), len(photons), len(hadrons), len(soft_jets)]
    sums = [sum(t["PT"] for t in tracks), sum(p["ET"] for p in photons)]
    forward = [t for t in tracks if abs(t["Eta"]) > 2.5]
    z = [t["Z"] for t in tracks] or [0.0]
    shape = [len(forward) / max(len(tracks), 1), np.std(z)]
    return [*numbers, *sums, sum(h["ET"] for h in hadrons), *shape]


def test_the_quantities_of_events_are_those_of_plain_python() -> None:
    events = [*random_events(40, seed=3), event()]
    found = of_columns(columns(to_awkward(events)))
    np.testing.assert_allclose(found, [plain(one) for one in events], rtol=1e-5, atol=1e-4)
    assert found.shape[1] == len(OF_EVENTS)


def test_thresholds_are_strict_and_an_event_may_be_empty() -> None:
    one = event(
        EFlowTrack=[track(0.5), track(0.6, eta=-2.6), track(0.6, eta=2.5)],
        EFlowPhoton=[neutral(1.0)],
        Jet=[jet(15.0), jet(15.5, eta=4.0)],
    )
    found = of_columns(columns(to_awkward([one, event()])))
    names = [feature.name for feature in OF_EVENTS]
    first = dict(zip(names, found[0].tolist(), strict=True))
    assert (first["nTracks"], first["nPhotons"], first["nJets15"]) == (2, 0, 1)
    assert first["fracForward"] == 0.5
    assert not found[1].any()


def test_listed_particles_give_the_same_numbers_without_the_tracks_of_the_lepton() -> None:
    events = to_awkward(random_events(60, seed=5))
    made = compute_features(events)
    assert len(made.index)
    wanted = listed(PARTICLE)
    found = of_particles(made.particles, made.offsets, PARTICLE)
    of_events = of_columns(columns(events))[made.index]
    same = [i for i, feature in enumerate(OF_EVENTS) if feature in wanted]
    assert [OF_EVENTS[i] for i in same] == list(wanted)
    np.testing.assert_allclose(found, of_events[:, same], rtol=1e-4, atol=1e-3)


def test_values_without_units_give_numbers_alone_and_other_features_nothing() -> None:
    scaled = tuple(Feature(feature.name, "1") for feature in PARTICLE)
    assert listed(scaled) == NUMBERS
    assert listed((Feature("Pt", "GeV"),)) == ()
    particles, offsets = np.zeros((2, len(PARTICLE)), np.float32), np.array([0, 2, 2])
    particles[:, [feature.name for feature in PARTICLE].index("isGamma")] = 3.1
    assert of_particles(particles, offsets, scaled).tolist() == [[0, 2, 0], [0, 0, 0]]
    assert of_particles(particles[:, :1], offsets, PARTICLE[:1]).shape == (2, 0)


@pytest.mark.parametrize("cut", [1, 17, 39])
def test_the_quantities_of_an_event_do_not_depend_on_its_neighbours(cut: int) -> None:
    events = to_awkward(random_events(40, seed=7))
    parts = [of_columns(columns(one)) for one in (events[:cut], events[cut:])]
    assert np.array_equal(np.concatenate(parts), of_columns(columns(events)))
