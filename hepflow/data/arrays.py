"""One array of a feature store: plain sharded Zarr v3, which this module codes without zarr.

Layout on disk, the one that zarr gives for these settings:

    ARRAY/zarr.json            metadata, by zarr.create_array
    ARRAY/c/0[/0], c/1[/0] ... shards of 64 chunks of 16,000 rows

    shard:  [chunk 0][chunk 1] ... [index][crc32c]
    chunk:  [Blosc-zstd of all rows, column by column][crc32c]
    index:  offset and size of each chunk, two little-endian uint64 per chunk

Why not zarr's own codec pipeline: zarr-python takes milliseconds to open an array of any size,
holds a whole shard several times while it writes, and copies each chunk once more than needed. Here
a chunk is one call of the coder, in memory of the size of a chunk. For all arrays of a store, one
core writes 1.3 times and reads 2.9 times as many events per second (`benchmarks/store.py`, zarr
3.1). Values of one feature are alike, so columns are compressed one after the other: a store is
0.29 times as large as padded arrays. zarr reads what is written here, and the other way round;
tests compare the two in both directions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, blosc
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from hepflow.errors import DataError, HepflowError
from hepflow.system.byte_ranges import open_ranges
from hepflow.system.files import read_json, recorded
from hepflow.system.remote import is_remote

ROWS_PER_CHUNK = 16_000
"""Rows of a chunk. With a power of two, all columns of a chunk fall on the same cache lines, and
transposing it takes three times as long."""
CHUNKS_PER_SHARD = 64
COMPRESSOR = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 2**21}
"""Settings chosen by `benchmarks/store.py`; a block holds a whole chunk."""
REPAIR = "Delete the record of its part under _parts/ and run `hepflow features` again."
"""Advice for a damaged array."""
_CODECS = (["bytes", "blosc", "crc32c"], ["transpose", "bytes", "blosc", "crc32c"])
MOST_BYTES, MOST_CHUNKS = 1 << 30, 1 << 16
"""Largest chunk, and most chunks per shard, that are read: a store may come from anybody."""
_MISSING = 2**64 - 1  # offset of a chunk that was never written
_CHECKSUM_BYTES, _ENTRY_BYTES = 4, 16
_DECODER = Blosc()  # a compressed chunk carries its own settings

blosc.use_threads = False  # one thread per reader: there are many readers


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array, (rows) or (rows, columns); holds one chunk in memory besides it."""
    size = max(1, min(ROWS_PER_CHUNK, len(values)))
    n_chunks = max(1, min(CHUNKS_PER_SHARD, -(-len(values) // size)))
    rows_per_shard = size * n_chunks
    filters = [TransposeCodec(order=(1, 0))] if values.ndim == 2 else None
    coders = [BloscCodec(**COMPRESSOR), Crc32cCodec()]
    about: Any = {"shape": values.shape, "dtype": values.dtype, "zarr_format": 3}
    about |= {"chunks": (size, *values.shape[1:]), "shards": (rows_per_shard, *values.shape[1:])}
    zarr.create_array(path, filters=filters, compressors=coders, **about)
    encoder = Blosc(**{**COMPRESSOR, "shuffle": Blosc.SHUFFLE}, typesize=values.itemsize)
    for shard, first in enumerate(range(0, len(values), rows_per_shard)):
        index = np.full((n_chunks, 2), _MISSING, "<u8")
        file_path = _shard_path(path, shard, values.ndim)
        file_path.parent.mkdir(parents=True, exist_ok=True)
        with file_path.open("wb") as file:
            in_shard = values[first : first + rows_per_shard]
            for chunk, start in enumerate(range(0, len(in_shard), size)):
                rows = in_shard[start : start + size]
                columns = np.zeros((*values.shape[:0:-1], size), values.dtype)
                columns[..., : len(rows)] = rows.T  # zeros fill up the last chunk, as in zarr
                body = encoder.encode(columns)
                index[chunk] = file.tell(), len(body) + _CHECKSUM_BYTES
                file.write(body + _checksum(body))
            file.write(index.tobytes() + _checksum(index.tobytes()))


@dataclass(frozen=True)
class ShardedArray:
    """An array on disk, (rows) or (rows, columns)."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows_per_chunk: int
    rows_per_shard: int
    _indexes: dict[int, list[list[int]]] = field(default_factory=dict, compare=False)
    """Shard -> its index, kept for a remote array, as asking for it costs a round trip."""

    @classmethod
    def open(cls, path: Path) -> "ShardedArray":
        """Return the array at a path, from its metadata; it must be one of `write_array`."""
        try:
            metadata = read_json(path / "zarr.json")
            (sharding,) = metadata["codecs"]
            inner = sharding["configuration"]
            codecs = [codec["name"] for codec in inner["codecs"]]
            shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            at_end = inner["index_location"] == "end"
        except (OSError, HepflowError, KeyError, TypeError, ValueError) as error:
            why = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
            raise DataError(f"{path}: no readable array ({why}). {REPAIR}") from error
        if not at_end or codecs not in _CODECS or len(codecs) != 2 + len(shard):
            raise DataError(f"{path}: an array that hepflow has not written. Read it with zarr.")
        with recorded(path / "zarr.json"):
            dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
            shape, chunk = tuple(metadata["shape"]), inner["chunk_shape"]
            _check_sizes(dtype, shape, chunk, shard)
        return cls(path, shape, dtype, chunk[0], shard[0])

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return rows ``start:stop``, as slicing counts them, or raise a DataError for damage."""
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        n_rows = max(0, stop - start)
        if n_rows and not is_remote(self.path):  # before memory for them is taken
            last = _shard_path(self.path, (stop - 1) // self.rows_per_shard, len(self.shape))
            if not last.is_file():
                raise DataError(f"{last}: not readable (No such file). {REPAIR}")
        rows = np.empty((n_rows, *self.shape[1:]), self.dtype)
        if n_rows:
            for shard in range(start // self.rows_per_shard, -(-stop // self.rows_per_shard)):
                first = shard * self.rows_per_shard
                low, high = max(start, first), min(stop, first + self.rows_per_shard)
                self._read_shard(shard, low - first, high - first, rows[low - start : high - start])
        return rows

    def _read_shard(self, shard: int, start: int, stop: int, rows: np.ndarray) -> None:
        """Fill ``rows`` with rows ``start:stop`` of a shard, decoding only their chunks."""
        path = _shard_path(self.path, shard, len(self.shape))
        size = self.rows_per_chunk
        columns = np.empty((*self.shape[:0:-1], size), self.dtype)  # of one chunk, reused
        index_bytes = self.rows_per_shard // size * _ENTRY_BYTES + _CHECKSUM_BYTES
        try:
            with open_ranges(path) as file:
                index = self._indexes.get(shard)
                if index is None:
                    where = max(file.size - index_bytes, 0)
                    body, checksum = file.read(_with_checksum(where, index_bytes))
                    body = _checked(body, checksum, f"{path}: index")
                    entries = np.frombuffer(body, "<u8").reshape(-1, 2)
                    chunks_there = entries[entries[:, 0] != _MISSING]
                    if (chunks_there > where).any() or (chunks_there.sum(axis=1) > where).any():
                        raise DataError(f"{path}: index leads out of the file. {REPAIR}")
                    index = entries.tolist()
                    if is_remote(path):
                        self._indexes[shard] = index
                chunks = range(start // size, -(-stop // size))
                for chunk in chunks:
                    if index[chunk][0] == _MISSING:
                        raise DataError(f"{path}: chunk {chunk} is missing. {REPAIR}")
                found = iter(file.read([r for c in chunks for r in _with_checksum(*index[c])]))
                for chunk in chunks:
                    body = _checked(next(found), next(found), f"{path}: chunk {chunk}")
                    _DECODER.decode(body, out=columns)
                    first = chunk * size
                    low, high = max(start, first), min(stop, first + size)
                    rows[low - start : high - start] = columns.T[low - first : high - first]
        except (OSError, RuntimeError, ValueError) as error:  # numcodecs raises the latter two
            raise DataError(f"{path}: not readable ({error}). {REPAIR}") from error


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


def _shard_path(array: Path, shard: int, n_dim: int) -> Path:
    return array.joinpath("c", str(shard), *["0"] * (n_dim - 1))


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
