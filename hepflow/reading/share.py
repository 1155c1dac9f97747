"""Reading one share of a file to its end, whatever the file system does: I/O errors are tried again, lost entries accounted for."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from time import sleep

import awkward as ak

from hepflow.reading.delphes import DelphesFile, Unreadable, Wanted
from hepflow.reading.splits import FileSplit
from hepflow.schema import COLLECTIONS, TREE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """How to read files."""

    tree: str = TREE
    retries: int = 3
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Piece:
    """Entries ``start`` to ``stop``: events, or the reason why they are lost."""

    start: int
    stop: int
    events: ak.Array | None
    reason: str = ""


class ShareReader:
    """Reads a split; what it learns of the file is in its attributes afterwards.

    Parameters
    ----------
    split : FileSplit
    wanted : mapping
        Collections and fields to read.
    access : Access
    """

    uuid: bytes | None = None
    """Identity of the file; None when it could not be opened."""
    n_entries: int | None = None
    """Entries of the whole file; None when it did not tell."""
    start = 0
    stop = 0
    bytes_read = 0
    unreadable: str = ""
    """Why nothing is known of the share; empty when its entries are accounted for."""
    transient = False
    """Whether entries were lost to the file system, which may do better in another run."""
    filled: tuple[str, ...] = ()
    """Optional fields that the file does not have."""

    def __init__(
        self, split: FileSplit, wanted: Wanted = COLLECTIONS, access: Access | None = None
    ) -> None:
        self.split, self.wanted, self.access = split, wanted, access or Access()
        self._next: int | None = None

    def pieces(self) -> Iterator[Piece]:
        """Every entry of the share in order; an I/O error costs a pause and another try, from the entry that was reached."""
        for pause in (*(2.0**attempt for attempt in range(self.access.retries)), None):
            try:
                yield from self._read()
            except Unreadable as error:
                yield from self._give_up(str(error))
            except OSError as error:
                reason = f"I/O error ({error.strerror or str(error).splitlines()[0]})"
                if pause is not None:
                    log.warning("%s: %s, trying again in %g s", self.split.file.path, reason, pause)
                    sleep(pause)
                    continue
                self.transient = True
                yield from self._give_up(f"{reason}, {self.access.retries + 1} times")
            return

    def _read(self) -> Iterator[Piece]:
        with DelphesFile(
            self.split.file.path, self.access.tree, self.wanted, self.access.timeout_s
        ) as file:
            self.uuid, self.n_entries = file.uuid, file.n_entries
            self.start, self.stop = self.split.entry_range(
                [0, file.n_entries]
            )  # holds if the next line finds a collection missing
            self.start, self.stop = self.split.entry_range(file.boundaries)
            self.filled = file.filled
            self.bytes_read = file.compressed_bytes(self.start, self.stop)
            self._next = self.start if self._next is None else self._next
            for start, stop, found in file.iterate(self._next, self.stop):
                self._next = stop
                yield (
                    Piece(start, stop, None, str(found))
                    if isinstance(found, Unreadable)
                    else Piece(start, stop, found)
                )

    def _give_up(self, reason: str) -> Iterator[Piece]:
        if self.n_entries is None:
            self.unreadable = reason
            return
        start = self.start if self._next is None else self._next
        if start < self.stop:
            yield Piece(start, self.stop, None, reason)
        elif self.n_entries == 0:
            self.unreadable = reason
