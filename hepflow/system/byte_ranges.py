"""Parts of files: byte ranges, of which a remote store is asked at the same time."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hepflow.system.patience import patiently
from hepflow.system.remote import ShortAnswer, is_remote
from hepflow.system.storage import system_of

_GAP_BYTES = 1 << 20
"""Bytes between ranges that are read along, as another request takes longer."""


class Ranges:
    """Byte ranges of an open file; those of a remote one are fetched at the same time."""

    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self._path = path
        if is_remote(path):
            self._system, self._where = system_of(path)
        else:
            self._file = stack.enter_context(path.open("rb", buffering=0)).fileno()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if is_remote(self._path):
            return int(patiently(self._path, lambda: self._system.info(self._where)["size"]))
        return os.fstat(self._file).st_size

    def read(self, wanted: Sequence[tuple[int, int]]) -> Iterable[bytes]:
        """Return the bytes of each (start, length); those of a disk one by one, as they are read.

        Ranges that follow each other are one request.
        """
        if not is_remote(self._path):
            return (os.pread(self._file, n_bytes, start) for start, n_bytes in wanted)
        return patiently(self._path, lambda: self._fetched(wanted))

    def _fetched(self, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
        first, last = min(start for start, _ in wanted), max(sum(one) for one in wanted)
        together = sum(n_bytes for _, n_bytes in wanted)
        if last - first <= together + _GAP_BYTES:
            body = memoryview(_asked(self._system, self._where, first, last))
            return [bytes(body[start - first : start - first + n]) for start, n in wanted]
        starts, stops = zip(*((start, start + n) for start, n in wanted), strict=True)
        bodies = self._system.cat_ranges([self._where] * len(starts), starts, stops)
        for body, stop, (_, n_bytes) in zip(bodies, stops, wanted, strict=True):
            _require(self._system, self._where, body, n_bytes, stop)
        return cast("list[bytes]", bodies)


def _asked(system: Any, where: str, start: int, stop: int) -> bytes:
    body = bytes(system.cat_file(where, start=start, end=stop))
    _require(system, where, body, stop - start, stop)
    return body


def _require(system: Any, where: str, body: bytes, n_bytes: int, stop: int) -> None:
    """Raise an OSError, so that the store is asked again, if it sent less than there is."""
    if len(body) < n_bytes and stop <= int(system.info(where)["size"]):
        raise ShortAnswer(f"the store sent {len(body):,} of {n_bytes:,} bytes")


@contextmanager
def open_ranges(path: Path) -> Iterator[Ranges]:
    """Open a file to read ranges of bytes."""
    with contextlib.ExitStack() as stack:
        yield Ranges(path, stack)


def read_range(path: Path, start: int, stop: int) -> bytes:
    """Return the bytes ``start:stop`` of a file."""
    if is_remote(path):
        system, where = system_of(path)
        return patiently(path, lambda: _asked(system, where, start, stop))
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)
