"""Awkward events as flat NumPy arrays with offsets: the form that the compiled functions take."""

from collections.abc import Iterable
from typing import NamedTuple

import awkward as ak
import numpy as np

from hepflow.errors import DataError
from hepflow.schema import COLLECTIONS


class Tracks(NamedTuple):
    """EFlowTrack: momenta in GeV, angles in rad, lengths in mm.

    Those of event ``i`` are ``offsets[i]:offsets[i + 1]``, as in all classes below.
    """

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
    """MissingET: one per event, or none."""

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
    """Return flat arrays of every collection.

    ``events`` are (n,) records with the collections of `hepflow.schema.COLLECTIONS`, each a list of
    records; a missing collection, field or value raises a DataError.
    """
    return Columns(
        Tracks(*_flat(events, "EFlowTrack", "PT Eta Phi X Y Z Charge PID")),
        Neutrals(*_flat(events, "EFlowPhoton", "ET Eta Phi")),
        Neutrals(*_flat(events, "EFlowNeutralHadron", "ET Eta Phi")),
        Leptons(*_flat(events, "Electron", "PT Eta Phi Charge")),
        Leptons(*_flat(events, "MuonTight", "PT Eta Phi Charge")),
        Jets(*_flat(events, "Jet", "PT Eta BTag")),
        Met(*_flat(events, "MissingET", "MET Phi")),
    )


def _flat(events: ak.Array, collection: str, names: str) -> list[np.ndarray]:
    """Return offsets, then one array per field."""
    _require(events.fields, collection, "events: no collection")
    lists = events[collection]
    try:
        counts = ak.to_numpy(ak.num(lists), allow_missing=False)
        arrays, flat = [np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])], ak.flatten(lists)
        for name in names.split():
            _require(ak.fields(lists), name, f"events: {collection!r} has no field")
            values = ak.to_numpy(flat[name], allow_missing=False)
            arrays.append(np.ascontiguousarray(values, dtype=COLLECTIONS[collection][name]))
    except ValueError as error:
        what = f"{collection!r} has missing values ({error})"
        raise DataError(f"events: {what}. Ingest the files again.") from error
    return _fixed(arrays)


def _fixed(arrays: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return read-only views: numba compiles for 15 s for each of the two kinds of arrays."""
    views = [values.view() for values in arrays]
    for view in views:
        view.flags.writeable = False
    return views


def _require(names: list[str], name: str, what: str) -> None:
    if name not in names:
        advice = "Give the output of `hepflow ingest`."
        raise DataError(f"{what} {name!r}, only {', '.join(names)}. {advice}")


def take(flat: Columns, keep: np.ndarray) -> Columns:
    """Return the events of a mask."""
    parts = []
    for column in flat:
        counts = np.diff(column.offsets)
        inside = np.repeat(keep, counts)
        offsets = np.concatenate([[0], np.cumsum(counts[keep])])
        parts.append(type(column)(*_fixed([offsets, *(values[inside] for values in column[1:])])))
    return Columns._make(parts)
