"""Rivals of the features benchmark: the same quantities without a compiler.

``per_event`` does the work of the 2019 pipeline, one event at a time: one Lorentz vector object per
particle, and for each particle three cones by NumPy masks over the event's lists. ``isolations`` is
the vectorised awkward version of the cones alone, by `ak.cartesian`.
"""

import math

import awkward as ak
import numpy as np

CONE = 0.3
TURN = 2 * math.pi


class Vector:
    """A massless four-momentum."""

    def __init__(self, pt: float, eta: float, phi: float) -> None:
        self.px, self.py, self.pz = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)
        self.energy = math.sqrt(self.px**2 + self.py**2 + self.pz**2)

    def pt(self) -> float:
        return math.sqrt(self.px**2 + self.py**2)

    def eta(self) -> float:
        cosine = self.pz / self.energy
        return -0.5 * math.log((1.0 - cosine) / (1.0 + cosine))

    def phi(self) -> float:
        return math.atan2(self.py, self.px)

    def delta_r(self, other: "Vector") -> float:
        return math.hypot(
            self.eta() - other.eta(), math.remainder(self.phi() - other.phi(), 2 * math.pi)
        )


def cone(vector: Vector, table: np.ndarray) -> float:
    """Return the relative isolation from an (n, 3) table of eta, phi, pT, wrapped as in 2019."""
    d_eta, d_phi = table[:, 0] - vector.eta(), table[:, 1] - vector.phi()
    d_phi = d_phi - TURN * (d_phi > TURN) + TURN * (d_phi < -TURN)
    return float(table[d_eta * d_eta + d_phi * d_phi < CONE * CONE, 2].sum() / vector.pt())


def per_event(event: dict) -> tuple[list[float], list[list[float]]] | None:
    """Return the high-level features and the padded list of 801 particles of an event."""
    specs = (
        ("EFlowTrack", "PT", 0.5),
        ("EFlowPhoton", "ET", 1.0),
        ("EFlowNeutralHadron", "ET", 1.0),
    )
    tables = [
        np.asarray([[c["Eta"], c["Phi"], c[pt]] for c in event[name] if c[pt] > cut])
        for name, pt, cut in specs
    ]
    if any(len(table) == 0 for table in tables):
        return None
    found = _lepton(event, tables)
    return None if found is None else _features(event, tables, specs, found)


def _lepton(event: dict, tables: list[np.ndarray]) -> tuple | None:
    found = None
    for name, one_hot in (("Electron", [1.0, 0.0]), ("MuonTight", [0.0, 1.0])):
        for source in event[name]:
            if source["PT"] <= 23.0:
                continue
            vector = Vector(source["PT"], source["Eta"], source["Phi"])
            charged, gamma, neutral = (
                cone(vector, tables[0]) - 1.0,
                cone(vector, tables[1]),
                cone(vector, tables[2]),
            )
            if found is None and charged + gamma + neutral < 0.45:
                found = vector, [charged, gamma, neutral], one_hot, float(source["Charge"])
    return found


def _features(
    event: dict, tables: list[np.ndarray], specs: tuple, found: tuple
) -> tuple[list[float], list[list[float]]]:
    vector, isolation, one_hot, charge = found
    particles = [[*_momentum(vector), 0.0, 0.0, 0.0, *isolation, 0.0, 0.0, 0.0, *one_hot, charge]]
    for (name, pt, cut), kind, cap in zip(
        specs, ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]), (450, 150, 200), strict=True
    ):
        n = 0
        for c in event[name]:
            if n >= cap or c[pt] <= cut:
                continue
            candidate = Vector(c[pt], c["Eta"], c["Phi"])
            is_track = name == "EFlowTrack"
            if is_track and vector.delta_r(candidate) <= 1e-4:
                continue
            cones = [
                cone(candidate, tables[0]) - 1.0,
                cone(candidate, tables[1]),
                cone(candidate, tables[2]),
            ]
            vertex = [c["X"], c["Y"], c["Z"]] if is_track else [0.0, 0.0, 0.0]
            sign = float(np.sign(c["PID"])) if is_track else 0.0
            particles.append([*_momentum(candidate), *vertex, *cones, *kind, 0.0, 0.0, sign])
            n += 1
    particles += [[0.0] * 19 for _ in range(801 - len(particles))]
    return _high_level(event, vector, isolation, one_hot, charge), particles


def isolations(events: ak.Array) -> list[ak.Array]:
    """Return the isolations of every candidate by kind, for a whole chunk of events at once."""
    kinds = []
    for name, pt, cut in (
        ("EFlowTrack", "PT", 0.5),
        ("EFlowPhoton", "ET", 1.0),
        ("EFlowNeutralHadron", "ET", 1.0),
    ):
        selected = events[name][events[name][pt] > cut]
        kinds.append(ak.zip({"pt": selected[pt], "eta": selected["Eta"], "phi": selected["Phi"]}))
    everything = ak.concatenate(kinds, axis=1)
    sums = []
    for kind in kinds:
        one, other = ak.unzip(ak.cartesian([everything, kind], axis=1, nested=True))
        near = (one.eta - other.eta) ** 2 + (one.phi - other.phi) ** 2 < CONE * CONE
        sums.append(ak.sum(ak.where(near, other.pt, 0.0), axis=2) / everything.pt)
    return sums


def _momentum(v: Vector) -> list[float]:
    return [v.energy, v.px, v.py, v.pz, v.pt(), v.eta(), v.phi()]


def _high_level(
    event: dict, vector: Vector, isolation: list[float], one_hot: list[float], charge: float
) -> list[float]:
    met = event["MissingET"][0]
    jets = [jet for jet in event["Jet"] if jet["PT"] > 30 and abs(jet["Eta"]) < 2.6]
    mt = 2.0 * met["MET"] * vector.pt() * (1 - math.cos(vector.phi() - met["Phi"]))
    n_b = sum(1 for jet in jets if jet["BTag"] > 0)
    high = [
        sum(jet["PT"] for jet in jets),
        met["MET"],
        met["Phi"],
        mt,
        len(jets),
        n_b,
        vector.pt(),
        vector.eta(),
        vector.phi(),
    ]
    return [*high, *isolation, charge, one_hot[0]]
