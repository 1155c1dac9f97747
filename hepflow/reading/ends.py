"""The two ends of a remote ROOT file, which say what is in it, in one request."""

from collections.abc import Iterator
from queue import Queue
from typing import Any

from uproot.source.chunk import Chunk
from uproot.source.fsspec import FSSpecSource

from hepflow.system.remote import ShortAnswer

SMALLEST = 403
"""Bytes of an empty ROOT file."""
HEAD_BYTES, TAIL_BYTES = 64 << 10, 512 << 10
"""The header is in the first bytes; ROOT and uproot write directory and tree last."""
PART_BYTES = 2_000_000
"""Bytes per answer. XRootD sends at most 2 MiB at once, and its client joins more than that by
copying: with answers of 28 MB that took a quarter of the time of reading."""


class EndsFirst(FSSpecSource):
    """Fetches both ends of a file when it is opened, and answers from them.

    uproot asks for header, directory, list of keys and tree one after the other, and with a server
    30 ms away each answer takes 30 ms.
    """

    _fs: Any

    def __init__(self, file_path: str, **options: Any) -> None:
        super().__init__(file_path, **options)
        size = super().num_bytes
        if size is None:
            raise OSError("the server does not tell the size of the file")
        if size < SMALLEST:  # reading behind the end would be an error of the server
            raise ValueError(f"{size} bytes")
        self._size: int = size
        head = min(HEAD_BYTES, self._size)
        edges = [(0, head), (max(head, self._size - TAIL_BYTES), self._size)]
        edges = [(start, stop) for start, stop in edges if start < stop]
        starts, stops = [start for start, _ in edges], [stop for _, stop in edges]
        where = [self._file_path] * len(edges)
        self._fs: Any = _Raising(self._fs)
        bodies = self._fs.cat_ranges(where, starts, stops) if edges else []
        self._ends = list(zip(edges, bodies, strict=True))

    @property
    def num_bytes(self) -> int:
        """Bytes of the file."""
        return self._size

    def chunk(self, start: int, stop: int) -> Chunk:
        """Return a range of bytes."""
        for (first, last), body in self._ends:
            if first <= start and stop <= last:
                return Chunk.wrap(self, bytes(body[start - first : stop - first]), start)
        return super().chunk(start, stop)

    def chunks(self, ranges: list[tuple[int, int]], notifications: Queue[Chunk]) -> list[Chunk]:
        """Return ranges of bytes, which arrive in parts of `PART_BYTES` at the same time."""
        found: dict[tuple[int, int], Chunk] = {}
        for part in _parts(sorted(ranges)):
            found |= dict(zip(part, super().chunks(part, notifications), strict=True))
        return [found[one] for one in ranges]


class _Raising:
    """A file system whose ranges are whole: it raises what fsspec returns in their place."""

    def __init__(self, system: Any) -> None:
        self._system = system

    def __getattr__(self, name: str) -> Any:
        return getattr(self._system, name)

    def cat_ranges(self, paths: list[str], starts: list[int], ends: list[int]) -> list[bytes]:
        """Return ranges of bytes."""
        return _whole(self._system.cat_ranges(paths, starts, ends), starts, ends)

    async def _cat_ranges(
        self, paths: list[str], starts: list[int], ends: list[int]
    ) -> list[bytes]:
        found = await self._system._cat_ranges(paths, starts, ends)  # noqa: SLF001
        return _whole(found, starts, ends)


def _whole(bodies: list[Any], starts: list[int], stops: list[int]) -> list[bytes]:
    """Return bodies, or raise an OSError: uproot would take the file for a damaged one."""
    for body, start, stop in zip(bodies, starts, stops, strict=True):
        if isinstance(body, BaseException):
            raise body
        if len(body) != stop - start:
            raise ShortAnswer(f"the server sent {len(body):,} of {stop - start:,} bytes")
    return bodies


def _parts(ranges: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Yield ranges that follow each other, of up to `PART_BYTES` together, or a single one."""
    first = 0
    for last, (_, stop) in enumerate(ranges):
        if first < last and stop - ranges[first][0] > PART_BYTES:
            yield ranges[first:last]
            first = last
    if ranges:
        yield ranges[first:]
