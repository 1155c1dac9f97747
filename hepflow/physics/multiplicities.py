"""Events -> numbers and sums of candidates and soft jets, and where the candidates lie.

Nets read the particles, so a simulation may have the right high-level features and still be told
from data. Of events, the quantities are those of all candidates above the cuts; of a feature store,
those of the particles that it lists: at most 450, 150 and 200, without the lepton's own tracks.
"""

from collections.abc import Sequence

import numpy as np

from hepflow.physics.columns import Columns
from hepflow.physics.skim import NEUTRAL_ET, TRACK_PT
from hepflow.schema import Feature

SOFT_JET_PT = 15.0
"""Smallest pT of a jet for ``nJets15``, GeV, strict; at any pseudorapidity."""
FORWARD_ETA = 2.5
"""Largest absolute pseudorapidity of tracks that are not forward."""

NUMBERS = tuple(Feature(name, "1") for name in ("nTracks", "nPhotons", "nNeutral"))
SUMS = tuple(Feature(f"sum{name}", "GeV") for name in ("PtTracks", "EtPhotons", "EtNeutral"))
SHAPE = (Feature("fracForward", "1"), Feature("rmsZ", "mm"))
"""Share of the tracks that are forward, and the standard deviation of their vertices along z."""
OF_EVENTS = (*NUMBERS, Feature("nJets15", "1"), *SUMS, *SHAPE)
"""Quantities of `of_columns`."""
_FLAGS = ("isChHad", "isGamma", "isNeuHad")


def of_columns(c: Columns) -> np.ndarray:
    """Return the quantities `OF_EVENTS` of flat arrays, (n, quantities) float64."""
    n = len(c.tracks.offsets) - 1
    groups = ((c.tracks, TRACK_PT), (c.photons, NEUTRAL_ET), (c.hadrons, NEUTRAL_ET))
    chosen = [(_events(group.offsets), group.pt, group.pt > cut) for group, cut in groups]
    numbers = [_sum(event[own], n) for event, _, own in chosen]
    sums = [_sum(event[own], n, pt[own]) for event, pt, own in chosen]
    jets = _sum(_events(c.jets.offsets)[c.jets.pt > SOFT_JET_PT], n)
    event, _, own = chosen[0]
    shape = _shape(event[own], n, c.tracks.eta[own], c.tracks.z[own])
    return np.stack([*numbers, jets, *sums, *shape], axis=1)


def listed(particles: Sequence[Feature]) -> tuple[Feature, ...]:
    """Return the quantities of `of_particles`, as particles with these features allow them.

    Of scaled features, which have no units, particles can be counted but not summed.
    """
    units = {feature.name: feature.unit for feature in particles}
    if not units.keys() >= {*_FLAGS}:
        return ()
    sums = SUMS if units.get("Pt") == "GeV" else ()
    shape = SHAPE if sums and "Eta" in units and units.get("vtxZ") == "mm" else ()
    return (*NUMBERS, *sums, *shape)


def of_particles(
    particles: np.ndarray, offsets: np.ndarray, features: Sequence[Feature]
) -> np.ndarray:
    """Return the quantities `listed` of the particles of a store, (n, quantities) float64."""
    n, event, wanted = len(offsets) - 1, _events(offsets), listed(features)
    column = {feature.name: particles[:, i] for i, feature in enumerate(features)}
    kinds = [column[flag] > 0 for flag in _FLAGS if wanted]
    found = [_sum(event[own], n) for own in kinds]
    if SUMS[0] in wanted:
        found += [_sum(event[own], n, column["Pt"][own]) for own in kinds]
    if SHAPE[0] in wanted:
        tracks = kinds[0]
        found += _shape(event[tracks], n, column["Eta"][tracks], column["vtxZ"][tracks])
    return np.stack(found, axis=1) if found else np.empty((n, 0))


def _events(offsets: np.ndarray) -> np.ndarray:
    """Return the event of each candidate."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def _sum(event: np.ndarray, n: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the sum of the weights, or the number, of the candidates of each event, (n)."""
    return np.bincount(event, weights, minlength=n).astype(np.float64)


def _shape(event: np.ndarray, n: int, eta: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
    """Return the quantities `SHAPE` of tracks; 0 for an event without tracks."""
    n_tracks = np.maximum(_sum(event, n), 1)
    forward = _sum(event[np.abs(eta) > FORWARD_ETA], n) / n_tracks
    from_mean = z - (_sum(event, n, z) / n_tracks)[event]
    return [forward, np.sqrt(_sum(event, n, from_mean**2) / n_tracks)]
