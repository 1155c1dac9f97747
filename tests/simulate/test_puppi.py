"""PUPPI: properties of the weights, a plain version of them, and the jets of real Delphes files."""

import math
from pathlib import Path

import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastjet", reason="pip install 'hepflow[simulate]'")


from hepflow.simulate import card
from hepflow.simulate.jets import cluster
from hepflow.simulate.particles import offsets_of, pt_eta_phi
from hepflow.simulate.puppi import (
    LEPTON,
    NEUTRAL,
    PILE_UP,
    VERTEX,
    centre_and_width,
    weighted,
    weights,
)

pytestmark = pytest.mark.slow

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
seeds = st.integers(0, 2**32 - 1)


def event(seed: int, n_own: int = 60, n_pileup: int = 250, n_neutral: int = 300) -> Columns:
    """Momenta, rapidities and origins: two jets of the vertex, and soft particles everywhere."""
    rng = np.random.default_rng(seed)
    origin = np.repeat([VERTEX, PILE_UP, NEUTRAL], [n_own, n_pileup, n_neutral])
    pt = 0.2 + rng.exponential(0.8, len(origin))
    eta = rng.uniform(-4.9, 4.9, len(origin))
    eta[origin != NEUTRAL] *= 4.0 / 4.9
    phi = rng.uniform(-np.pi, np.pi, len(origin))
    for centre in ((0.7, 3.1), (-2.2, 0.3)):  # the first lies across the seam of phi
        inside = (origin != PILE_UP) & (rng.random(len(origin)) < 0.15)
        pt[inside] *= 8
        eta[inside] = rng.normal(centre[0], 0.1, inside.sum())
        phi[inside] = (rng.normal(centre[1], 0.1, inside.sum()) + np.pi) % (2 * np.pi) - np.pi
    moved = np.where(origin == NEUTRAL, eta, np.arcsinh(1.03 * np.sinh(eta)))  # by their mass
    return np.stack([pt, moved, phi], axis=1), eta, origin


def plain(columns: Columns, n_vertices: int) -> list[float]:
    """Return the weights by loops over particles, with probabilities of a chi-squared."""
    (pt, eta, phi), rapidity, origin = (column.T.tolist() for column in columns)
    n = range(len(pt))
    edges = [0.0, *card.PUPPI.eta.tolist()]
    bins = [next(b for b in range(3) if abs(eta[i]) <= edges[b + 1]) for i in n]

    def alpha(i: int) -> float:
        total = 0.0
        for j in n:
            if card.PUPPI.by_tracks[bins[i]] and origin[j] != VERTEX:
                continue
            turn = abs(phi[i] - phi[j]) % (2 * math.pi)
            turn = min(turn, 2 * math.pi - turn)
            squared = (eta[i] - eta[j]) ** 2 + turn**2
            if squared >= 1e-4 and (rapidity[i] - rapidity[j]) ** 2 + turn**2 <= 0.2**2:
                total += pt[j] ** 2 / squared
        return math.log(total) if total else 0.0

    values = [alpha(i) for i in n]
    found = int(0.7 * n_vertices) if PILE_UP in origin else 1
    out = []
    for i in n:
        if origin[i] != NEUTRAL:
            out.append(1.0 if origin[i] == VERTEX else 0.0)
            continue
        b = bins[i]
        there = [j for j in n if bins[j] == b and pt[j] >= card.PUPPI.sample_pt[b]]
        kinds = {VERTEX, PILE_UP} if card.PUPPI.by_tracks[b] else {NEUTRAL, VERTEX, PILE_UP}
        sample = sorted(values[j] for j in there if origin[j] in kinds)
        weight = 1.0
        if sample:
            start = max((k for k, value in enumerate(sample) if value == 0.0), default=0)
            median = sample[start + int(0.5 * (len(sample) - start))]
            squares = [(v - median) ** 2 for v in sample if v != 0.0 and v <= median]
            rms = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
            rms = rms if rms > 0 else math.sqrt(1e-5)
            z = (values[i] - median) / rms
            weight = 0.0
            if values[i] != 0.0 and values[i] > median:
                weight = math.erf(math.sqrt(z * z / 2))  # chi-squared of one degree of freedom
        cut = card.PUPPI.min_pt[b] + found * card.PUPPI.slope[b]
        out.append(weight if weight >= 0.05 and weight * pt[i] >= cut else 0.0)
    return out


@pytest.mark.parametrize(
    "sizes", [(60, 250, 300), (3, 40, 80), (0, 30, 40), (20, 0, 50), (0, 0, 9)]
)
def test_weights_are_those_of_a_plain_version(sizes: tuple[int, int, int]) -> None:
    for seed in range(3):
        columns = event(seed, *sizes)
        assert weights(*columns, 21) == pytest.approx(plain(columns, 21), abs=1e-9)


@given(seed=seeds)
def test_weights_of_tracks_tell_the_vertex_and_those_of_neutrals_are_probabilities(
    seed: int,
) -> None:
    momentum, rapidity, origin = event(seed)
    weight = weights(momentum, rapidity, origin, 21)
    assert (weight[origin == VERTEX] == 1.0).all()
    assert (weight[origin == PILE_UP] == 0.0).all()
    neutral = weight[origin == NEUTRAL]
    assert ((neutral == 0.0) | (neutral >= card.PUPPI_MIN_WEIGHT)).all()
    assert neutral.max() <= 1.0


@given(seed=seeds, angle=st.floats(-3.0, 3.0))
def test_a_rotated_event_has_the_same_weights(seed: int, angle: float) -> None:
    momentum, rapidity, origin = event(seed)
    turned = momentum * [1.0, -1.0, 1.0]
    turned[:, 2] = (momentum[:, 2] + angle + np.pi) % (2 * np.pi) - np.pi
    one, other = weights(momentum, rapidity, origin, 21), weights(turned, -rapidity, origin, 21)
    assert np.mean(np.abs(one - other) > 1e-6) < 0.01  # but for neighbours just at the cone's edge


@given(seed=seeds)
def test_without_tracks_only_the_softest_neutrals_are_dropped(seed: int) -> None:
    momentum, rapidity, origin = event(seed, n_own=0, n_pileup=0)
    pt, eta, _ = momentum.T
    central = (origin == NEUTRAL) & (np.abs(eta) <= 4.0)
    expected = pt >= np.where(np.abs(eta) <= 1.5, 0.206, 0.213)
    weight = weights(momentum, rapidity, origin, 1)
    assert (weight[central] == expected[central]).all()


def test_neutrals_near_the_vertex_s_tracks_stay_and_those_near_none_go() -> None:
    momentum, rapidity, origin = event(7)
    far = (np.abs(momentum[:, 1:] - [1.4, -1.5]) > 0.25).any(axis=1) | (origin != VERTEX)
    extra = np.array([[20.0, 0.0, -1.5], [5.0, 0.1, -1.5], [5.0, 1.4, -1.5]])
    weight = weights(
        np.concatenate([momentum[far], extra]),
        np.concatenate([rapidity[far], extra[:, 1]]),
        np.append(origin[far], [VERTEX, NEUTRAL, NEUTRAL]),
        21,
    )
    assert weight[-2] > 0.95
    assert weight[-1] == 0.0


def test_more_vertices_raise_the_smallest_pt_of_neutrals() -> None:
    momentum, rapidity, origin = event(8)
    pt, eta, _ = momentum.T
    few, many = (weights(momentum, rapidity, origin, n) for n in (10, 200))
    row = np.searchsorted(card.PUPPI.eta, np.abs(eta))
    least = card.PUPPI.min_pt[row] + card.PUPPI.slope[row] * 140
    neutral, dropped, kept = origin == NEUTRAL, (few > 0) & (many == 0), many > 0
    assert dropped.sum() > 3
    assert (few * pt < least)[dropped].all()
    assert (many * pt >= least)[kept & neutral].all()
    assert many[kept].tolist() == few[kept].tolist()


def test_centre_and_width_are_the_median_and_the_rms_below_it() -> None:
    sample = np.random.default_rng(9).normal(3.0, 0.5, 20_000)
    above = np.append(sample, sample[sample > 4.0] + 5.0)  # a tail of jets widens nothing
    assert centre_and_width(sample) == pytest.approx((3.0, 0.5), abs=0.02)
    assert centre_and_width(above) == pytest.approx((3.0, 0.5), abs=0.05)


TOWERS = ("EFlowPhoton", "EFlowNeutralHadron")


@pytest.mark.parametrize(("name", "n_jets"), [("qcd", 39), ("ttbar", 83), ("wjets", 22)])
def test_the_jets_are_those_of_delphes(shared: Path, name: str, n_jets: int) -> None:
    """From its tracks and towers; its photons are smeared by 1 % after they are written."""
    path = shared / "delphes" / f"PhaseII_20PU_{name}.root"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with uproot.open(path) as file:
        tracks = [
            f"EFlowTrack.{field}" for field in ("PT", "Eta", "Phi", "Mass", "PID", "IsRecoPU")
        ]
        towers = [f"{kind}.{field}" for kind in TOWERS for field in ("ET", "Eta", "Phi")]
        jets = [f"Jet.{field}" for field in ("PT", "Eta", "Phi")]
        rows = file["Delphes"].arrays([*tracks, *towers, *jets, "Vertex_size"], library="np")
    ratios = []
    for i, n_vertices in enumerate(rows.pop("Vertex_size")):
        one = {key: np.asarray(column[i], float) for key, column in rows.items()}
        pt = np.concatenate([one["EFlowTrack.PT"], *(one[f"{kind}.ET"] for kind in TOWERS)])
        eta, phi = (
            np.concatenate([one[f"{kind}.{field}"] for kind in ("EFlowTrack", *TOWERS)])
            for field in ("Eta", "Phi")
        )
        mass, origin, pid = np.zeros(len(pt)), np.full(len(pt), NEUTRAL), np.zeros(len(pt))
        n_tracks = len(one["EFlowTrack.PT"])
        mass[:n_tracks], pid[:n_tracks] = one["EFlowTrack.Mass"], one["EFlowTrack.PID"]
        origin[:n_tracks] = np.where(one["EFlowTrack.IsRecoPU"] > 0, PILE_UP, VERTEX)
        origin[np.isin(np.abs(pid), (11, 13))] = LEPTON
        momentum = weighted(pt, eta, phi, mass, origin, int(n_vertices))
        found, _ = cluster(momentum, offsets_of([len(momentum)]))
        found_pt, found_eta, found_phi = pt_eta_phi(found)
        assert len(found) == len(one["Jet.PT"])
        for jet_pt, jet_eta, jet_phi in zip(*(one[field] for field in jets), strict=True):
            d_phi = (found_phi - jet_phi + np.pi) % (2 * np.pi) - np.pi
            apart = np.hypot(found_eta - jet_eta, d_phi)
            assert apart.min() < 0.02
            ratios.append(found_pt[np.argmin(apart)] / jet_pt)
    assert len(ratios) == n_jets
    assert ratios == pytest.approx(np.ones(n_jets), abs=0.02)
