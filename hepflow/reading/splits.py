"""File sizes -> tasks. No file is opened here; the task that opens one turns its share of it into a range of entries.

A file is cut into shares of about the target size; shares and small files of one class are packed into tasks of about that
size. The promise: over all shares of a file every entry is read exactly once, and no cluster of baskets by two of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from hepflow.data.provenance import digest

TASKS_WANTED = 24
"""Tasks a small input is spread over, so that a few cores share it evenly and the progress bar moves."""
SMALLEST_TASK = 4 << 20
"""Bytes below which spreading costs more than it gives."""


@dataclass(frozen=True, order=True)
class SourceFile:
    """A ROOT file as the listing shows it."""

    class_name: str
    name: str
    """Path below the input: what the ``file`` column says."""
    path: str
    """Where to open it: an absolute path or a URL."""
    size: int
    """bytes"""
    version: str
    """Changes when the content may have: modification time or ETag."""


@dataclass(frozen=True, order=True)
class FileSplit:
    """Share ``index`` of ``count`` of a file (and nothing of train, val and test)."""

    file: SourceFile
    index: int = 0
    count: int = 1

    @property
    def key(self) -> str:
        """Name of this share of this version of the file."""
        return digest(
            self.file.class_name,
            self.file.name,
            self.file.size,
            self.file.version,
            self.index,
            self.count,
        )

    @property
    def size(self) -> int:
        """About how many bytes it is."""
        return self.file.size // self.count

    def entry_range(self, boundaries: Sequence[int]) -> tuple[int, int]:
        """Entries of this share.

        A cluster belongs to the share in which its first entry lies, so that the shares tile the file whatever its layout.

        Parameters
        ----------
        boundaries : (clusters + 1), increasing from 0
            Entries where the baskets of all branches begin anew; the last is the number of entries.

        Returns
        -------
        (start, stop)
            Both are boundaries.
        """
        edges = np.asarray(boundaries, dtype=np.int64)
        owner = edges[:-1] * self.count // max(int(edges[-1]), 1)
        first, last = np.searchsorted(owner, [self.index, self.index + 1])
        return int(edges[first]), int(edges[last])


def plan(files: Iterable[SourceFile], target_bytes: int) -> list[FileSplit]:
    """Every share of every file, in a fixed order; the number of a file's shares depends on its size alone."""
    splits: list[FileSplit] = []
    for file in sorted(files):
        count = max(1, -(-file.size // target_bytes))
        splits.extend(FileSplit(file, index, count) for index in range(count))
    return splits


def pack(splits: Sequence[FileSplit], target_bytes: int) -> list[tuple[FileSplit, ...]]:
    """Group neighbouring splits of one class into tasks of at most ``target_bytes``, or of one split.

    An input too small to make `TASKS_WANTED` tasks of that size is cut finer, down to `SMALLEST_TASK`.
    """
    total = sum(split.size for split in splits)
    bound = min(target_bytes, max(total // TASKS_WANTED, SMALLEST_TASK))
    ordered = groupby(sorted(splits), key=lambda split: split.file.class_name)
    return [tuple(task) for _, group in ordered for task in _fill(group, bound)]


def _fill(splits: Iterable[FileSplit], bound: int) -> Iterator[list[FileSplit]]:
    task: list[FileSplit] = []
    held = 0
    for split in splits:
        if task and held + split.size > bound:
            yield task
            task, held = [], 0
        task.append(split)
        held += split.size
    if task:
        yield task
