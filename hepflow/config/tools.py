"""Configurations of the commands next to the pipeline, one frozen dataclass each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.config.limits import Checked, NonNegativeInt, PositiveFloat, PositiveInt
from hepflow.config.stages import BENCH, DEMO, RUNS, STORE, TUNE
from hepflow.errors import ConfigError
from hepflow.schema import CLASSES


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """Inspect or verify a feature store."""

    input: Path = STORE
    """Zarr store to read: a folder or a URL."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """Copy a feature store into few large files: one of version 1, or one that grew in small steps.

    The events, and the hash that runs know the store by, stay the same.
    """

    input: Path
    """Zarr store to read: a folder or a URL."""
    output: Path
    """Zarr store to write: a folder or a URL; the same command resumes."""
    overwrite: bool = False
    """Replace a store of other events; without it, that is an error."""


@dataclass(frozen=True, kw_only=True)
class PredictedConfig:
    """Events that a net is applied to."""

    store: Path = STORE
    """Feature store of the reference definitions: a folder or a URL."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Checked):
    """Import what SparkDLTrigger published: datasets into a feature store, or a net as a run.

    Datasets are imported unchanged; their features follow the reference definitions. A net
    becomes two runs of predictions for `hepflow evaluate`, one of them with offsets of the classes.
    """

    train: Path | None = None
    """Parquet file or folder of training events, or its URL, such as
    trainUndersampled_HLF_features.parquet."""
    test: Path | None = None
    """Parquet file or folder of test events, or its URL, such as
    testUndersampled_HLF_features.parquet."""
    model: Path | None = None
    """Instead of datasets, the file of a net (.h5, .keras, or .bigdl with .bin next to it)."""
    data: PredictedConfig = field(default_factory=PredictedConfig)
    """Events for a net."""
    output: Path | None = None
    """Zarr store to write, a folder or a URL, default: data/features.zarr; or run folder, default:
    runs/cern_inclusive, cern_sequence or cern_hlf."""
    overwrite: bool = False
    """Replace a store or run of other events or settings; without it, that is an error."""
    classes: tuple[str, ...] = CLASSES
    """Names of the classes, in the order of the labels."""
    val_fraction: Annotated[float, ("at least", 0), ("below", 1)] = 0.1
    """Fraction of the training events to hold out for validation."""
    rows_per_part: Annotated[int, ("at least", 1), ("at most", 60_000)] = 20_000
    """Events per part, and rows held in memory at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [path is not None for path in (self.train, self.test)]
        if any(given) if self.model else not all(given):
            needed = "--train and --test to import datasets, or --model alone to import a net"
            raise ConfigError(f"give {needed}")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Checked):
    """Search for good hyper-parameters of a net with Optuna, by its loss on the val split.

    The test split is not used.
    """

    net: str = "hlf"
    """Overlay to start from: a file, or the name of a shipped one, such as inclusive."""
    input: Path = STORE
    """Feature store."""
    output: Path = TUNE
    """Folder for the study, its trials and best.yaml; the same command resumes the search."""
    space: Mapping[str, Any] = field(
        default_factory=lambda: {
            "model.lr": {"low": 5e-4, "high": 2e-2, "log": True},
            "data.batch_size": [32, 64, 128, 256],
        }
    )
    """Option of `hepflow train fit` -> list of values, or {low, high} with log or step."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: Bayesian; random; grid: every combination of the lists."""
    trials: PositiveInt = 20
    """Maximum number of trials, including those of earlier runs."""
    pruning: bool = True
    """Stop a trial early if it is worse than the median of the others at the same epoch or fold."""
    folds: NonNegativeInt = 0
    """Folds for cross-validation, by hash of the event_id; 0: use the val split."""
    seed: NonNegativeInt = 1
    """Seed of the search and of every training."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Workers for the trials, one trial each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds == 1:
            raise ConfigError("folds must be 0 or at least 2, got 1")
        if not self.space:
            example = "such as `space: {model.lr: [0.001, 0.003]}`"
            raise ConfigError(f"space is empty. Give at least one option, {example}.")
        for name, values in self.space.items():
            if not isinstance(values, (list, tuple)) or not values:
                self._check_range(name, values)

    def _check_range(self, name: str, values: Any) -> None:
        is_range = isinstance(values, Mapping) and {*values} - {"log", "step"} == {"low", "high"}
        if self.sampler == "grid" or not is_range:
            other = ", or a range {low: 1, high: 10} with log or step"
            allowed = f"a list of values{'' if self.sampler == 'grid' else other}"
            raise ConfigError(f"space.{name} must be {allowed}; got {values!r}")
        low, high, step = values["low"], values["high"], values.get("step")
        for value in (low, high, 1 if step is None else step):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"space.{name}: {value!r} is not a number")
        log = values.get("log", False)
        if low >= high or (step is not None and (step <= 0 or log)) or (log and low <= 0):
            rule = "low < high, and either step > 0 or log (then low > 0)"
            raise ConfigError(f"space.{name} must be a range with {rule}; got {dict(values)}")


@dataclass(frozen=True, kw_only=True)
class TreesConfig(Checked):
    """Fit boosted trees (LightGBM) on the high-level features, to compare the nets with."""

    input: Path = STORE
    """Feature store."""
    output: Path = RUNS / "trees"
    """Run folder to write."""
    overwrite: bool = False
    """Replace a run made with other settings; without it, that is an error."""
    rounds: PositiveInt = 300
    """Maximum number of boosting rounds; it stops when the val loss no longer decreases."""
    learning_rate: PositiveFloat = 0.05
    """Weight of each added tree."""
    seed: int = 1
    """Seed of the boosting."""


@dataclass(frozen=True, kw_only=True)
class ForestConfig(Checked):
    """Fit a random forest (Spark ML) on the high-level features, to compare the nets with."""

    input: Path = STORE
    """Feature store."""
    output: Path = RUNS / "forest"
    """Run folder to write."""
    overwrite: bool = False
    """Replace a run made with other settings; without it, that is an error."""
    trees: PositiveInt = 100
    """Trees in the forest."""
    depth: Annotated[int, ("at least", 1), ("at most", 30)] = 12
    """Maximum depth of a tree."""
    seed: int = 1
    """Seed of the forest."""
    spark: SparkConfig = field(default_factory=SparkConfig)
    """The Spark session."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Checked):
    """Write a trained net, with its normalisation, as one ONNX file, and check it."""

    run: Path = RUNS / "inclusive"
    """Run folder of the net, or one of its checkpoint files. Trees cannot be exported."""
    input: Path | None = None
    """Feature store with the events for the comparison; default: the one used in training."""
    output: Path | None = None
    """ONNX file to write; default: model.onnx in the run folder."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run to export."""
    check_events: PositiveInt = 256
    """Test events, from all classes, on which the ONNX file must agree with the checkpoint."""
    tolerance: float | None = None
    """Maximum difference of a logit, absolute or relative; default: 1e-5, or what float32 rounds
    (6e-8) for each particle of the longest event, if that is more."""


LEAST_EVENTS = 50  # per class in the demo: the training split is then larger than one batch
Stage = Literal["simulate", "ingest", "features", "train", "spark-train", "train-gpu", "score"]


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Checked):
    """Measure the speed of every stage at several sizes and numbers of workers."""

    output: Path = BENCH
    """Folder for inputs, results and plots; results of the same code are not measured again."""
    stages: tuple[Stage, ...] = get_args(Stage)
    """Stages to measure; train-gpu is skipped without a GPU; score: raw events to scores."""
    nets: tuple[str, ...] = ("hlf", "inclusive")
    """Nets to train, and to score with."""
    sizes: tuple[PositiveInt, ...] = (100, 400)
    """Simulated selected events per class; two sizes separate start-up from work."""
    copies: PositiveInt = 25
    """Copies of the simulated files, for the stages after simulate, which are much faster."""
    workers: tuple[PositiveInt, ...] = (1, 2)
    """Numbers of worker processes (Spark cores, Dask workers, DDP processes ...), or of GPUs."""
    cores: tuple[PositiveInt, ...] = (1,)
    """Threads per training process."""
    repeats: PositiveInt = 3
    """Number of times each measurement is repeated, in turn."""
    epochs: PositiveInt = 3
    """Epochs per training."""
    extrapolate: Annotated[float, ("at least", 0)] = 0.0
    """Number of events, such as 54e6, to extrapolate the times to; 0: none."""
    extrapolate_cores: tuple[PositiveInt, ...] = (32, 256, 1024)
    """Numbers of cores to extrapolate to."""
    json: bool = False
    """Print bench.json instead of the tables."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stages", "nets"):
            if not getattr(self, name):
                raise ConfigError(f"{name} must hold at least one value")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Checked):
    """Run the whole pipeline on simulated events; a second run skips up-to-date stages."""

    output: Path = DEMO
    """Folder for all output of the demo."""
    overwrite: bool = False
    """Replace a demo of another size or seed; without it, that is an error."""
    size: Literal["small", "medium", "large"] = "small"
    """small: 2,000 selected events per class, 4 minutes on two cores, 0.2 GB of disk; medium:
    20,000, half an hour, 2 GB; large: 200,000, four hours, 20 GB. Medium and large train for fewer
    epochs; their times and sizes are scaled from small."""
    events: NonNegativeInt = 0
    """Selected events per class, at least 50; 0: as given by size."""
    seed: NonNegativeInt = 1
    """Seed of the simulation and of the trainings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.events < LEAST_EVENTS:
            rule = f"at least {LEAST_EVENTS}, otherwise an epoch is shorter than one batch"
            raise ConfigError(f"events must be {rule}; got {self.events}")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Report what this machine has for each stage, what is missing, and how to install it."""

    json: bool = False
    """Print the findings as one JSON object."""
    strict: bool = False
    """End with an error if a stage cannot run on this machine."""
