"""Options of `hepflow plan`: those of ingest and features, and what the cluster has."""

from dataclasses import dataclass, field
from pathlib import Path

from hepflow.config.limits import UNUSED, NonNegativeFloat, NonNegativeInt
from hepflow.config.stages import RUNS, SCORES, STORE, FeaturesConfig, IngestConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig(IngestConfig, FeaturesConfig):
    """Predict time, space and memory of every stage, from a sample of the input.

    Options and configuration files are those of ingest and features. Nothing is written.
    """

    store: Path = STORE
    """Feature store that `hepflow features` writes: a folder or a URL."""
    runs: Path = RUNS
    """Folder of the run, and of the report."""
    scores: Path = SCORES
    """Folder or URL for the scores of the input."""
    net: str = "inclusive"
    """Net to train and to score with: a configuration of `hepflow train fit`, or the name of a
    shipped one; none: plan ingest and features only, in half the time."""
    epochs: NonNegativeInt = 0
    """Epochs of the training; 0: the maximum in the net's configuration."""
    nodes: NonNegativeInt = 0
    """Machines; 0: as many as the configuration of Spark and Dask allows, or one."""
    cores: NonNegativeInt = 0
    """Cores per machine; 0: as the configuration says, or those of this one."""
    memory: str = ""
    """Memory per machine, such as 128GB; default: that of this one."""
    quota: str = ""
    """Bytes that you may still write, such as 10TB."""
    quota_files: NonNegativeInt = 0
    """Files that you may still make; 0: any number."""
    time_limit: str = ""
    """Longest job that the queue allows: minutes, H:M:S or D-H:M."""
    json: bool = False
    """Print the plan as one JSON object."""
    only: Path | None = field(default=None, metadata=UNUSED)
    expected: Path | None = field(default=None, metadata=UNUSED)
    watch: NonNegativeFloat = field(default=0.0, metadata=UNUSED)
    compare_definitions: bool = field(default=False, metadata=UNUSED)
