"""Published numbers of the same pipeline and classifiers: the content of published.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Result:
    """A published training: its ``run`` is software and hardware, ``where`` the document."""

    model: str
    run: str
    where: str
    auc: Mapping[str, float] = field(default_factory=dict)  # of a class against the rest
    accuracy: float | None = None
    training: str = ""
    events_per_s: float | None = None


CONTENT = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
NOTE, CLAIM, REPOSITORY = CONTENT["note"], CONTENT["claim"], CONTENT["repository"]
TEST_EVENTS = CONTENT["test_events"]
TABLE = tuple(Result(**result) for result in CONTENT["results"])
