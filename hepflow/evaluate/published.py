"""Published numbers of the same pipeline and classifiers: the content of published.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Rate:
    """A published throughput."""

    stage: str
    what: str
    machine: str
    events_per_s: float
    source: str
    cores: int | None = None
    date: str = "2019"


@dataclass(frozen=True)
class Result:
    """A published training."""

    model: str
    run: str
    """Software and hardware."""
    where: str
    """Document or notebook in the repository."""
    auc: Mapping[str, float] = field(default_factory=dict)
    """Class -> one-vs-rest AUC."""
    accuracy: float | None = None
    training: str = ""
    events_per_s: float | None = None


CONTENT = yaml.safe_load(FILE.read_text())
NOTE, CLAIM, REPOSITORY = CONTENT["note"], CONTENT["claim"], CONTENT["repository"]
TEST_EVENTS = CONTENT["test_events"]
RATES = tuple(Rate(**rate) for rate in CONTENT["rates"])
TABLE = tuple(Result(**result) for result in CONTENT["results"])
