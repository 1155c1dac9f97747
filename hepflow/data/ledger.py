"""What came into a stage and what became of it: in = out + rejected (by reason) + lost (by file).

A ledger is a value: stages make one a task, add them up, check the sum and store it beside their output.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any

from hepflow.system.terminal import counted


@dataclass(frozen=True)
class Lost:
    """A file, or a part of one, that could not be read."""

    file: str
    reason: str
    events: int | None = None
    """Entries known to be lost; None where the file did not even tell how many it has."""


@dataclass(frozen=True)
class Ledger:
    """Counts of events, with ``n_in == n_out + rejected + lost`` (files that tell no number count on neither side)."""

    n_in: int = 0
    n_out: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[Lost, ...] = ()

    @property
    def n_rejected(self) -> int:
        """Events dropped by a cut."""
        return sum(self.rejected.values())

    @property
    def n_lost(self) -> int:
        """Events known to be lost."""
        return sum(item.events or 0 for item in self.lost)

    @property
    def lost_in_words(self) -> str:
        """How many events are lost, as far as the files told."""
        known = [f"{self.n_lost:,}"] if self.n_lost else []
        unknown = ["an unknown number"] if any(item.events is None for item in self.lost) else []
        return " and ".join(known + unknown) or "0"

    def __add__(self, other: "Ledger") -> "Ledger":
        """Ledger of both."""
        rejected = Counter(self.rejected) + Counter(other.rejected)
        return Ledger(
            self.n_in + other.n_in,
            self.n_out + other.n_out,
            dict(sorted(rejected.items())),
            self.lost + other.lost,
        )

    def check(self) -> "Ledger":
        """Itself, if it reconciles.

        Raises
        ------
        AssertionError
            Events appeared or vanished: a bug of hepflow, never of the data.
        """
        if self.n_in != self.n_out + self.n_rejected + self.n_lost:
            raise AssertionError(
                f"the ledger does not reconcile: {self.n_in} in, {self.n_out} out, {self.n_rejected} rejected, {self.n_lost} lost"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ledger":
        """Inverse of `to_dict`."""
        return cls(
            data["n_in"],
            data["n_out"],
            dict(data["rejected"]),
            tuple(Lost(**item) for item in data["lost"]),
        )

    def summary(self) -> str:
        """One line for a person."""
        cuts = "".join(f", {count:,} {reason}" for reason, count in self.rejected.items())
        lost = (
            f", {self.lost_in_words} lost in {counted(len({item.file for item in self.lost}), 'file')}"
            if self.lost
            else ""
        )
        return f"{counted(self.n_in, 'event')} in, {self.n_out:,} out{cuts}{lost}"


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """Sum of ledgers."""
    return reduce(Ledger.__add__, ledgers, Ledger())
