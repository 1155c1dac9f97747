"""Keep what can still pass the trigger: events with a hard lepton, and in them the particles that any later stage looks at."""

import awkward as ak
import numpy as np

LEPTON_PT = 23.0
"""GeV, strict; of electrons and muons, isolated or not."""
SOFT = {"EFlowTrack": ("PT", 0.5), "EFlowPhoton": ("ET", 1.0), "EFlowNeutralHadron": ("ET", 1.0)}
"""Collection -> the field and the GeV it must exceed: softer particles enter neither the isolation nor the features."""
LEPTONS = ("Electron", "MuonTight")
NOT_FINITE = "NaN or infinite values"
NO_LEPTON = f"no lepton above {LEPTON_PT:g} GeV"


def has_lepton(events: ak.Array) -> np.ndarray:
    """Which events have an electron or a muon above `LEPTON_PT`; (n,) bool."""
    hard = [ak.any(events[flavour, "PT"] > LEPTON_PT, axis=1) for flavour in LEPTONS]
    return ak.to_numpy(hard[0] | hard[1])


def drop_soft(events: ak.Array) -> ak.Array:
    """The same events without the particles of `SOFT` at or below their thresholds.

    Parameters
    ----------
    events : (n,) records with one list of structs a collection; those of `SOFT` that it has are thinned
    """
    columns = {name: events[name] for name in events.fields}
    for name, (field, threshold) in SOFT.items():
        if name in columns:
            columns[name] = columns[name][columns[name][field] > threshold]
    return ak.zip(columns, depth_limit=1)


def is_finite(events: ak.Array) -> np.ndarray:
    """Which events have no NaN and no infinity in any floating-point field; (n,) bool."""
    good = np.ones(len(events), dtype=bool)
    for name in events.fields:
        for field in events[name].fields:
            values = events[name, field]
            flat = ak.to_numpy(values.layout.content)
            if flat.dtype.kind == "f" and not np.isfinite(flat).all():
                good &= ak.to_numpy(ak.all(np.isfinite(values), axis=1))
    return good
