"""What a task leaves behind beside its fragment: the fate of every entry of every share it was given."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from hepflow.data.ledger import Ledger, Lost
from hepflow.reading.splits import FileSplit, SourceFile


@dataclass(frozen=True)
class ShareResult:
    """What became of the entries of a split."""

    split: FileSplit
    uuid: str | None = None
    """Hexadecimal; None where the file could not be opened."""
    n_entries: int | None = None
    """Of the whole file; None where it did not tell."""
    start: int = 0
    stop: int = 0
    kept: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int | None] = field(default_factory=dict)
    """Reason -> entries; None where the file did not tell."""
    transient: bool = False
    """Whether they were lost to a dying worker or file system, not to the file: another run tries again."""
    filled: tuple[str, ...] = ()
    """Optional fields that the file does not have."""
    bytes_read: int = 0
    seconds: float = 0.0

    @property
    def ledger(self) -> Ledger:
        """The same as a ledger."""
        lost = tuple(
            Lost(self.split.file.name, reason, events) for reason, events in self.lost.items()
        )
        return Ledger(self.stop - self.start, self.kept, self.rejected, lost).check()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From plain types."""
        split = data["split"]
        return cls(
            **{
                **data,
                "split": FileSplit(SourceFile(**split["file"]), split["index"], split["count"]),
            }
        )


@dataclass(frozen=True)
class Record:
    """A finished task."""

    key: str
    fragment: str | None
    """Parquet file below the dataset; None where no event is left."""
    n_events: int
    bytes_written: int
    shares: tuple[ShareResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        return cls(
            **{**data, "shares": tuple(ShareResult.from_dict(share) for share in data["shares"])}
        )
