"""Awkward events as flat NumPy arrays with offsets: the form that the compiled functions take."""

from collections.abc import Iterable, Mapping
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


_FIELDS: Mapping[str, tuple[type, str]] = {
    "EFlowTrack": (Tracks, "PT Eta Phi X Y Z Charge PID"),
    "EFlowPhoton": (Neutrals, "ET Eta Phi"),
    "EFlowNeutralHadron": (Neutrals, "ET Eta Phi"),
    "Electron": (Leptons, "PT Eta Phi Charge"),
    "MuonTight": (Leptons, "PT Eta Phi Charge"),
    "Jet": (Jets, "PT Eta BTag"),
    "MissingET": (Met, "MET Phi"),
}
"""Collection -> its class and fields, in the order of `Columns`."""

Flat = Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray]]]
"""Collection -> offsets (n + 1) int64 from 0, and the values of each field one after the other."""


def columns(events: ak.Array) -> Columns:
    """Return flat arrays of every collection.

    ``events`` are (n,) records with the collections of `hepflow.schema.COLLECTIONS`, each a list of
    records; a missing collection, field or value raises a DataError.
    """
    return Columns._make(
        kind(*_flat(events, name, names)) for name, (kind, names) in _FIELDS.items()
    )


def columns_of(flat: Flat) -> Columns:
    """Return the same of flat arrays, of the types of `hepflow.schema.COLLECTIONS`."""
    found = []
    for name, (kind, names) in _FIELDS.items():
        offsets, values = flat[name]
        found.append(kind(*_fixed([offsets, *(values[field] for field in names.split())])))
    return Columns._make(found)


def mark_infinite(finite: np.ndarray, offsets: np.ndarray, arrays: Iterable[np.ndarray]) -> None:
    """Set ``finite``, (n) bool, to False where a value of an event is NaN or infinite."""
    for values in arrays:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            event = np.repeat(np.arange(len(finite)), np.diff(offsets))
            finite[event[~np.isfinite(values)]] = False


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
