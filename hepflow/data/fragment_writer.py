"""Writes a fragment of events: a Parquet file in row groups of 1,000 events.

The bytes depend on the events only, not on the tables in which they came.
"""

from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.catalog import Footer, FragmentFile
from hepflow.data.events import arrow_schema
from hepflow.data.parquet import begin_seal
from hepflow.system.publishing import draft, publish
from hepflow.system.seal import seal_file
from hepflow.system.storage import make_folder

ROWS_PER_GROUP = 1000  # events per row group, the smallest unit that the features stage reads

_DICTIONARY = [
    f"{field.name}.list.element.{child.name}" if pa.types.is_list(field.type) else field.name
    for field in arrow_schema()
    for child in (field.type.value_type if pa.types.is_list(field.type) else [field])
    if pa.types.is_string(child.type) or pa.types.is_int32(child.type)
]
"""Columns with a dictionary: strings and small integers. Floats are all different."""


class FragmentWriter:
    """Writes a Parquet file that gets its name at the end; without `finish`, nothing stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_events = 0
        self._part = draft(folder / "fragment")
        self._waiting: list[pa.Table] = []  # less than a row group
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        make_folder(self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Add events."""
        self.n_events += len(table)
        self._waiting.append(table)
        n_waiting = sum(map(len, self._waiting))
        if n_waiting >= ROWS_PER_GROUP:
            self._flush(n_waiting // ROWS_PER_GROUP * ROWS_PER_GROUP)

    def finish(self, name: str) -> FragmentFile | None:
        """Give the file its name, and return its description; without events, there is none."""
        if not self.n_events:
            return None
        self._flush(sum(map(len, self._waiting)))
        assert self._writer is not None
        begin_seal(self._writer)
        self._writer.close()
        self._writer = None
        seal_file(self._part)
        file = Footer.read(self._part).describe()
        publish(self._part, self.folder / name)
        return file

    def _flush(self, rows: int) -> None:
        if rows:
            # chunks combined, or the bytes would depend on them
            table = pa.concat_tables(self._waiting).combine_chunks()
            if self._writer is None:
                how: Any = {"compression": "zstd", "use_dictionary": _DICTIONARY}
                how["write_page_checksum"] = True  # readers notice a flipped bit
                self._writer = pq.ParquetWriter(self._part, table.schema, **how)
            self._writer.write_table(table.slice(0, rows), row_group_size=ROWS_PER_GROUP)
            self._waiting = [table.slice(rows)] if rows < len(table) else []
