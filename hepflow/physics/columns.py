"""Events as flat arrays: awkward record lists in, NumPy arrays and offsets out, the form that the compiled functions take."""

from typing import NamedTuple

import awkward as ak
import numpy as np

from hepflow.errors import DataError
from hepflow.schema import COLLECTIONS, FLOAT


class Tracks(NamedTuple):
    """EFlowTrack: momenta in GeV, angles in rad, lengths in mm; those of event ``i`` are ``offsets[i]:offsets[i + 1]``."""

    offsets: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    charge: np.ndarray
    pid: np.ndarray


class Neutrals(NamedTuple):
    """EFlowPhoton or EFlowNeutralHadron."""

    offsets: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray


class Leptons(NamedTuple):
    """Electron or MuonTight."""

    offsets: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    charge: np.ndarray


class Jets(NamedTuple):
    """Jet."""

    offsets: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    btag: np.ndarray


class Met(NamedTuple):
    """MissingET: one an event, or none."""

    offsets: np.ndarray
    met: np.ndarray
    phi: np.ndarray


class Columns(NamedTuple):
    """All collections of a chunk of events."""

    tracks: Tracks
    photons: Neutrals
    hadrons: Neutrals
    electrons: Leptons
    muons: Leptons
    jets: Jets
    met: Met


def columns(events: ak.Array) -> Columns:
    """Flat arrays of every collection.

    Parameters
    ----------
    events : (n,) records with the collections of `hepflow.schema.COLLECTIONS`, each a list of records

    Raises
    ------
    DataError
        A collection or a field is missing, or has missing values.
    """
    neutral = ("ET", "Eta", "Phi")
    lepton = ("PT", "Eta", "Phi", "Charge")
    return Columns(
        Tracks(*_flat(events, "EFlowTrack", ("PT", "Eta", "Phi", "X", "Y", "Z", "Charge", "PID"))),
        Neutrals(*_flat(events, "EFlowPhoton", neutral)),
        Neutrals(*_flat(events, "EFlowNeutralHadron", neutral)),
        Leptons(*_flat(events, "Electron", lepton)),
        Leptons(*_flat(events, "MuonTight", lepton)),
        Jets(*_flat(events, "Jet", ("PT", "Eta", "BTag"))),
        Met(*_flat(events, "MissingET", ("MET", "Phi"))),
    )


def _flat(events: ak.Array, collection: str, names: tuple[str, ...]) -> list[np.ndarray]:
    if collection not in events.fields:
        raise DataError(
            f"the events have no collection {collection!r}, only {', '.join(events.fields)}. Were they written by `hepflow ingest`?"
        )
    lists = events[collection]
    fields = ak.fields(lists)
    for name in names:
        if name not in fields:
            raise DataError(
                f"the events' {collection!r} have no field {name!r}, only {', '.join(fields)}. Were they written by `hepflow ingest`?"
            )
    try:
        counts = ak.to_numpy(ak.num(lists), allow_missing=False)
        flat = ak.flatten(lists)
        arrays = [ak.to_numpy(flat[name], allow_missing=False) for name in names]
    except ValueError as error:
        raise DataError(
            f"the events' collection {collection!r} has missing values ({error}). Ingest the files again."
        ) from error
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    types = (COLLECTIONS[collection][name] for name in names)
    return [
        offsets,
        *(
            np.ascontiguousarray(a, dtype=np.float32 if t == FLOAT else np.int32)
            for a, t in zip(arrays, types, strict=True)
        ),
    ]
