"""Events in and out of a stage: in = out + rejected (by reason) + lost (by file).

A ledger is a value: each task returns one, and the stage adds them up, checks the sum and stores it
next to its output.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hepflow.system.terminal import counted


@dataclass(frozen=True)
class Lost:
    """Entries of a file that could not be read."""

    file: str
    reason: str
    events: int | None = None
    """Lost entries; None if the file could not be read far enough to count them."""


@dataclass(frozen=True)
class Ledger:
    """Counts of events: ``n_in == n_out + rejected + lost``, without losses of unknown size."""

    n_in: int = 0
    n_out: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Cut -> events."""
    lost: tuple[Lost, ...] = ()

    @property
    def n_rejected(self) -> int:
        """Events rejected by cuts."""
        return sum(self.rejected.values())

    @property
    def n_lost(self) -> int:
        """Events known to be lost."""
        return sum(item.events or 0 for item in self.lost)

    @property
    def lost_in_words(self) -> str:
        """Number of lost events, for a person."""
        known = [f"{self.n_lost:,}"] if self.n_lost else []
        unknown = ["an unknown number"] if any(item.events is None for item in self.lost) else []
        return " and ".join(known + unknown) or "0"

    def __add__(self, other: "Ledger") -> "Ledger":
        return total((self, other))

    def check(self) -> "Ledger":
        """Return this ledger if its sum is right: if not, that is a bug of hepflow."""
        if self.n_in != self.n_out + self.n_rejected + self.n_lost:
            out = f"{self.n_out} out, {self.n_rejected} rejected, {self.n_lost} lost"
            raise AssertionError(f"the ledger does not reconcile: {self.n_in} in, {out}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ledger":
        """Return the ledger of `to_dict`; a ValueError, if it is of something else."""
        lost = []
        for item in data["lost"]:
            events = None if item["events"] is None else _count(item["events"])
            lost.append(Lost(str(item["file"]), str(item["reason"]), events))
        rejected = {str(cut): _count(n) for cut, n in dict(data["rejected"]).items()}
        found = cls(_count(data["n_in"]), _count(data["n_out"]), rejected, tuple(lost))
        try:
            return found.check()
        except AssertionError as error:
            raise ValueError(str(error)) from error

    def summary(self) -> str:
        """Return one line for a person."""
        text = f"{counted(self.n_in, 'event')} in, {self.n_out:,} out"
        text += "".join(f", {count:,} {reason}" for reason, count in self.rejected.items())
        if self.lost:
            files = counted(len({item.file for item in self.lost}), "file")
            text += f", {self.lost_in_words} lost in {files}"
        return text


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"the number of events is {value!r}")
    return value


@dataclass
class Sum:
    """Sum of ledgers that come one by one."""

    n_in: int = 0
    n_out: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    lost: list[Lost] = field(default_factory=list)

    def add(self, one: Ledger) -> None:
        """Add a ledger, however many losses there are already."""
        self.n_in, self.n_out = self.n_in + one.n_in, self.n_out + one.n_out
        self.rejected.update(one.rejected)
        self.lost += one.lost

    @property
    def ledger(self) -> Ledger:
        """The sum as of now."""
        rejected = dict(sorted((+self.rejected).items()))
        return Ledger(self.n_in, self.n_out, rejected, tuple(self.lost))


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """Return the sum of ledgers."""
    found = Sum()
    for one in ledgers:
        found.add(one)
    return found.ledger
