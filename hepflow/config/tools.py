"""Configurations of the commands around the pipeline, one frozen dataclass each: stores, baselines, tuning, benchmarks and so on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from hepflow.config.bounds import not_negative, positive
from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.config.stages import BENCH, DEMO, RUNS, STORE, TUNE
from hepflow.errors import ConfigError
from hepflow.schema import CLASSES


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Look into a feature store, or verify it."""

    input: Path = STORE
    """Zarr store to look into."""
    json: bool = False
    """Print what was found as one JSON object."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Import the published SparkDLTrigger Parquet datasets into a feature store, as they are: reference definitions."""

    train: Path
    """Parquet file or folder of the training events, such as trainUndersampled_HLF_features.parquet."""
    test: Path
    """The same of the test events, such as testUndersampled_HLF_features.parquet."""
    output: Path = STORE
    """Zarr store to write."""
    overwrite: bool = False
    """Replace a store of other events or settings; without it that is an error."""
    classes: tuple[str, ...] = CLASSES
    """Names of the classes, in the order of the labels."""
    val_fraction: float = 0.1
    """Share of the training events to hold out for validation."""
    rows_per_part: int = 20000
    """Rows that are held in memory at once, and events a part."""

    def __post_init__(self) -> None:
        positive(self, "rows_per_part")
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(
                f"val_fraction must be at least 0 and less than 1, got {self.val_fraction}"
            )


def _default_space() -> dict[str, Any]:
    return {
        "model.lr": {"low": 5e-4, "high": 2e-2, "log": True},
        "data.batch_size": [32, 64, 128, 256],
    }


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Search for good hyper-parameters of a net with Optuna, by its loss on the validation split; the test split is never looked at."""

    net: str = "hlf"
    """The overlay to start from: a file, or the name of one that comes with hepflow, such as inclusive."""
    input: Path = STORE
    """Feature store."""
    output: Path = TUNE
    """Folder for the search: study.journal, trials.csv, trials.png and best.yaml. The same command goes on with the search in it."""
    space: Mapping[str, Any] = field(default_factory=_default_space)
    """Option of `hepflow train fit` -> a list of its values, or {low, high} with log or step."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: Bayesian; random; grid: every combination of lists."""
    trials: int = 20
    """Trainings at most, those of earlier runs included."""
    pruning: bool = True
    """End trainings early that are worse than the median of the others was at that epoch (or fold)."""
    folds: int = 0
    """Judge by cross-validation in so many folds of the training and validation events, by hash of the event_id; 0: by the val split."""
    seed: int = 1
    """Seed of the search and of every training."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Where the trials run, one a worker."""

    def __post_init__(self) -> None:
        positive(self, "trials")
        not_negative(self, "seed")
        if self.folds < 0 or self.folds == 1:
            raise ConfigError(f"folds must be 0 or at least 2, got {self.folds}")
        if not self.space:
            raise ConfigError(
                "space is empty: give at least one option, such as `space: {model.lr: [0.001, 0.003]}`"
            )
        for name, values in self.space.items():
            _check_values(name, values, in_grid=self.sampler == "grid")


def _check_values(name: str, values: Any, *, in_grid: bool) -> None:
    """Of an option in the space of a search."""
    a_list = isinstance(values, (list, tuple)) and len(values) > 0
    a_range = isinstance(values, Mapping) and {"low", "high"} <= set(values) <= {
        "low",
        "high",
        "log",
        "step",
    }
    if not a_list and (in_grid or not a_range):
        allowed = (
            "a list of values"
            if in_grid
            else "a list of values, or a range {low: 1, high: 10} with log or step"
        )
        raise ConfigError(f"space.{name} must be {allowed}; got {values!r}")
    if a_range:
        _check_range(name, **values)


def _check_range(name: str, low: Any, high: Any, step: Any = None, log: Any = False) -> None:
    numbers = [value for value in (low, high, step) if value is not None]
    fits = (
        all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)
        and low < high
    )
    if not fits or (step is not None and (step <= 0 or log)) or (log and low <= 0):
        allowed = "low below high, numbers both, with step above 0 or else with log, which wants low above 0"
        raise ConfigError(
            f"space.{name}: a range has {allowed}; got low {low!r}, high {high!r}, step {step!r}, log {log!r}"
        )


@dataclass(frozen=True, kw_only=True)
class TreesConfig:
    """Fit gradient-boosted trees (LightGBM) on the high-level features, as a run for `hepflow evaluate` to compare the nets with."""

    input: Path = STORE
    """Feature store."""
    output: Path = RUNS / "trees"
    """Run folder to write."""
    overwrite: bool = False
    """Replace a run made with other settings; without it that is an error."""
    rounds: int = 300
    """Most rounds of boosting, a tree a class in each; it ends where the loss on the validation split no longer falls."""
    learning_rate: float = 0.05
    """Share of each tree that is added."""
    seed: int = 1
    """Seed of the boosting."""

    def __post_init__(self) -> None:
        positive(self, "rounds")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be positive, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class ForestConfig:
    """Fit a random forest on the high-level features with Spark ML, as a run for `hepflow evaluate` to compare the nets with."""

    input: Path = STORE
    """Feature store."""
    output: Path = RUNS / "forest"
    """Run folder to write."""
    overwrite: bool = False
    """Replace a run made with other settings; without it that is an error."""
    trees: int = 100
    """Trees in the forest."""
    depth: int = 12
    """Most levels of a tree."""
    seed: int = 1
    """Seed of the forest."""
    spark: SparkConfig = field(default_factory=SparkConfig)
    """The Spark session."""

    def __post_init__(self) -> None:
        positive(self, "trees", "depth")
        if self.depth > 30:
            raise ConfigError(f"depth must be at most 30, got {self.depth}")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained net as one ONNX file: normalisation inside, batch and length free, checked against the checkpoint."""

    run: Path = RUNS / "inclusive"
    """Run folder of the net, or one of its checkpoint files. Trees are not exported."""
    input: Path | None = None
    """Feature store with the events for the check; default: the one that the run was trained on."""
    output: Path | None = None
    """ONNX file to write; default: model.onnx in the run folder."""
    checkpoint: Literal["best", "last"] = "best"
    """Which of the run's checkpoints: best or last."""
    check_events: int = 256
    """Test events, of every class, on which the ONNX file and the checkpoint must agree; all of them where there are fewer."""
    tolerance: float = 1e-5
    """Largest difference of a logit, absolute or relative."""

    def __post_init__(self) -> None:
        positive(self, "check_events")


LEAST_EVENTS = 50
"""Of a class, for a demo: the training split's share of these is more than a batch, whatever the seed."""
Stage = Literal["simulate", "ingest", "features", "train", "spark-train", "train-gpu", "score"]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure how fast every stage is at several sizes and numbers of workers: tables, bench.json, CSV and plots."""

    output: Path = BENCH
    """Folder for simulated inputs, bench.json, bench.csv and plots. What was measured there by the same code is not measured again."""
    stages: tuple[Stage, ...] = get_args(Stage)
    """Stages to measure. spark-train is the training inside Spark; train-gpu is left out, and named, where no GPU is; score takes raw
    events to scores."""
    nets: tuple[str, ...] = ("hlf", "inclusive")
    """Nets to train, and to score with."""
    sizes: tuple[int, ...] = (100, 400)
    """Selected events a class that are simulated: two sizes tell the start of a command from its work."""
    copies: int = 25
    """Times that the simulated files are repeated, as files of their own, for the stages after simulate, which are many times faster."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of worker processes (jobs, Spark cores, Dask workers, DDP processes or executors), or of GPUs."""
    cores: tuple[int, ...] = (1,)
    """Threads of each process of a training."""
    repeats: int = 3
    """Times that everything is measured, in turn."""
    epochs: int = 3
    """Epochs of a training."""
    extrapolate: float = 0.0
    """Say what so many events would take, such as 54e6; 0: do not."""
    extrapolate_cores: tuple[int, ...] = (32, 256, 1024)
    """Numbers of cores to say it for."""
    json: bool = False
    """Print bench.json in place of the tables."""

    def __post_init__(self) -> None:
        positive(self, "copies", "repeats", "epochs")
        not_negative(self, "extrapolate")
        for name in ("stages", "nets", "sizes", "workers", "cores", "extrapolate_cores"):
            values = getattr(self, name)
            if not values or any(isinstance(value, int) and value < 1 for value in values):
                raise ConfigError(
                    f"{name} must hold at least one value, and no number below 1; got {list(values)}"
                )


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run the whole pipeline on simulated events, from Pythia8 to the report. A second run skips what is up to date."""

    output: Path = DEMO
    """Folder for everything the demo makes."""
    overwrite: bool = False
    """Replace a demo of another size or seed; without it that is an error."""
    size: Literal["small", "medium", "large"] = "small"
    """small: 2,000 selected events a class, 4 minutes on two cores, 0.2 GB of disk; medium: 20,000, half an hour, 2 GB; large: 200,000,
    four hours, 20 GB. Medium and large train for fewer epochs; their times and sizes are scaled up from small."""
    events: int = 0
    """Selected events a class, at least 50; 0: as the size says."""
    seed: int = 1
    """Seed of the simulation and of the trainings."""

    def __post_init__(self) -> None:
        not_negative(self, "events", "seed")
        if 0 < self.events < LEAST_EVENTS:
            raise ConfigError(
                f"events must be at least {LEAST_EVENTS}, with which an epoch has more than a batch; got {self.events}"
            )


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Say what this machine has for each stage, what is missing, and how to get it."""

    json: bool = False
    """Print the findings as one JSON object."""
    strict: bool = False
    """End with an error if a stage cannot run here."""
