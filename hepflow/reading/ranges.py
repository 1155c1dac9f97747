"""File sizes -> tasks for workers. No file is opened here: the worker finds its entries.

A file is cut into entry ranges of about the target size, by its bytes. Entry ranges and
small files of one class are packed into tasks of about that size:

    a.root  300 MB ->  1/3  2/3  3/3      tasks of 128 MB:  [a 1/3] [a 2/3] [a 3/3, b] [c, d, e]
    b.root   20 MB ->  1/1                (of one class)

The worker turns "2/3" into entries. A cluster (the entries between two places where the baskets of
all branches start) belongs to the range in which its first entry falls, so that no basket is
decompressed twice:

    entries    0        |  100       |   200        300        index 1 of 3 wants 100 to 200,
    clusters   [--- 80 ---][--- 60 ---][--- 90 ---][-- 70 --]  and gets 140 to 230

Promise: over all ranges of a file, every entry is read exactly once. The cut depends on sizes only,
so that the driver plans 100,000 files from their listing, instead of opening each to count entries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np

from hepflow.data.provenance import digest

TASKS_WANTED = 24
"""Tasks of a small input, so that a few cores share it evenly and the progress bar moves."""
SMALLEST_TASK = 4 << 20  # bytes below which more tasks cost more than they gain


@dataclass(frozen=True, order=True)
class SourceFile:
    """A ROOT file in a listing."""

    class_name: str
    name: str  # path below the input, as in the ``file`` column
    path: str  # absolute path or URL
    size: int  # bytes
    version: str  # modification time or ETag: changes when the content may have changed


@dataclass(frozen=True, order=True)
class EntryRange:
    """Entry range ``index`` of ``count`` of a file: the unit of reading, and of restarting."""

    file: SourceFile
    index: int = 0
    count: int = 1
    entries: tuple[int, ...] = ()
    """The first entry and the one past the last, if a list of files gives them."""

    @cached_property
    def key(self) -> str:
        """Hash of this range of this version of the file."""
        file = self.file
        about = file.class_name, file.name, file.size, file.version, self.index, self.count
        return digest(*about, *self.entries)

    @property
    def size(self) -> int:
        """Approximate bytes."""
        return self.file.size // self.count

    @property
    def label(self) -> str:
        """Name for a person, such as ``qcd/a.root [2/3]``."""
        part = f" [{self.index + 1}/{self.count}]" if self.count > 1 else ""
        return self.file.name + part

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        data = {"file": {**vars(self.file)}, "index": self.index, "count": self.count}
        return {**data, "entries": list(self.entries)} if self.entries else data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "EntryRange":
        """Return the entry range of `to_dict`."""
        file, entries = SourceFile(**data["file"]), tuple(map(int, data.get("entries", ())))
        return cls(file, data["index"], data["count"], entries)

    def bounds(self, boundaries: Sequence[int]) -> tuple[int, int]:
        """Return the first entry, and the one past the last; both are ``boundaries`` or listed.

        Those are (clusters + 1) increasing entries at which the baskets of all branches start,
        from 0 to the number of entries.
        """
        edges = np.asarray(boundaries, dtype=np.int64)
        if self.entries:
            first, last = (min(entry, int(edges[-1])) for entry in self.entries)
            return first, last
        owner = edges[:-1] * self.count // max(int(edges[-1]), 1)
        first, last = np.searchsorted(owner, [self.index, self.index + 1])
        return int(edges[first]), int(edges[last])


def plan(files: Iterable[SourceFile], target_bytes: int) -> list[EntryRange]:
    """Return every entry range of every file in a fixed order; how many depends on sizes alone."""
    ranges = []
    for file in sorted(files):
        count = max(1, -(-file.size // target_bytes))
        ranges += [EntryRange(file, index, count) for index in range(count)]
    return ranges


def listed(file: SourceFile, intervals: Sequence[tuple[int, int]]) -> list[EntryRange]:
    """Return the entry ranges of a file that a list of files gives."""
    count = len(intervals)
    return [EntryRange(file, index, count, tuple(own)) for index, own in enumerate(intervals)]


def pack(
    ranges: Sequence[EntryRange], target_bytes: int, opening_bytes: int = 0
) -> list[tuple[EntryRange, ...]]:
    """Group neighbouring ranges of one class into tasks of ``target_bytes`` at most, or one range.

    An input too small for `TASKS_WANTED` such tasks is cut finer, down to `SMALLEST_TASK`. Opening
    a file counts as ``opening_bytes`` that are read.
    """
    total = sum(one.size + opening_bytes for one in ranges)
    limit = min(target_bytes, max(total // TASKS_WANTED, SMALLEST_TASK))
    tasks: list[list[EntryRange]] = []
    for _, group in groupby(sorted(ranges), key=lambda one: one.file.class_name):
        held = 0
        for i, one in enumerate(group):
            size = one.size + opening_bytes
            if i == 0 or held + size > limit:
                tasks.append([])
                held = 0
            tasks[-1].append(one)
            held += size
    return [tuple(task) for task in tasks]
