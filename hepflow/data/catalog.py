"""Footers of Parquet fragments, and ``_fragments.json``, a dataset's catalogue of them.

    {"qcd/a-0000-HASH.parquet": [4096, FINGERPRINT, [[events, uncompressed bytes], ...]], ...}

The catalogue has the size of each fragment, the fingerprint of its footer, and its row groups, so
that one request replaces two per fragment. It is written before the marker. As the name of a
fragment contains a hash of its content, an entry is true of every dataset that names the fragment.
Fragments without an entry, or of another size, are described by their footers.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.system.byte_ranges import read_range
from hepflow.system.files import as_json, read_json, recorded
from hepflow.system.publishing import put
from hepflow.system.storage import file_sizes

CATALOG = "_fragments.json"
_MAGIC = b"PAR1"
_END = 4 + len(_MAGIC)  # a Parquet file ends in the footer's length and the magic bytes
_GUESS = 64 << 10  # bytes at the end of a file in which most footers fit


@dataclass(frozen=True)
class Footer:
    """Footer of a Parquet file, which locates and describes every column."""

    size: int
    """Bytes of the file."""
    content: bytes

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the footer of a file; a remote file costs two requests."""
        size = path.stat().st_size
        return cls._found(size, lambda start: read_range(path, start, size))

    @classmethod
    def within(cls, file: Any) -> Self:
        """Return the footer of an open file, as pyarrow takes it."""
        size = file.seek(0, SEEK_END)

        def tail_from(start: int) -> bytes:
            file.seek(start)
            return bytes(file.read(size - start))

        return cls._found(size, tail_from)

    @classmethod
    def _found(cls, size: int, tail_from: Callable[[int], bytes]) -> Self:
        n_bytes = _GUESS
        while True:
            tail = tail_from(max(0, size - n_bytes))
            length = int.from_bytes(tail[-_END : -len(_MAGIC)], "little") + _END
            if tail[-len(_MAGIC) :] != _MAGIC or length > size:
                raise pa.ArrowInvalid("it does not end as Parquet does")
            if length <= len(tail):
                return cls(size, tail[-length:-_END])
            n_bytes = length

    @property
    def fingerprint(self) -> str:
        """Hash of the size and the footer: copying or touching the file does not change it."""
        content = self.size.to_bytes(8, "little") + self.content
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def metadata(self) -> pq.FileMetaData:
        """Return the footer as pyarrow does."""
        end = len(self.content).to_bytes(4, "little") + _MAGIC
        return pq.read_metadata(pa.BufferReader(_MAGIC + self.content + end))

    def describe(self) -> "FragmentFile":
        """Return the catalogue's entry of the file."""
        metadata = self.metadata()
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        sizes = tuple((group.num_rows, group.total_byte_size) for group in groups)
        return FragmentFile(self.size, self.fingerprint, sizes)


@dataclass(frozen=True)
class FragmentFile:
    """A Parquet file of a dataset, as its footer describes it."""

    size: int
    """Bytes of the file."""
    fingerprint: str
    row_groups: tuple[tuple[int, int], ...]
    """Events and uncompressed bytes of each."""

    def to_json(self) -> list[Any]:
        """Return plain types for JSON."""
        return [self.size, self.fingerprint, self.row_groups]

    @classmethod
    def from_json(cls, entry: Iterable[Any]) -> Self:
        """Return the entry of `to_json`."""
        size, fingerprint, groups = entry
        row_groups = tuple((int(events), int(n_bytes)) for events, n_bytes in groups)
        return cls(int(size), str(fingerprint), row_groups)


def write_catalog(dataset: Path, files: Mapping[str, FragmentFile]) -> None:
    """Write the catalogue of a dataset: readers see the old or the new one."""
    entries = {name: file.to_json() for name, file in files.items()}
    put(dataset / CATALOG, as_json(entries))


def read_catalog(dataset: Path) -> dict[str, FragmentFile]:
    """Return the entries of a dataset's catalogue; none in datasets of other writers."""
    path = dataset / CATALOG
    with recorded(path):
        found = read_json(path) if path.is_file() else {}
        return {name: FragmentFile.from_json(entry) for name, entry in found.items()}


def whole_fragments(dataset: Path, names: Iterable[str]) -> dict[str, FragmentFile | None]:
    """Return the fragments that are there, of the recorded size; None: without an entry.

    That takes one listing per class.
    """
    catalog, there = read_catalog(dataset), file_sizes(dataset, names)
    files = {name: catalog.get(name) for name in there}
    return {n: file for n, file in files.items() if file is None or file.size == there[n]}
