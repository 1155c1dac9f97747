"""What came into a stage and what became of it: in = out + rejected (by reason) + lost (by file). And the provenance hash.

A ledger is a value: stages make one a task, add them up, check the sum and store it beside their output.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any


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
        return Ledger(self.n_in + other.n_in, self.n_out + other.n_out, dict(sorted(rejected.items())), self.lost + other.lost)

    def check(self) -> "Ledger":
        """Itself, if it reconciles.

        Raises
        ------
        AssertionError
            Events appeared or vanished: a bug of hepflow, never of the data.
        """
        if self.n_in != self.n_out + self.n_rejected + self.n_lost:
            msg = f"the ledger does not reconcile: {self.n_in} in, {self.n_out} out, {self.n_rejected} rejected, {self.n_lost} lost"
            raise AssertionError(msg)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ledger":
        """Inverse of `to_dict`."""
        return cls(data["n_in"], data["n_out"], dict(data["rejected"]), tuple(Lost(**item) for item in data["lost"]))

    def summary(self) -> str:
        """One line for a person."""
        cuts = "".join(f", {count:,} {reason}" for reason, count in self.rejected.items())
        lost = f", {self.lost_in_words} lost in {counted(len({item.file for item in self.lost}), 'file')}" if self.lost else ""
        return f"{counted(self.n_in, 'event')} in, {self.n_out:,} out{cuts}{lost}"


def counted(number: int, what: str) -> str:
    """``1 file``, ``2,000 files``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """Sum of ledgers."""
    return reduce(Ledger.__add__, ledgers, Ledger())


def digest(*parts: Any) -> str:
    """Short hash of configurations and other plain values: the same content, the same hash, in any process.

    Parameters
    ----------
    *parts
        Dataclasses, mappings, sequences, paths, numbers, strings.

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    text = json.dumps([_plain(part) for part in parts])  # in the order given: that of the classes is their labels
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def code_hash(folder: Path = Path(__file__).parent, leave_out: tuple[str, ...] = ()) -> str:
    """Hash of the sources under a folder, by default of hepflow itself: the same code, the same hash, wherever it is installed.

    Parameters
    ----------
    folder : Path
    leave_out : tuple of str
        How the paths of sources begin that do not count.
    """
    sources = sorted(path for path in folder.rglob("*.*") if path.suffix in {".py", ".j2", ".css", ".js"})
    named = [(path.relative_to(folder).as_posix(), path) for path in sources]
    return digest([(name, path.read_text()) for name, path in named if not name.startswith(leave_out)])


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
