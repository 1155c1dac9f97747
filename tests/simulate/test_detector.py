"""Whole events through the detector: the output for a few known particles."""

import awkward as ak
import numpy as np
import pytest

pytest.importorskip("fastjet", reason="pip install 'hepflow[simulate]'")
pytest.importorskip("pythia8mc", reason="pip install 'hepflow[simulate]'")

from hepflow.schema import COLLECTIONS
from hepflow.simulate import card
from hepflow.simulate.detector import simulate
from hepflow.simulate.jets import cluster, flavours, tag
from hepflow.simulate.particles import Events, Particles, collisions, offsets_of, overlay

pytestmark = [pytest.mark.slow, pytest.mark.pythia]

NOTHING = Particles(
    np.array([0, 0]),
    np.zeros(0, np.int32),
    np.zeros(0, np.int8),
    np.zeros((0, 4)),
    np.zeros((0, 3)),
)
NO_HADRONS = np.zeros((0, 4))


def particles(*rows: tuple[int, int, float, float, float], n_events: int = 1) -> Particles:
    """Events of the same (pdg, charge, pT, eta, phi), massless."""
    pdg, charge, pt, eta, phi = (np.array(column) for column in zip(*rows, strict=True))
    momentum = np.stack(
        [pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)], axis=1
    )
    offsets = len(rows) * np.arange(n_events + 1)
    return Particles(
        offsets,
        np.tile(pdg.astype(np.int32), n_events),
        np.tile(charge.astype(np.int8), n_events),
        np.tile(momentum, (n_events, 1)),
        np.zeros((len(rows) * n_events, 3)),
    )


def detect(
    *rows: tuple[int, int, float, float, float], n_events: int = 400, heavy: np.ndarray = NO_HADRONS
) -> dict[str, ak.Array]:
    return simulate(
        np.random.default_rng(1),
        Events(particles(*rows, n_events=n_events), [heavy] * n_events),
        NOTHING,
        0.0,
        0.0,
    )


@pytest.fixture(scope="module")
def noisy() -> dict[str, ak.Array]:
    """Two jets' worth of particles under a pile-up of charged and neutral pions' photons."""
    rng = np.random.default_rng(5)
    soft = [
        (211 * q, q, rng.exponential(0.8) + 0.2, rng.uniform(-4, 4), rng.uniform(-3, 3))
        for q in rng.choice([-1, 1], 60)
    ]
    soft += [
        (22, 0, rng.exponential(0.8) + 0.2, rng.uniform(-4, 4), rng.uniform(-3, 3))
        for _ in range(60)
    ]
    jets = [
        (211, 1, 40.0, 0.5, 1.0),
        (22, 0, 30.0, 0.55, 1.05),
        (-211, -1, 50.0, -1.0, -2.0),
        (13, -1, 30.0, 1.5, 0.0),
        (11, -1, 35.0, -0.7, 2.5),
    ]
    events = Events(particles(*jets, n_events=60), [NO_HADRONS] * 60)
    return simulate(np.random.default_rng(2), events, particles(*soft), 20.0, 2.0)


def test_the_output_is_the_schema_s(noisy: dict[str, ak.Array]) -> None:
    for name, fields in COLLECTIONS.items():
        assert noisy[name].fields == list(fields)
        assert len(noisy[name]) == 60
        for field, kind in fields.items():
            assert str(ak.flatten(noisy[name][field]).layout.dtype) == (
                "uint32" if field == "BTag" else kind
            )
        for field in fields:
            assert np.isfinite(ak.to_numpy(ak.flatten(noisy[name][field]))).all()


def test_particles_softer_than_the_cuts_are_not_written(noisy: dict[str, ak.Array]) -> None:
    assert ak.min(noisy["EFlowTrack"].PT) > 0.5
    assert ak.min(noisy["EFlowPhoton"].ET) > 1.0
    assert ak.min(noisy["EFlowNeutralHadron"].ET) > 1.0
    assert ak.min(noisy["Jet"].PT) > card.JET_MIN_PT


def test_orders_are_those_of_delphes(noisy: dict[str, ak.Array]) -> None:
    for name in ("Jet", "Electron", "MuonTight"):
        pt = noisy[name].PT
        assert ak.all(pt[:, 1:] <= pt[:, :-1])
    for name in ("EFlowPhoton", "EFlowNeutralHadron"):
        eta = noisy[name].Eta
        assert ak.all(eta[:, 1:] > eta[:, :-1] - 0.35)  # by towers, the widest of which are 0.35
    tracks = noisy["EFlowTrack"]
    assert ak.mean(tracks.Eta[:, :20]) < -1
    assert ak.mean(tracks.Eta[:, -20:]) > 1
    assert not ak.all(tracks.PT[:, 1:] <= tracks.PT[:, :-1])


def test_tracks_come_from_several_vertices_in_millimetres(noisy: dict[str, ak.Array]) -> None:
    z = noisy["EFlowTrack"].Z
    assert np.std(ak.to_numpy(ak.flatten(z))) == pytest.approx(53.0, rel=0.15)
    assert min(len(set(event)) for event in z.tolist()) > 8


def test_the_beam_spot_is_gaussian_or_flat() -> None:
    rng = np.random.default_rng(10)
    gaussian, flat = (collisions(rng, spot, 50_000) for spot in ("gaussian", "flat"))
    assert (gaussian.mean(), gaussian.std()) == pytest.approx((0.0, 53.0), abs=1.0)
    assert np.mean(np.abs(gaussian) < 53.0) == pytest.approx(0.683, abs=0.01)
    assert np.abs(gaussian).max() <= 250.0
    assert (flat.mean(), flat.std()) == pytest.approx((0.0, 150.0 / np.sqrt(3)), abs=1.5)
    assert np.abs(flat).max() <= 150.0


def test_a_lone_electron_is_an_electron_a_track_and_a_jet() -> None:
    out = detect((11, -1, 60.0, 0.5, 1.0))
    found = ak.num(out["Electron"]) == 1
    assert ak.mean(found) == pytest.approx(0.97 * 0.98, abs=0.03)
    electron, track = out["Electron"][found][:, 0], out["EFlowTrack"][found][:, 0]
    for field in ("PT", "Eta", "Phi", "Charge"):
        assert ak.all(electron[field] == track[field])
    assert ak.all(electron.Charge == -1)
    assert ak.all(track.PID == 11)
    assert np.mean(electron.PT) == pytest.approx(60.0, rel=0.01)
    assert np.std(electron.PT) < 0.028 * 60.0  # ECAL helps the tracker
    jets = out["Jet"][found]
    assert ak.all(ak.num(jets) >= 1)
    assert np.mean(jets[:, 0].PT) == pytest.approx(60.0, rel=0.05)


def test_a_muon_is_a_muon_and_leaves_the_calorimeters_empty() -> None:
    out = detect((-13, 1, 40.0, 1.1, -2.0))
    assert ak.mean(ak.num(out["MuonTight"])) == pytest.approx(0.979, abs=0.03)
    assert ak.all(ak.num(out["EFlowPhoton"]) == 0)
    assert ak.all(ak.num(out["EFlowNeutralHadron"]) == 0)
    assert ak.all(ak.flatten(out["MuonTight"].Charge) == 1)
    assert np.std(ak.flatten(out["MuonTight"].PT)) / 40.0 == pytest.approx(0.0103, rel=0.15)


def test_a_photon_is_a_photon_and_a_neutron_a_neutral_hadron() -> None:
    out = detect((22, 0, 50.0, 0.3, 0.5), (2112, 0, 80.0, -0.3, -2.0))
    assert ak.all(ak.num(out["EFlowTrack"]) == 0)
    assert np.mean(ak.sum(out["EFlowPhoton"].ET, axis=1)) == pytest.approx(50.0, rel=0.02)
    assert np.mean(ak.sum(out["EFlowNeutralHadron"].ET, axis=1)) == pytest.approx(80.0, rel=0.03)


def test_missing_et_balances_the_visible_momentum() -> None:
    out = detect((13, -1, 50.0, 0.0, 1.0))
    seen = ak.num(out["EFlowTrack"]) == 1
    met = out["MissingET"][seen][:, 0]
    assert np.median(met.MET) == pytest.approx(50.0, rel=0.01)
    assert ak.all(abs(met.Phi - (1.0 - np.pi)) < 1e-5)
    assert ak.all(ak.num(out["MissingET"]) == 1)


def test_tracks_beyond_the_tracker_are_not_found() -> None:
    out = detect((211, 1, 20.0, 4.3, 0.0), (211, 1, 20.0, 4.8, 2.0))
    assert ak.all(ak.num(out["EFlowTrack"]) == 0)


def test_pile_up_makes_no_jets_of_its_own_tracks() -> None:
    """Charged particles of other vertices stay out of the jets, though not out of the tracks."""
    lone = particles((13, -1, 30.0, 0.0, 0.0), n_events=100)
    hard = particles((211, 1, 30.0, 1.0, 2.0))
    out = simulate(np.random.default_rng(3), Events(lone, [NO_HADRONS] * 100), hard, 3.0, 0.0)
    assert ak.sum(out["EFlowTrack"].PT > 25) > 250
    near_pileup = out["Jet"][out["Jet"].PT > 25]
    # the muon, and now and then a hadron's calorimeter fluctuation or missed track
    assert ak.mean(ak.num(near_pileup)) < 1.5


def test_pile_up_leaves_the_pt_of_jets_without_bias() -> None:
    rng = np.random.default_rng(11)
    inside = [
        (kind, charge, 60.0 / 30 * rng.uniform(0.2, 1.8), *(centre + rng.normal(0, 0.08, 2)))
        for centre in ((0.5, 1.0), (-1.8, -2.0))
        for kind, charge in [(211, 1), (-211, -1), (22, 0)] * 10
    ]
    soft = [
        (kind, charge, rng.exponential(0.6) + 0.2, rng.uniform(-4.5, 4.5), rng.uniform(-3.1, 3.1))
        for kind, charge in [(211, 1), (-211, -1), (22, 0)] * 30
    ]
    hard = Events(particles(*inside, n_events=150), [NO_HADRONS] * 150)
    calm, busy = (
        simulate(np.random.default_rng(12), hard, particles(*soft), pileup, 0.0)["Jet"]
        for pileup in (0.0, 20.0)
    )
    means = [np.mean(ak.to_numpy(jets.PT[:, :2])) for jets in (calm, busy)]
    assert means[1] == pytest.approx(means[0], rel=0.03)
    assert ak.mean(ak.num(busy)) - ak.mean(ak.num(calm)) < 0.3


def test_soft_events_have_the_vertex_of_the_event() -> None:
    soft = particles((211, 1, 2.0, 0.5, 0.0))
    event = particles((13, -1, 30.0, 0.0, 0.0)).event(0)
    laid = overlay(np.random.default_rng(4), event, soft, 5.0, 6.0)
    own = laid.vertex[~laid.pileup]
    assert (own[:, 2] == laid.z).all()
    assert len(own) > 1
    assert (laid.vertex[laid.pileup][:, 2] != laid.z).all()


def test_overlaid_events_are_rotated_and_not_stretched() -> None:
    soft = particles((211, 1, 2.0, 0.5, 0.0), (22, 0, 3.0, -1.0, 2.0))
    laid = overlay(np.random.default_rng(4), NOTHING.event(0), soft, 400.0, 0.0)
    pt = np.hypot(laid.momentum[:, 0], laid.momentum[:, 1])
    assert np.sort(np.unique(pt.round(9))) == pytest.approx([2.0, 3.0])
    phi = np.arctan2(laid.momentum[:, 1], laid.momentum[:, 0])
    assert (phi[1::2] - phi[::2]) % (2 * np.pi) == pytest.approx(
        2.0
    )  # the two of an event stay 2 rad apart
    assert np.abs(np.exp(1j * phi[::2]).mean()) < 0.2


def test_mean_pile_up_is_the_one_requested() -> None:
    soft = particles((211, 1, 2.0, 0.5, 0.0))
    rng = np.random.default_rng(6)
    counts = [len(overlay(rng, NOTHING.event(0), soft, 20.0, 0.0).pdg) for _ in range(500)]
    assert np.mean(counts) == pytest.approx(20.0, abs=0.8)
    assert np.var(counts) == pytest.approx(20.0, rel=0.25)


def test_jets_contain_everything_in_their_cone() -> None:
    momentum = particles(
        (211, 1, 40.0, 0.5, 1.0), (22, 0, 20.0, 0.6, 1.1), (211, 1, 30.0, -2.0, -2.0)
    ).momentum
    jets, offsets = cluster(momentum, np.array([0, 3, 3]))
    assert offsets.tolist() == [0, 2, 2]
    jets = jets[np.argsort(jets[:, 2])]
    assert jets[1] == pytest.approx(momentum[:2].sum(axis=0))
    assert jets.sum(axis=0) == pytest.approx(momentum.sum(axis=0))


def test_flavour_is_the_heaviest_nearby() -> None:
    heavy = np.array([[30.0, 0.0, 3.1, 4.0], [30.0, 0.2, -3.1, 5.0], [30.0, 2.0, 1.0, 4.0]])
    assert flavours(
        np.array([0.1, 2.1, -2.0]), np.array([3.1, 1.1, 0.0]), heavy, card.FLAVOUR_CONE
    ).tolist() == [5, 4, 0]


@pytest.mark.parametrize(
    ("flavour", "rates"),
    [(5, (0.837, 0.666, 0.485)), (4, (0.416, 0.188, 0.046)), (0, (0.1, 0.01, 0.001))],
)
def test_tag_bits_are_set_at_the_card_s_rates(flavour: int, rates: tuple[float, ...]) -> None:
    n = 20_000
    bits = tag(
        np.random.default_rng(8),
        card.BTAG,
        np.full(n, 45.0),
        np.full(n, -0.5),
        np.full(n, flavour),
    )
    assert bits.dtype == np.uint32
    for bit, rate in enumerate(rates):
        assert np.mean(bits >> bit & 1) == pytest.approx(rate, abs=0.012)
    assert bits.max() <= 7


def test_jets_that_cannot_be_tagged_are_not() -> None:
    pt, eta = np.array([20.0, 100.0]), np.array([0.0, 3.5])
    rng = np.random.default_rng(9)
    assert sum(tag(rng, card.BTAG, pt, eta, np.array([5, 5])).sum() for _ in range(200)) == 0


def test_the_same_generator_gives_the_same_event() -> None:
    first, second = (
        detect((11, -1, 60.0, 0.5, 1.0), n_events=20),
        detect((11, -1, 60.0, 0.5, 1.0), n_events=20),
    )
    for name in COLLECTIONS:
        assert ak.array_equal(first[name], second[name])


def test_offsets_count_up() -> None:
    assert offsets_of(np.array([2, 0, 3])).tolist() == [0, 2, 2, 5]
