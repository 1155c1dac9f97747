"""Parquet files with a checksum of the whole file in their footer, see `hepflow.system.seal`.

Checksums of Parquet's own are of pages only: not of footers and headers of pages, by whose lengths
and types a reader takes memory and decodes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.system import seal
from hepflow.system.byte_ranges import read_range
from hepflow.system.remote import is_remote
from hepflow.system.storage import read_bytes

_KEY = "checksum"


@contextmanager
def sealed_writer(path: Path, schema: pa.Schema, **how: Any) -> Iterator[pq.ParquetWriter]:
    """Yield a writer of a local file, which gets its checksum if the block succeeds."""
    with pq.ParquetWriter(path, schema, **how) as writer:
        yield writer
        begin_seal(writer)
    seal.seal_file(path)


def begin_seal(writer: pq.ParquetWriter) -> None:
    """Give a writer room for a checksum: it is to be closed, and then its file to be sealed."""
    writer.add_key_value_metadata({_KEY: seal.EMPTY})


def read_table(
    path: Path, advice: str, columns: Sequence[str] | None = None, *, use_threads: bool = True
) -> pa.Table:
    """Return a table, or raise a DataError with an advice if the checksum of the file is wrong.

    Some columns of a remote file are read without, as it is of the whole file.
    """
    if is_remote(path) and columns is not None:
        source = path.open("rb")
    else:
        source, _ = opened(path, advice)
    with source:
        names = columns and list(columns)
        return without_seal(pq.read_table(source, columns=names, use_threads=use_threads))


def opened(path: Path, advice: str, n_bytes: int | None = None) -> tuple[Any, bool]:
    """Return an open file for pyarrow, and whether it has a checksum; if so, it is right.

    A wrong one is a DataError with an advice. A remote file is in memory. If its size is known, a
    shorter answer of the store is not taken for the file.
    """
    if is_remote(path):
        content = read_bytes(path) if n_bytes is None else read_range(path, 0, n_bytes)
        return pa.BufferReader(content), seal.check(content, path, advice)
    is_sealed = seal.check_file(path, advice)
    return pa.OSFile(str(path)), is_sealed


def without_seal(table: pa.Table) -> pa.Table:
    """Return a table without the checksum of its file, which another file must not have."""
    metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != _KEY.encode()}
    return table.replace_schema_metadata(metadata or None)
