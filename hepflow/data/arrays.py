"""Arrays of a feature store: plain sharded Zarr v3, which this module codes without zarr.

Layout on disk, the one that zarr gives for these settings:

    ARRAY/zarr.json       metadata, by zarr.create_array
    ARRAY/c.0[.0], ...    shards (in stores of version 1: ARRAY/c/0[/0])

    shard:  [chunk 0][chunk 1] ... [index][crc32c]
    chunk:  [Blosc-zstd of all rows, column by column][crc32c]
    index:  offset and size of each chunk, two little-endian uint64 per chunk

A shard is a file that one writer writes alone, so writers need not agree on anything but its
number. It may end early: chunks that were never written are marked in the index and take no room.

Why not zarr's own codec pipeline: zarr-python takes milliseconds to open an array of any size,
holds a whole shard several times while it writes, and copies each chunk once more than needed. Here
a chunk is one call of the coder, in memory of the size of a chunk. For all arrays of a store, one
core writes 1.3 times and reads 2.9 times as many events per second (`benchmarks/store.py`, zarr
3.1). Values of one feature are alike, so columns are compressed one after the other: a store is
0.29 times as large as padded arrays. zarr reads what is written here, and the other way round;
tests compare the two in both directions.
"""

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, blosc
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from hepflow.errors import DataError, HepflowError
from hepflow.system.byte_ranges import Ranges, open_ranges
from hepflow.system.files import read_json, recorded
from hepflow.system.publishing import put
from hepflow.system.remote import is_remote

COMPRESSOR = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 2**21}
"""Settings chosen by `benchmarks/store.py`; a block holds a whole chunk."""
REPAIR = "Delete this file and run `hepflow features` again."
"""Advice for a damaged array."""
_CODECS = (["bytes", "blosc", "crc32c"], ["transpose", "bytes", "blosc", "crc32c"])
MOST_BYTES, MOST_CHUNKS = 1 << 30, 1 << 16
"""Largest chunk, and most chunks per shard, that are read: a store may come from anybody."""
_MISSING = 2**64 - 1  # offset of a chunk that was never written
_CHECKSUM_BYTES, _ENTRY_BYTES = 4, 16
_DECODER = Blosc()  # a compressed chunk carries its own settings

blosc.use_threads = False  # one thread per reader: there are many readers


@dataclass(frozen=True)
class Layout:
    """Type and chunks of an array, (rows) or (rows, columns), for any number of rows."""

    dtype: str
    rows_per_chunk: int
    chunks_per_shard: int
    columns: int | None = None
    """Number of columns; None for an array of one dimension."""

    @property
    def rows_per_shard(self) -> int:
        """Rows of a shard that is full."""
        return self.rows_per_chunk * self.chunks_per_shard

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard next to its chunks."""
        return self.chunks_per_shard * _ENTRY_BYTES + _CHECKSUM_BYTES

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return () if self.columns is None else (self.columns,)

    def shard_path(self, array: Path, shard: int) -> Path:
        """Return the file of a shard."""
        return array / ".".join(["c", str(shard), *["0"] * len(self.row_shape)])

    def describe(self, array: Path, n_rows: int, **attributes: Any) -> Any:
        """Write the metadata of an array, which zarr reads; its shards may be there already.

        Returns the metadata.
        """
        filters = [TransposeCodec(order=(1, 0))] if self.row_shape else None
        coders = [BloscCodec(**COMPRESSOR), Crc32cCodec()]
        about: Any = {"shape": (n_rows, *self.row_shape), "dtype": self.dtype, "zarr_format": 3}
        about["chunks"] = self.rows_per_chunk, *self.row_shape
        about["shards"] = self.rows_per_shard, *self.row_shape
        about["chunk_key_encoding"] = {"name": "default", "separator": "."}
        with tempfile.TemporaryDirectory() as folder:
            zarr.create_array(
                folder, filters=filters, compressors=coders, attributes=attributes, **about
            )
            metadata = (Path(folder) / "zarr.json").read_bytes()
        put(array / "zarr.json", metadata)
        return json.loads(metadata)


class ShardWriter:
    """Writes rows to one shard, in a file of this machine; holds a chunk of them in memory."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        self.n_rows = 0
        self._file = path.open("wb")
        dtype = np.dtype(layout.dtype)
        self._chunk = np.zeros((*layout.row_shape, layout.rows_per_chunk), dtype)  # by column
        self._index = np.full((layout.chunks_per_shard, 2), _MISSING, "<u8")
        settings = {**COMPRESSOR, "shuffle": Blosc.SHUFFLE}
        self._encoder = Blosc(**settings, typesize=dtype.itemsize)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Add rows, (n) or (n, columns); more than the shard has room for is a ValueError."""
        size = self.layout.rows_per_chunk
        if self.n_rows + len(rows) > self.layout.rows_per_shard:
            raise ValueError(f"more than {self.layout.rows_per_shard:,} rows in a shard")
        start = 0
        while start < len(rows):
            filled = self.n_rows % size
            taken = min(size - filled, len(rows) - start)
            self._chunk[..., filled : filled + taken] = rows[start : start + taken].T
            start, self.n_rows = start + taken, self.n_rows + taken
            if self.n_rows % size == 0:
                self._flush(self.n_rows // size - 1)

    def finish(self) -> int:
        """Write what is left and the index; return the size of the file in bytes."""
        if filled := self.n_rows % self.layout.rows_per_chunk:
            self._chunk[..., filled:] = 0  # zeros fill up the last chunk, as in zarr
            self._flush(self.n_rows // self.layout.rows_per_chunk)
        self._file.write(self._index.tobytes() + _checksum(self._index.tobytes()))
        size = self._file.tell()
        self._file.close()
        return size

    def _flush(self, chunk: int) -> None:
        body = self._encoder.encode(self._chunk)
        self._index[chunk] = self._file.tell(), len(body) + _CHECKSUM_BYTES
        self._file.write(body)
        self._file.write(_checksum(body))


@dataclass(frozen=True)
class ShardedArray:
    """An array on disk, (rows) or (rows, columns)."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows_per_chunk: int
    rows_per_shard: int
    separator: str = "."
    keep: bool = False
    """Whether indexes of shards are kept in memory: if nobody replaces the shards meanwhile."""
    _indexes: dict[int, np.ndarray] = field(default_factory=dict, compare=False)
    """Shard -> offset and size of its chunks, (chunks, 2)."""

    @classmethod
    def open(cls, path: Path, metadata: Any = None, *, keep: bool = False) -> "ShardedArray":
        """Return the array at a path, from its metadata; it must be one of hepflow's.

        ``metadata`` is the content of its ``zarr.json``, unless that is to be read.
        """
        try:
            if metadata is None:
                metadata = read_json(path / "zarr.json")
            (sharding,) = metadata["codecs"]
            inner = sharding["configuration"]
            codecs = [codec["name"] for codec in inner["codecs"]]
            shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            at_end = inner["index_location"] == "end"
            names = metadata["chunk_key_encoding"]
            separator = names.get("configuration", {}).get("separator", "/")
        except (OSError, HepflowError, KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
            raise DataError(f"{path}: no readable array ({why}). {REPAIR}") from error
        known = at_end and codecs in _CODECS and len(codecs) == 2 + len(shard)
        if not known or names["name"] != "default" or separator not in ("/", "."):
            raise DataError(f"{path}: an array that hepflow has not written. Read it with zarr.")
        with recorded(path / "zarr.json"):
            dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
            shape, chunk = tuple(metadata["shape"]), inner["chunk_shape"]
            _check_sizes(dtype, shape, chunk, shard)
        return cls(path, shape, dtype, chunk[0], shard[0], separator, keep)

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows ``start:stop``, as slicing counts them, or raise a DataError for damage."""
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        n_rows = max(0, stop - start)
        if n_rows and not is_remote(self.path):  # before memory for them is taken
            last = self.shard_path((stop - 1) // self.rows_per_shard)
            if not last.is_file():
                raise DataError(f"{last}: not readable (No such file). {REPAIR}")
        rows = np.empty((n_rows, *self.shape[1:]), self.dtype)
        if n_rows:
            for shard in range(start // self.rows_per_shard, -(-stop // self.rows_per_shard)):
                first = shard * self.rows_per_shard
                low, high = max(start, first), min(stop, first + self.rows_per_shard)
                self._read_shard(shard, low - first, high - first, rows[low - start : high - start])
        return rows

    def shard_path(self, shard: int) -> Path:
        """Return the file of a shard."""
        numbers = [str(shard), *["0"] * (len(self.shape) - 1)]
        return self.path / self.separator.join(["c", *numbers])

    def _read_shard(self, shard: int, start: int, stop: int, rows: np.ndarray) -> None:
        """Fill ``rows`` with rows ``start:stop`` of a shard, decoding only their chunks."""
        path = self.shard_path(shard)
        size = self.rows_per_chunk
        columns = np.empty((*self.shape[:0:-1], size), self.dtype)  # of one chunk, reused
        chunks = range(start // size, -(-stop // size))
        try:
            with open_ranges(path) as file:
                index = self._indexes.get(shard)
                if index is None:
                    index = self._read_index(path, file)
                    if self.keep:
                        self._indexes[shard] = index
                places = index[chunks.start : chunks.stop].tolist()
                for chunk in chunks[len(places) :]:  # beyond the last one that was written
                    raise DataError(f"{path}: chunk {chunk} is missing. {REPAIR}")
                for chunk, (offset, _) in zip(chunks, places, strict=True):
                    if offset == _MISSING:
                        raise DataError(f"{path}: chunk {chunk} is missing. {REPAIR}")
                found = iter(file.read([r for place in places for r in _with_checksum(*place)]))
                for chunk in chunks:
                    body = _checked(next(found), next(found), f"{path}: chunk {chunk}")
                    _DECODER.decode(body, out=columns)
                    first = chunk * size
                    low, high = max(start, first), min(stop, first + size)
                    rows[low - start : high - start] = columns.T[low - first : high - first]
        except (OSError, RuntimeError, ValueError) as error:  # numcodecs raises the latter two
            raise DataError(f"{path}: not readable ({error}). {REPAIR}") from error

    def _read_index(self, path: Path, file: Ranges) -> np.ndarray:
        """Return offset and size of the chunks of a shard, up to the last that was written."""
        n_bytes = self.rows_per_shard // self.rows_per_chunk * _ENTRY_BYTES + _CHECKSUM_BYTES
        where = max(file.size - n_bytes, 0)
        body, checksum = file.read(_with_checksum(where, n_bytes))
        body = _checked(body, checksum, f"{path}: index")
        entries = np.frombuffer(body, "<u8").reshape(-1, 2)
        written = np.flatnonzero(entries[:, 0] != _MISSING)
        there = entries[written]
        if (there > where).any() or (there.sum(axis=1) > where).any():
            raise DataError(f"{path}: index leads out of the file. {REPAIR}")
        return entries[: written[-1] + 1].copy() if len(written) else entries[:0]


def _check_sizes(
    dtype: np.dtype[Any], shape: Sequence[int], chunk: Sequence[int], shard: Sequence[int]
) -> None:
    """Raise a ValueError for sizes that no writer of hepflow gives an array."""
    sizes = [*shape, *chunk, *shard]
    if dtype.kind not in "iuf" or not all(isinstance(n, int) and n >= 0 for n in sizes):
        raise ValueError(f"{dtype} of shape {shape}")
    n_bytes = math.prod(chunk) * dtype.itemsize
    same = list(chunk[1:]) == list(shard[1:]) == list(shape[1:]) and len(chunk) == len(shape)
    fits = 0 < chunk[0] <= shard[0] <= MOST_CHUNKS * chunk[0] and shard[0] % chunk[0] == 0
    if not (same and fits and n_bytes <= MOST_BYTES):
        raise ValueError(f"chunks of shape {chunk} in shards of {shard} for {shape}")


def _checksum(body: bytes) -> bytes:
    return google_crc32c.value(body).to_bytes(_CHECKSUM_BYTES, "little")


def _with_checksum(start: int, n_bytes: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the ranges of a body and of the checksum that ends the ``n_bytes`` at ``start``."""
    n_body = n_bytes - _CHECKSUM_BYTES
    return (start, n_body), (start + n_body, _CHECKSUM_BYTES)


def _checked(body: bytes, checksum: bytes, where: str) -> bytes:
    if checksum != _checksum(body):
        raise DataError(f"{where} is damaged: its checksum is wrong. {REPAIR}")
    return body
