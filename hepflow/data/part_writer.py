"""Writes a part of a feature store: shard N of each array, and the record ``_parts/N.json``.

    events of a part:   [round 0: train qcd | train ttbar | val qcd ...][round 1: train qcd | ...]

A part grows round by round, so memory holds one round and a chunk of each array. The record is put
last: shards without one do not count, and their writer replaces them when it tries again. The bytes
depend on the events only, so of two writers of the same part it does not matter who is the later.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from hepflow.data.arrays import ShardWriter
from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.layout import MOST_EVENTS, PARTICLES_PER_PART, layouts
from hepflow.data.ledger import Ledger
from hepflow.data.moments import Moments
from hepflow.data.records import record_path
from hepflow.errors import DataError
from hepflow.system.files import write_json
from hepflow.system.publishing import draft, publish
from hepflow.system.storage import make_folder

Blocks = Mapping[tuple[str, str], EventBlock]  # (split, class) -> events


class PartWriter:
    """Writes one part: `add` events, then `finish`; otherwise, nothing stays."""

    def __init__(self, store: Path, spec: StoreSpec, number: int) -> None:
        self._store, self._spec, self._number = store, spec, number
        self._layouts = layouts(spec)
        self._drafts: dict[str, Path] = {}
        self._writers: dict[str, ShardWriter] = {}
        self._ranges: list[tuple[str, str, int, int]] = []
        self._moments = [Moments.none(len(spec.hlf)), Moments.none(len(spec.particles))]
        self._first = number * PARTICLES_PER_PART
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name, layout in self._layouts.items():
                make_folder(self._store / name)
                path = draft(self._target(name))
                stack.callback(path.unlink, missing_ok=True)
                self._drafts[name] = path
                self._writers[name] = stack.enter_context(ShardWriter(path, layout))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, blocks: Blocks) -> None:
        """Add the events of a round."""
        for (split, class_name), block in sorted(blocks.items()):
            if not len(block):
                continue
            before = self._writers["particles"].n_rows
            columns = {
                "hlf": block.hlf,
                "particles": block.particles,
                "offsets": self._first + before + block.offsets[:-1],
                "label": block.label,
                "event_id": block.event_id,
            }
            if self._writers["label"].n_rows + len(block) > MOST_EVENTS:
                what = f"more than {MOST_EVENTS:,} events in a part. Make smaller parts."
                raise DataError(f"{self._store}: {what}")
            try:
                for name, values in columns.items():
                    kind = self._layouts[name].dtype
                    self._writers[name].append(values.astype(kind, copy=False))
            except ValueError as error:
                raise DataError(f"{self._store}: {error}. Make smaller parts.") from error
            self._ranges.append((split, class_name, len(block), len(block.particles)))
            if split == "train":
                for i, values in enumerate((block.hlf, block.particles)):
                    self._moments[i] += Moments.of(values)

    def finish(self, ledger: Ledger, sources: Mapping[str, str]) -> None:
        """Publish the shards, then the record, with the fingerprint of each source."""
        if self._ranges:
            end = self._first + self._writers["particles"].n_rows
            self._writers["offsets"].append(np.array([end], np.int64))
        wanted = [name for name, writer in self._writers.items() if writer.n_rows]
        sizes = {name: self._writers[name].finish() for name in wanted}
        with ThreadPoolExecutor(max(1, len(wanted))) as pool:  # uploads wait for the store
            targets = [self._target(name) for name in wanted]
            list(pool.map(publish, (self._drafts[name] for name in wanted), targets))
        hlf, particles = self._moments
        record: dict[str, Any] = {
            "ranges": self._ranges,
            "bytes": sizes,
            "ledger": ledger.check().to_dict(),
            "moments": [hlf.to_dict(), particles.to_dict()] if hlf.count else None,
            "sources": dict(sources),
        }
        write_json(record_path(self._store, self._number), record)

    def _target(self, name: str) -> Path:
        return self._layouts[name].shard_path(self._store / name, self._number)
