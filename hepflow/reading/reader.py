"""Read one entry range to its end, with retries, and account for every entry.

    entries  start ......................................... stop
    chunks   [ events ][ events ][ lost: corrupt baskets ][ events ]

The chunks cover the range without gaps. Damaged baskets become a chunk without events, and reading
goes on behind them. An I/O error (a server that restarts, a lost connection) costs a pause of 1, 2,
4 ... s and a new file handle, and reading resumes at the entry that was reached, so no entry is
given twice. uproot has timeouts, but neither of the two.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter, sleep

import awkward as ak
import numpy as np
import pyarrow as pa

from hepflow.data.identity import event_ids
from hepflow.errors import NoCredentials
from hepflow.reading.delphes import DelphesFile, OutOfMemory, Unreadable, Wanted
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import Losses, RangeRecord
from hepflow.schema import COLLECTIONS, TREE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """Settings of reading."""

    tree: str = TREE
    retries: int = 3
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Chunk:
    """Entries ``start`` to ``stop``: events, or the reason why they are lost."""

    start: int
    stop: int
    events: ak.Array | None
    reason: str = ""


class RangeReader:
    """Reads the wanted collections of an entry range; its attributes then describe the file."""

    uuid: bytes | None = None  # identity of the file; None if it could not be opened
    n_entries: int | None = None  # of the whole file; None if it could not be opened
    start = stop = bytes_read = 0
    unreadable = ""  # why the entries could not be counted; empty if all are accounted for
    transient = False  # whether file system or memory lost entries; another run may succeed
    filled: tuple[str, ...] = ()  # optional fields that the file does not have

    def __init__(
        self, entries: EntryRange, wanted: Wanted = COLLECTIONS, access: Access | None = None
    ) -> None:
        self.range, self.wanted, self.access = entries, wanted, access or Access()
        self.began = perf_counter()
        self._next: int | None = None  # entry at which to resume

    def chunks(self) -> Iterator[Chunk]:
        """Yield every entry of the range in order, whatever happens."""
        for attempt in range(self.access.retries + 1):
            try:
                yield from self._read()
            except Unreadable as error:
                self.transient |= isinstance(error, OutOfMemory)
                yield from self._give_up(str(error))
            except NoCredentials:  # no property of this file
                raise
            except OSError as error:
                reason = f"I/O error ({error.strerror or str(error).splitlines()[0]})"
                if attempt < self.access.retries:
                    pause = 2.0**attempt
                    log.warning("%s: %s, retrying in %g s", self.range.file.path, reason, pause)
                    sleep(pause)
                    continue
                self.transient = True
                yield from self._give_up(f"{reason}, {attempt + 1} times")
            return

    def identity(self, chunk: Chunk) -> dict[str, pa.Array]:
        """Return event_id, file and entry of the events of the latest chunk."""
        assert self.uuid is not None
        entries = np.arange(chunk.start, chunk.stop, dtype=np.int64)
        files = pa.repeat(self.range.file.name, len(entries))
        ids = pa.array(event_ids(self.uuid, entries))
        return {"event_id": ids, "file": files, "entry": pa.array(entries)}

    def record(self, n_out: int, rejected: Mapping[str, int], lost: Losses) -> RangeRecord:
        """Return the fate of the entries: how many passed, were rejected and lost, by reason."""
        return RangeRecord(
            self.range,
            self.uuid.hex() if self.uuid else None,
            self.n_entries,
            self.start,
            self.stop,
            n_out,
            {reason: n for reason, n in rejected.items() if n},
            {self.unreadable: None} if self.unreadable else lost.counts,
            self.transient,
            self.filled,
            self.bytes_read,
            round(perf_counter() - self.began, 3),
            {} if self.unreadable else lost.entries,
        )

    def _read(self) -> Iterator[Chunk]:
        file_of, access = self.range.file, self.access
        with DelphesFile(file_of.path, access.tree, self.wanted, access.timeout_s) as file:
            self.uuid, self.n_entries = file.uuid, file.n_entries
            # A first guess, which holds if the next line finds a collection missing.
            self.start, self.stop = self.range.bounds([0, file.n_entries])
            self.start, self.stop = self.range.bounds(file.boundaries)
            if self.range.entries and self.range.entries[1] > file.n_entries:
                self.start = self.stop = 0
                wanted = "to".join(f" {entry:,} " for entry in self.range.entries)
                self.unreadable = f"no entries{wanted}in a file of {file.n_entries:,}"
                return
            self.filled = file.filled
            self.bytes_read = file.compressed_bytes(self.start, self.stop)
            self._next = self.start if self._next is None else self._next
            for start, stop, found in file.iterate(self._next, self.stop):
                self._next = stop
                bad = isinstance(found, Unreadable)
                self.transient |= isinstance(found, OutOfMemory)
                yield Chunk(start, stop, None if bad else found, str(found) if bad else "")

    def _give_up(self, reason: str) -> Iterator[Chunk]:
        start = self.start if self._next is None else self._next
        if not self.n_entries:
            self.unreadable = reason
        elif start < self.stop:
            yield Chunk(start, self.stop, None, reason)
