"""Tasks without their payload: a process reads one file of each class, and remembers its events.

Opening a ROOT file of 42 branches takes 50 ms, and reading a Parquet file of as many columns 20 ms.
100,000 of them take hours of a core, and say nothing about the rest. With `site` on the path of
Python, the tasks of `hepflow ingest`, `features` and `score` give each further file the events of
the first, with identities of its own. All else is done for real: fragments, parts, records, claims,
ledgers.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import awkward as ak
import fsspec
import numpy as np
import pyarrow as pa

from hepflow.data.identity import event_ids
from hepflow.system.store_options import options_of

_SITE = '''
"""Lets the modules of tasks be changed when they are imported."""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

CHANGES = {
    "hepflow.ingest.task": "ingest",
    "hepflow.features.parts": "features",
    "hepflow.score.task": "score",
}


class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        load, change = spec.loader.exec_module, CHANGES.pop(name)

        def exec_module(module):
            load(module)
            getattr(import_module("rehearsal.remembered"), change)(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
'''


def site(folder: Path) -> None:
    """Write the module that Python imports at its start."""
    (folder / "sitecustomize.py").write_text(_SITE)


def ingest(task: ModuleType) -> None:
    """Let ``hepflow.ingest.task`` open one undamaged file of ``rehearsal://`` per process."""
    skim, known = task._skim, []  # noqa: SLF001 - a benchmark's patch

    def skim_one(entries: Any, settings: Any, fragment: Any) -> Any:
        identity = _identity(entries)
        if identity is None:
            return skim(entries, settings, fragment)
        if not known:
            tables: list[pa.Table] = []
            write, fragment.write = fragment.write, tables.append
            record = skim(entries, settings, fragment)
            fragment.write = write
            known.append((record, pa.concat_tables(tables)))
        record, table = known[0]
        name, n = entries.file.class_name, len(table)
        label = pa.repeat(pa.scalar(settings.classes.index(name), pa.int32()), n)
        own = {"sample": pa.repeat(name, n), "label": label}
        fragment.write(_with(_of_file(table, entries, identity), own))
        return replace(record, range=entries, uuid=identity.hex())

    task._skim = skim_one  # type: ignore[attr-defined] # noqa: SLF001


def features(parts: ModuleType) -> None:
    """Let ``hepflow.features.parts`` read one fragment per class and process."""
    read, known = parts.read_fragment, {}

    def read_one(fragment: Any) -> ak.Array:
        name = fragment.path.parent.name
        if name not in known:
            known[name] = read(fragment)
        events = known[name]
        ids = event_ids(fragment.name.encode(), np.arange(len(events)))
        return ak.with_field(events, ids, "event_id")

    parts.read_fragment = read_one  # type: ignore[attr-defined]


def score(task: ModuleType) -> None:
    """Let ``hepflow.score.task`` score one undamaged file of ``rehearsal://`` per process."""
    score, known = task._score, []  # noqa: SLF001 - a benchmark's patch

    def score_one(entries: Any, settings: Any, tables: list[pa.Table]) -> Any:
        identity = _identity(entries)
        if identity is None:
            return score(entries, settings, tables)
        if not known:
            own: list[pa.Table] = []
            known.append((*score(entries, settings, own), pa.concat_tables(own)))
        fate, tally, table = known[0]
        name, claims = entries.file.name, task.claims_of(settings.output, settings.run)
        if claims.owner(identity.hex(), name) != name:
            raise RuntimeError(f"{name}: another file has its identity")
        tables.append(_of_file(table, entries, identity))
        return replace(fate, range=entries, uuid=identity.hex()), tally

    task._score = score_one  # type: ignore[attr-defined] # noqa: SLF001


def _identity(entries: Any) -> bytes | None:
    """Return the identity of an undamaged file of ``rehearsal://``; None for all others."""
    url = entries.file.path
    system, path = fsspec.core.url_to_fs(url, **options_of(url))
    if system.protocol != "rehearsal" or system.damage_of(system.number_of(path)):
        return None
    return system.identity_of(path)


def _of_file(table: pa.Table, entries: Any, identity: bytes) -> pa.Table:
    """Return the events of another file as those of this one."""
    ids = pa.array(event_ids(identity, np.asarray(table["entry"])))
    return _with(table, {"event_id": ids, "file": pa.repeat(entries.file.name, len(table))})


def _with(table: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), values)
    return table
