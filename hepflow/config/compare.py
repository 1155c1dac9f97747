"""Options of `hepflow compare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from hepflow.config.limits import Checked, NonNegativeInt, PositiveInt
from hepflow.config.stages import COMPARISON
from hepflow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Checked):
    """Compare two datasets, by quantity and by boosted trees; write compare.html and compare.json.

    The datasets are events of `hepflow ingest` or feature stores, one of each too. Their places may
    be written without the names of the options.
    """

    input: Path
    """Dataset to check: events or a store, a folder or a URL."""
    reference: Path
    """Dataset to compare it with; ratios are input over reference."""
    output: Path = COMPARISON
    """Folder for compare.html and compare.json."""
    names: tuple[str, ...] = ()
    """Names of the two in tables and figures; default: the ends of their paths."""
    classes: tuple[str, ...] = ()
    """Classes to compare; default: all, which must be the same in both."""
    events: PositiveInt = 100_000
    """Events per class and dataset to use: a random sample, if there are more."""
    seed: NonNegativeInt = 1
    """Seed of the sample, the folds and the trees."""
    definitions: Literal["corrected", "reference"] | None = None
    """Definitions of the features of events; default: those of the other dataset if it is a store,
    else corrected."""
    physics: str | None = None
    """User-defined physics for events, as package.module:function."""
    leave_out: tuple[str, ...] = ()
    """Quantities with a known difference: they stay in the tables and figures, but enter neither
    the trees nor the limits."""
    max_auc: Annotated[float, ("at least", 0.5), ("at most", 1)] = 1.0
    """Highest AUC of the trees, of any class or of all: above it, the exit status is 1."""
    max_ks: Annotated[float, ("above", 0), ("at most", 1)] = 1.0
    """Highest Kolmogorov-Smirnov distance of any quantity and class: the same."""
    json: bool = False
    """Print compare.json instead of the tables."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.names and len(set(self.names)) != 2:
            given = ", ".join(self.names)
            raise ConfigError(f"names must hold two different names, got {given}")
        if self.physics and ":" not in self.physics:
            raise ConfigError(f"physics must be package.module:function, got {self.physics!r}")
