"""One array of a store, in plain Zarr v3: described by zarr, its chunks written and read without it.

zarr-python takes milliseconds to open and read an array of any size, holds whole shards several times over while it writes, and copies
each chunk once more than it has to. Here a chunk is one call of the coder, in memory of a chunk's size. Whoever has zarr reads what is
written here; tests hold the two equal in both directions, benchmarks/store.py compares their speed.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, blosc
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from hepflow.errors import DataError, HepflowError
from hepflow.system.files import read_json

ROWS_PER_CHUNK = 16_000
"""No power of two: a chunk's columns would all fall on the same lines of the cache, and turning them into rows take three times as long."""
CHUNKS_PER_SHARD = 64
COMPRESSOR = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "blocksize": 2**21}
"""Chosen by benchmarks/store.py; a block holds a whole chunk."""
_CODECS = (["bytes", "blosc", "crc32c"], ["transpose", "bytes", "blosc", "crc32c"])
_MISSING = 2**64 - 1
_CHECKSUM_BYTES, _ENTRY_BYTES = 4, 16
_DECODER = Blosc()  # a compressed chunk tells how it was made
MEND = "Delete the record of its part under _parts/ and run `hepflow features` again."
"""What to do about a damaged array."""

blosc.use_threads = False  # one thread a reader: readers are many


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array, sharded and compressed column by column; no more than a chunk is held beside it.

    Parameters
    ----------
    path : Path
    values : (rows) or (rows, columns)
    """
    chunk = max(1, min(ROWS_PER_CHUNK, len(values)))
    n_chunks = max(1, min(CHUNKS_PER_SHARD, -(-len(values) // chunk)))
    zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *values.shape[1:]),
        shards=(chunk * n_chunks, *values.shape[1:]),
        filters=[TransposeCodec(order=(1, 0))]
        if values.ndim == 2
        else None,  # a column's bytes side by side compress best
        compressors=[BloscCodec(**COMPRESSOR), Crc32cCodec()],
        zarr_format=3,
    )
    for shard, first in enumerate(range(0, len(values), chunk * n_chunks)):
        _write_shard(
            _shard_path(path, shard, values.ndim),
            values[first : first + chunk * n_chunks],
            chunk,
            n_chunks,
        )


def _write_shard(path: Path, values: np.ndarray, size: int, n_chunks: int) -> None:
    encoder = Blosc(**{**COMPRESSOR, "shuffle": Blosc.SHUFFLE}, typesize=values.itemsize)
    index = np.full((n_chunks, 2), _MISSING, "<u8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for chunk, first in enumerate(range(0, len(values), size)):
            columns = np.zeros(
                (*values.shape[:0:-1], size), values.dtype
            )  # the last chunk is filled up, as Zarr has it
            rows = values[first : first + size]
            columns[..., : len(rows)] = rows.T
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

    @classmethod
    def open(cls, path: Path) -> "ShardedArray":
        """The array at a path, by its metadata.

        Raises
        ------
        DataError
            There is none, or something else than `write_array` wrote it.
        """
        try:
            metadata = read_json(path / "zarr.json")
            (sharding,) = metadata["codecs"]
            inner = sharding["configuration"]
            codecs = [codec["name"] for codec in inner["codecs"]]
            shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            known = (
                codecs in _CODECS
                and inner["index_location"] == "end"
                and len(codecs) == 2 + len(shard)
            )
        except (OSError, HepflowError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: no readable array ({type(error).__name__}: {getattr(error, 'strerror', None) or error}). {MEND}"
            ) from error
        if not known:
            raise DataError(
                f"{path}: an array that hepflow has not written. Read it with zarr, or run `hepflow features` again."
            )
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        return cls(path, tuple(metadata["shape"]), dtype, inner["chunk_shape"][0], shard[0])

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``start:stop``, as slicing counts them.

        Raises
        ------
        DataError
            They are damaged or gone.
        """
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        rows = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        for shard in (
            range(start // self.rows_per_shard, -(-stop // self.rows_per_shard))
            if len(rows)
            else ()
        ):
            first = shard * self.rows_per_shard
            low, high = max(start, first), min(stop, first + self.rows_per_shard)
            self._read_shard(shard, low - first, high - first, rows[low - start : high - start])
        return rows

    def _read_shard(self, shard: int, start: int, stop: int, rows: np.ndarray) -> None:
        path = _shard_path(self.path, shard, len(self.shape))
        size = self.rows_per_chunk
        decoded = np.empty(
            (*self.shape[:0:-1], size), self.dtype
        )  # a chunk lies in the file column by column
        try:
            with path.open("rb", buffering=0) as file:
                index = self._index(file.fileno(), path)
                for chunk in range(start // size, -(-stop // size)):
                    offset, n_bytes = (int(x) for x in index[chunk])
                    if offset == _MISSING:
                        raise DataError(f"{path}: chunk {chunk} is missing. {MEND}")
                    body = _checked(file.fileno(), offset, n_bytes, f"{path}: chunk {chunk}")
                    _DECODER.decode(body, out=decoded)
                    low, high = max(start, chunk * size), min(stop, (chunk + 1) * size)
                    rows[low - start : high - start] = decoded.T[
                        low - chunk * size : high - chunk * size
                    ]
        except (OSError, RuntimeError) as error:  # numcodecs raises the latter
            raise DataError(f"{path}: not readable ({error}). {MEND}") from error

    def _index(self, file: int, path: Path) -> np.ndarray:
        """Place and size of every chunk, (chunks, 2): the last thing in a shard."""
        n_bytes = self.rows_per_shard // self.rows_per_chunk * _ENTRY_BYTES + _CHECKSUM_BYTES
        start = os.fstat(file).st_size - n_bytes
        return np.frombuffer(
            _checked(file, max(start, 0), n_bytes, f"{path}: index"), "<u8"
        ).reshape(-1, 2)


def _shard_path(array: Path, shard: int, n_dim: int) -> Path:
    return array.joinpath("c", str(shard), *["0"] * (n_dim - 1))


def _checksum(body: bytes) -> bytes:
    return google_crc32c.value(body).to_bytes(_CHECKSUM_BYTES, "little")


def _checked(file: int, start: int, n_bytes: int, where: str) -> bytes:
    """What lies in a file before its checksum."""
    body = os.pread(file, n_bytes - _CHECKSUM_BYTES, start)
    checksum = os.pread(file, _CHECKSUM_BYTES, start + n_bytes - _CHECKSUM_BYTES)
    if checksum != _checksum(body):
        raise DataError(f"{where} is damaged: its checksum is wrong. {MEND}")
    return body
