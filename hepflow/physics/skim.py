"""Keep events that can still pass the trigger, with a hard lepton, without their soft particles.

The cuts below are the only ones of their kind: ingest, the selection, the simulation and scoring
with a user's own physics take them from here.
"""

import awkward as ak
import numpy as np

LEPTON_PT = 23.0
"""Smallest pT of the trigger's electron or muon, GeV, strict (the reference's selection)."""
TRACK_PT = 0.5  # smallest pT of a track, GeV, strict
NEUTRAL_ET = 1.0  # smallest ET of a photon or a neutral hadron, GeV, strict
SOFT = {"EFlowTrack": ("PT", TRACK_PT), "EFlowPhoton": ("ET", NEUTRAL_ET)}
SOFT |= {"EFlowNeutralHadron": ("ET", NEUTRAL_ET)}
"""Collection -> field and cut: softer particles enter neither the isolation nor the features."""
LEPTONS = ("Electron", "MuonTight")
NOT_FINITE = "NaN or infinite values"
NO_LEPTON = f"no lepton above {LEPTON_PT:g} GeV"


def has_lepton(events: ak.Array) -> np.ndarray:
    """Return which events have an electron or a muon above `LEPTON_PT`; (n,) bool."""
    hard = [ak.any(events[flavour, "PT"] > LEPTON_PT, axis=1) for flavour in LEPTONS]
    return ak.to_numpy(hard[0] | hard[1])


def drop_soft(events: ak.Array) -> ak.Array:
    """Return the events without the particles at or below the cuts of `SOFT`.

    ``events`` are (n,) records with one list of structs per collection, not necessarily all.
    """
    columns = {name: events[name] for name in events.fields}
    for name, (field, threshold) in SOFT.items():
        if name in columns:
            columns[name] = columns[name][columns[name][field] > threshold]
    return ak.zip(columns, depth_limit=1)


def is_finite(events: ak.Array) -> np.ndarray:
    """Return which events have only finite numbers; (n,) bool."""
    good = np.ones(len(events), dtype=bool)
    for name in events.fields:
        for field in events[name].fields:
            values = events[name, field]
            flat = ak.to_numpy(values.layout.content)
            if flat.dtype.kind == "f" and not np.isfinite(flat).all():
                good &= ak.to_numpy(ak.all(np.isfinite(values), axis=1))
    return good
