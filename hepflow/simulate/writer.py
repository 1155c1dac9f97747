"""Simulated events -> a ROOT file in Delphes' layout. It appears whole or not at all, and the same events give the same bytes."""

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path

import awkward as ak
import uproot

from hepflow.schema import COLLECTIONS, TREE
from hepflow.system.files import whole

_UNSIGNED = {"BTag": "uint32"}
# 1995-01-01 00:00:00, the first second that ROOT can tell
_EPOCH = 1 << 22 | 1 << 17


def write_events(path: Path, collections: Mapping[str, ak.Array], identity: uuid.UUID) -> None:
    """Write a Delphes-layout file.

    Parameters
    ----------
    path : Path
    collections : mapping
        Delphes collection -> (events, var) records with the fields of ``schema.COLLECTIONS``.
    identity : UUID
        The file's; events are known by it and their entry.
    """
    with whole(path) as part:
        with uproot.recreate(
            part, compression=uproot.ZSTD(5), uuid_function=lambda: identity
        ) as file:
            tree = file.mktree(
                TREE,
                {name: _record_type(fields) for name, fields in COLLECTIONS.items()},
                title="Analysis tree",
                counter_name=lambda collection: f"{collection}_size",
                field_name=lambda collection, field: f"{collection}.{field}",
            )
            tree.extend({name: collections[name] for name in COLLECTIONS})
        _stop_clock(part)


def _record_type(fields: Mapping[str, str]) -> str:
    members = ", ".join(f"{name}: {_UNSIGNED.get(name, kind)}" for name, kind in fields.items())
    return f"var * {{{members}}}"


def _stop_clock(path: Path) -> None:
    """Set the times in a ROOT file to one fixed second, so that its bytes depend on its content alone.

    A file is a header and records, each of which begins with a key: its length at byte 0, its time at byte 10, the length of the key at 14
    (https://root.cern.ch/doc/master/classTFile.html). The root directory holds two more times, and the list of its keys repeats their
    headers. What lies between the records is left over from writing, and is cleared.
    """
    old = path.read_bytes()
    begin, _, free, _, _, n_name = struct.unpack_from(">6i", old, 8)
    with uproot.open(path) as file:
        baskets = [
            seek
            for branch in file[TREE].branches
            for seek in branch.member("fBasketSeek")[: branch.num_baskets]
        ]
        seeks = [
            begin,
            free,
            file.file.fSeekInfo,
            file.fSeekKeys,
            file.key(TREE).fSeekKey,
            *map(int, baskets),
        ]
        keys = file.fSeekKeys
    data = bytearray(len(old))
    data[:begin] = old[:begin]
    for at in seeks:
        end = at + struct.unpack_from(">i", old, at)[0]
        data[at:end] = old[at:end]
        struct.pack_into(">I", data, at + 10, _EPOCH)
    struct.pack_into(">2I", data, begin + n_name + 2, _EPOCH, _EPOCH)
    at = keys + _key_length(data, keys)
    n_keys = struct.unpack_from(">i", data, at)[0]
    at += 4
    for _ in range(n_keys):
        struct.pack_into(">I", data, at + 10, _EPOCH)
        at += _key_length(data, at)
    path.write_bytes(data)


def _key_length(data: bytearray, at: int) -> int:
    return struct.unpack_from(">h", data, at + 14)[0]
