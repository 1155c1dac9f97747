"""The fate of the entries of one entry range, as ingest and score record it.

As JSON, ``range`` is the key ``split`` and ``n_out`` is ``kept``: names of earlier versions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from hepflow.data.ledger import Ledger, Lost
from hepflow.reading.ranges import EntryRange

WORKER_DIED = "the worker died whenever it read this file"
"""Reason of a loss; others are in `hepflow.physics.skim` and `hepflow.reading.delphes`."""


@dataclass(frozen=True)
class RangeRecord:
    """Fate of every entry: ``stop - start == n_out + rejected + lost``."""

    range: EntryRange
    uuid: str | None = None
    """Hexadecimal identity of the file; None if it could not be opened."""
    n_entries: int | None = None
    """Entries of the whole file; None if it could not be opened."""
    start: int = 0
    stop: int = 0
    n_out: int = 0
    """Entries that passed."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Cut -> entries."""
    lost: Mapping[str, int | None] = field(default_factory=dict)
    """Reason -> entries; None if their number is not known."""
    transient: bool = False
    """Whether a dying worker or file system lost entries, and not the file: another run retries."""
    filled: tuple[str, ...] = ()
    """Optional fields that the file does not have."""
    bytes_read: int = 0
    seconds: float = 0.0

    @property
    def ledger(self) -> Ledger:
        """The same counts as a ledger."""
        lost = (Lost(self.range.file.name, reason, n) for reason, n in self.lost.items())
        return Ledger(self.stop - self.start, self.n_out, self.rejected, tuple(lost)).check()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        data = asdict(self)
        return {"split": data.pop("range"), "kept": data.pop("n_out"), **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record of `to_dict`."""
        rest = {**data, "filled": tuple(data["filled"])}
        return cls(EntryRange.from_dict(rest.pop("split")), n_out=rest.pop("kept"), **rest)
