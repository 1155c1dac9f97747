"""Simulated events -> a ROOT file in Delphes' layout, whole or not at all.

The same events give the same bytes, so that a checksum tells whether two samples are the same.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import awkward as ak
import uproot

from hepflow.schema import COLLECTIONS, TREE
from hepflow.system.publishing import new_folder, publish
from hepflow.system.remote import is_remote

_UNSIGNED = {"BTag": "uint32"}
# uproot writes the time into each record; the same one for all is 1995-01-01 00:00:00, ROOT's first
_CLOCK = mock.patch("uproot._util.datetime_to_code", return_value=1 << 22 | 1 << 17)


def write_events(path: Path, collections: Mapping[str, ak.Array], identity: uuid.UUID) -> None:
    """Write (events, var) records with the fields of `hepflow.schema.COLLECTIONS`."""
    types = {}
    for name, fields in COLLECTIONS.items():
        members = (f"{field}: {_UNSIGNED.get(field, kind)}" for field, kind in fields.items())
        types[name] = f"var * {{{', '.join(members)}}}"
    # ROOT files contain the name they are written by
    draft = (new_folder() if is_remote(path) else path.parent) / f".{path.name}.part"
    draft.unlink(missing_ok=True)  # that of a killed run, or a link to follow
    options = {"compression": uproot.ZSTD(5), "uuid_function": lambda: identity}
    try:
        with _CLOCK, uproot.recreate(draft, **options) as file:
            tree = file.mktree(
                TREE,
                types,
                title="Analysis tree",
                counter_name=lambda collection: f"{collection}_size",
                field_name=lambda collection, field: f"{collection}.{field}",
            )
            tree.extend({name: collections[name] for name in COLLECTIONS})
        publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)
        if is_remote(path):
            draft.parent.rmdir()
