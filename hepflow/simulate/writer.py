"""Simulated events -> a ROOT file in Delphes' layout, whole or not at all.

The same events give the same bytes, so that a checksum tells whether two samples are the same.
"""

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path

import awkward as ak
import uproot

from hepflow.schema import COLLECTIONS, TREE
from hepflow.system.files import whole

_UNSIGNED = {"BTag": "uint32"}
# 1995-01-01 00:00:00, the first second of ROOT's clock
_EPOCH = 1 << 22 | 1 << 17


def write_events(path: Path, collections: Mapping[str, ak.Array], identity: uuid.UUID) -> None:
    """Write a Delphes-layout file.

    ``collections`` are (events, var) records with the fields of ``schema.COLLECTIONS``;
    ``identity`` is the file's, and identifies events together with their entry.
    """
    types = {}
    for name, fields in COLLECTIONS.items():
        members = ", ".join(
            f"{field}: {_UNSIGNED.get(field, kind)}" for field, kind in fields.items()
        )
        types[name] = f"var * {{{members}}}"
    draft = path.with_name(f".{path.name}.part")  # ROOT files contain the name they are written by
    try:
        with uproot.recreate(
            draft, compression=uproot.ZSTD(5), uuid_function=lambda: identity
        ) as file:
            tree = file.mktree(
                TREE,
                types,
                title="Analysis tree",
                counter_name=lambda collection: f"{collection}_size",
                field_name=lambda collection, field: f"{collection}.{field}",
            )
            tree.extend({name: collections[name] for name in COLLECTIONS})
        with whole(path) as part:
            part.write_bytes(_with_stopped_clock(draft))
    finally:
        draft.unlink(missing_ok=True)


def _with_stopped_clock(path: Path) -> bytearray:
    """Return a ROOT file with all times set to one second: bytes that depend only on its content.

    A file is a header and records (https://root.cern.ch/doc/master/classTFile.html). A record
    begins with a key: its length at byte 0, its time at byte 10, the key's length at byte 14. The
    root directory has two more times, and its list of keys repeats their headers. The rest, left
    over from writing, is cleared.
    """
    old = path.read_bytes()
    begin, _, free, _, _, n_name = struct.unpack_from(">6i", old, 8)
    with uproot.open(path) as file:
        info, keys, tree = file.file.fSeekInfo, file.fSeekKeys, file.key(TREE).fSeekKey
        baskets = [
            int(seek)
            for branch in file[TREE].branches
            for seek in branch.member("fBasketSeek")[: branch.num_baskets]
        ]
    data = bytearray(len(old))
    data[:begin] = old[:begin]
    for at in (begin, free, info, keys, tree, *baskets):
        end = at + struct.unpack_from(">i", old, at)[0]
        data[at:end] = old[at:end]
        struct.pack_into(">I", data, at + 10, _EPOCH)
    struct.pack_into(">2I", data, begin + n_name + 2, _EPOCH, _EPOCH)
    at = keys + struct.unpack_from(">h", data, keys + 14)[0]
    (n_keys,) = struct.unpack_from(">i", data, at)
    at += 4
    for _ in range(n_keys):
        struct.pack_into(">I", data, at + 10, _EPOCH)
        at += struct.unpack_from(">h", data, at + 14)[0]
    return data
