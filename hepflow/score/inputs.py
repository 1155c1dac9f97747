"""Events to score: ROOT files with ingest's reader, or ingest's Parquet, as entry ranges."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import awkward as ak
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.utils import get_protocol

from hepflow.data.catalog import Footer
from hepflow.data.events import REPAIR, open_events
from hepflow.data.output import read_marker
from hepflow.data.parquet import opened
from hepflow.errors import DataError, one_line
from hepflow.reading.delphes import Unreadable
from hepflow.reading.listing import find_files, list_files
from hepflow.reading.ranges import EntryRange, SourceFile, pack, plan
from hepflow.reading.reader import Access, Chunk, RangeReader
from hepflow.schema import COLLECTIONS
from hepflow.system.places import place
from hepflow.system.remote import may_pass

MOST_TASKS = 10_000
"""Tasks, and so files of scores, of a large input: 10 TB in tasks of 1 GB."""
OPENING = 1 << 20  # bytes that are read and scored in the time that opening a file takes

_IDENTITY = ("event_id", "file", "entry")


class ParquetReader(RangeReader):
    """A Parquet file of ingest; its chunks are the row groups."""

    def identity(self, chunk: Chunk) -> dict[str, pa.Array]:
        """Return event_id, file and entry of the events of the latest chunk."""
        assert chunk.stop == self._next
        return {name: self._identity[name].combine_chunks() for name in _IDENTITY}

    def _read(self) -> Iterator[Chunk]:
        file_of = self.range.file
        self.uuid, self.bytes_read = bytes.fromhex(file_of.version), file_of.size
        try:
            path = place(file_of.path)
            try:
                source, is_sealed = opened(path, REPAIR, file_of.size)
            except DataError as error:
                footer = Footer.read(path)
                if footer.fingerprint == file_of.version:  # so the number of events is known
                    self._next, self.n_entries = 0, footer.metadata().num_rows
                    self.stop = self.n_entries
                raise Unreadable("damaged: its checksum is wrong") from error
            footer = Footer.within(source)
            if footer.fingerprint != file_of.version:
                raise Unreadable("changed since it was written")
            how = {"metadata": footer.metadata(), "page_checksum_verification": not is_sealed}
            with source, pq.ParquetFile(source, **how) as file:
                self.n_entries = self.stop = file.metadata.num_rows
                done, stop = self._next or 0, 0
                for number in range(file.num_row_groups):
                    start, stop = stop, stop + file.metadata.row_group(number).num_rows
                    if start >= done:
                        chunk = self._group(file, number, start, stop)
                        self._next = stop
                        yield chunk
        except (OSError, pa.ArrowException) as error:
            if may_pass(error):
                raise  # and try again
            reason = f"not a Parquet file, or a damaged one ({one_line(error)[:120]})"
            raise Unreadable(reason) from error

    def _group(self, file: pq.ParquetFile, number: int, start: int, stop: int) -> Chunk:
        columns = [*_IDENTITY, *COLLECTIONS]
        try:
            self._identity = file.read_row_group(number, columns=columns, use_threads=False)
            if len(self._identity) != stop - start:
                raise pa.ArrowInvalid(f"{len(self._identity)} rows of {stop - start}")
            events = ak.from_arrow(self._identity.select(list(COLLECTIONS)))
        except (OSError, pa.ArrowException) as error:
            if may_pass(error):
                raise
            reason = f"row group {number} is damaged ({one_line(error)[:120]})"
            return Chunk(start, stop, None, reason)
        return Chunk(start, stop, events)


def reader_of(entries: EntryRange, access: Access) -> RangeReader:
    """Return the reader of an entry range."""
    reader = ParquetReader if entries.file.path.endswith(".parquet") else RangeReader
    return reader(entries, access=access)


def ranges_of(
    root: str | Path, access: Access, target_bytes: int, only: Collection[str] | None = None
) -> list[EntryRange]:
    """Return every entry range of a folder of ROOT files, or of a dataset of ingest.

    ``only`` has the names of the files that count, if not all do.
    """
    folder = place(root)
    if get_protocol(str(root)) not in {"http", "https"} and read_marker(folder) is not None:
        files = []
        for fragment in open_events(folder, task_bytes=2**62).fragments:
            name, path = fragment.path.relative_to(folder).as_posix(), fragment.path.absolute()
            version = fragment.fingerprint.partition(":")[0]
            files.append(SourceFile("", name, str(path), fragment.file_bytes, version))
        if absent := sorted(set(only or ()) - {file.name for file in files}):
            raise DataError(f"{root}: no file {absent[0]}. Correct the list of files.")
        return [EntryRange(file) for file in files if only is None or file.name in only]
    if only is None:
        files = list_files(root, access.timeout_s)
    else:
        files = find_files(root, only, access.timeout_s)
    ranges = plan(files, target_bytes)
    if not ranges:
        what = "neither ROOT files nor a dataset of `hepflow ingest` here"
        raise DataError(f"{root}: {what}. Give the folder of either with --input.")
    return ranges


def tasks_of(ranges: Sequence[EntryRange], target_bytes: int) -> list[tuple[EntryRange, ...]]:
    """Return the entry ranges in tasks, the largest first."""
    most = max(target_bytes, sum(one.size + OPENING for one in ranges) // MOST_TASKS)
    tasks = pack(ranges, most, OPENING)
    return sorted(tasks, key=lambda task: -sum(one.size + OPENING for one in task))
