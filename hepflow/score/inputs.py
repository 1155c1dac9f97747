"""Where events come from: ROOT files by ingest's own reader, and ingest's Parquet. A `EntryRange` names a share of either."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.events import open_events
from hepflow.data.identity import event_ids
from hepflow.data.output import read_marker
from hepflow.errors import DataError, one_line
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, SourceFile, plan
from hepflow.reading.reader import Access, Chunk, RangeReader
from hepflow.schema import COLLECTIONS

PARQUET = ".parquet"
_IDENTITY = ("event_id", "file", "entry")


class RootReader(RangeReader):
    """A share of a ROOT file."""

    def identity(self, piece: Chunk) -> dict[str, pa.Array]:
        """event_id, file and entry of the events of a piece."""
        assert self.uuid is not None
        entries = np.arange(piece.start, piece.stop, dtype=np.int64)
        ids = event_ids(self.uuid, entries)
        return {
            "event_id": pa.array(ids),
            "file": pa.repeat(self.range.file.name, len(entries)),
            "entry": pa.array(entries),
        }


class ParquetReader:
    """A Parquet file of ingest, with what `RootReader` tells of a ROOT file; its pieces are its row groups."""

    unreadable = ""
    transient = False
    n_entries: int | None = None
    start = 0
    stop = 0

    def __init__(self, split: EntryRange) -> None:
        self.range = split
        self.uuid: bytes | None = bytes.fromhex(split.file.version)
        self.bytes_read = split.file.size
        self._identity: dict[int, dict[str, pa.ChunkedArray]] = {}

    def chunks(self) -> Iterator[Chunk]:
        """Every event in order; a row group that cannot be read is said, not raised, and the rest goes on."""
        try:
            with pq.ParquetFile(self.range.file.path) as file:
                groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                self.n_entries = self.stop = sum(groups)
                for number, n in enumerate(groups):
                    yield self._read(file, number, sum(groups[:number]), n)
        except (OSError, pa.ArrowException) as error:
            self.unreadable = f"not a Parquet file, or a damaged one ({one_line(error)[:120]})"

    def identity(self, piece: Chunk) -> dict[str, pa.Array]:
        """event_id, file and entry of the events of a piece."""
        return {
            name: column.combine_chunks() for name, column in self._identity[piece.start].items()
        }

    def _read(self, file: pq.ParquetFile, number: int, start: int, n: int) -> Chunk:
        try:
            table = file.read_row_group(
                number, columns=[*_IDENTITY, *COLLECTIONS], use_threads=False
            )
            events = ak.from_arrow(table.select(list(COLLECTIONS)))
        except (OSError, pa.ArrowException) as error:
            return Chunk(
                start, start + n, None, f"row group {number} is damaged ({one_line(error)[:120]})"
            )
        self._identity = {start: {name: table[name] for name in _IDENTITY}}
        return Chunk(start, start + n, events)


Reader = RootReader | ParquetReader


def reader_of(split: EntryRange, access: Access) -> Reader:
    """The reader of a share."""
    return (
        ParquetReader(split)
        if split.file.path.endswith(PARQUET)
        else RootReader(split, access=access)
    )


def splits_of(root: str | Path, access: Access, target_bytes: int) -> list[EntryRange]:
    """Every share of every file below a folder, or of the dataset of ingest that it is.

    Raises
    ------
    DataError
        There is nothing of the kind.
    """
    if isinstance(root, Path) and read_marker(root) is not None:
        fragments = open_events(root, task_bytes=2**62).fragments
        return [
            EntryRange(_parquet_file(root, fragment.path, fragment.fingerprint))
            for fragment in fragments
        ]
    splits = plan(list_files(root, access.timeout_s), target_bytes)
    if not splits:
        raise DataError(
            f"{root}: neither ROOT files nor a dataset of `hepflow ingest` here. Give the folder of either with --input."
        )
    return splits


def replaced(splits: Sequence[EntryRange], before: Sequence[EntryRange]) -> list[EntryRange]:
    """Shares done before of files that have another content now, or are cut in another way."""
    now = {split.file.name: (split.file.version, split.count) for split in splits}
    return [
        split
        for split in before
        if now.get(split.file.name) not in {None, (split.file.version, split.count)}
    ]


def _parquet_file(root: Path, path: Path, fingerprint: str) -> SourceFile:
    name = path.relative_to(root).as_posix()
    return SourceFile(
        "", name, str(path.absolute()), path.stat().st_size, fingerprint.partition(":")[0]
    )
