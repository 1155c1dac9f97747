"""One frozen dataclass per stage; by default, a stage reads the output of the previous one.

The string under a field is its help text on the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.config.limits import (
    Checked,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from hepflow.errors import ConfigError
from hepflow.schema import CLASSES, SPLITS, TREE
from hepflow.system.files import plain_name
from hepflow.system.places import expanded

RAW = Path("data/raw")
EVENTS = Path("data/events")
STORE = Path("data/features.zarr")
RUNS = Path("runs")
TUNE = Path("tune")
BENCH = Path("bench")
REPORT = Path("reports/latest")
COMPARISON = Path("reports/compare")
DEMO = Path("demo")
SCORES = Path("scores")
KAFKA = "kafka://"
SAMPLES = {name: (name,) for name in CLASSES}
FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}
MIX = {"wjets": 0.634, "qcd": 0.362, "ttbar": 0.004}


@dataclass(frozen=True, kw_only=True)
class SimulateConfig(Checked):
    """Generate ROOT files in Delphes' layout with Pythia8 and a parametric detector."""

    input: Path | None = None
    """Minimum-bias pool (.npz) to use; default: generated once, and kept in the user's cache."""
    output: Path = RAW
    """Folder or URL to write: one folder per class, and a JSON file per ROOT file."""
    overwrite: bool = False
    """Replace files of other settings, which is an error otherwise, and remove surplus files."""
    delphes: Path | None = None
    """Card of Delphes (.tcl), which replaces the parametric detector: it decides the pile-up too,
    and a file has at least the requested events (docs/delphes.md)."""
    classes: tuple[str, ...] = CLASSES
    """Processes to generate: qcd, ttbar and wjets."""
    events: PositiveInt = 2000
    """Events per class that pass the trigger selection; the files also contain rejected events."""
    events_per_file: PositiveInt = 250
    """Selected events per file (each file is one job)."""
    seed: int = 1
    """Random seed; the events do not depend on the number of jobs."""
    pileup: NonNegativeFloat = 20.0
    """Mean number of minimum-bias events added to each event."""
    beam_spot: Literal["gaussian", "flat"] = "gaussian"
    """Spread of the collisions along the beam: sigma of 53 mm, or flat within ±150 mm."""
    pool: PositiveInt = 16_000
    """Number of minimum-bias events that pile-up is drawn from."""
    underlying_event: Literal["overlay", "mpi"] = "overlay"
    """overlay: soft events from the pool; mpi: Pythia's multiparton interactions, 10 x slower."""
    qcd_quarks: Literal["b", "bc"] = "bc"
    """Sources of QCD leptons: b and c in their natural proportion, or b alone."""
    jobs: NonNegativeInt = 0
    """Number of parallel processes; 0: one per core."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_card = {"pileup": "MeanPileUp", "beam_spot": "VertexDistributionFormula"}
        for name, its in in_card.items() if self.delphes is not None else ():
            if getattr(self, name) != getattr(SimulateConfig, name):
                advice = f"Leave out {name}, and set {its} in the card."
                raise ConfigError(f"{name} is for the parametric detector. {advice}")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig(Checked):
    """Place of the raw events, and treatment of unreadable files."""

    input: str | Path = RAW
    """Folder or URL (root://, s3://, hdfs://, http://) of ROOT files."""
    tree: str = TREE
    """Name of the tree in the ROOT files; of several cycles, the highest is read."""
    max_lost_files: NonNegativeInt = 0
    """Unreadable files to tolerate before the command fails; they are always listed."""
    retries: NonNegativeInt = 3
    """Retries (after 1, 2, 4, ... s) before a file with I/O errors counts as unreadable."""
    timeout_s: NonNegativeFloat = 60.0
    """Seconds to wait for a remote server."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.input, str):
            text = expanded(self.input)
            object.__setattr__(self, "input", text if "://" in text else Path(text))


@dataclass(frozen=True, kw_only=True)
class IngestConfig(ReadingConfig):
    """Read Delphes ROOT files with Spark, skim them, and write Parquet."""

    output: Path = EVENTS
    """Parquet dataset to write: a folder, or a URL (hdfs://, s3://, root://)."""
    overwrite: bool = False
    """Replace a dataset made with other settings; without it, that is an error."""
    samples: Mapping[str, tuple[str, ...]] = field(default_factory=SAMPLES.copy)
    """Class -> folders, files or globs below the input; their order gives the labels."""
    unmatched: Literal["refuse", "skip"] = "refuse"
    """ROOT files that match no class: end with an error (refuse), or leave them out (skip)."""
    target_partition_mb: PositiveInt = 128
    """MiB (2^20 bytes) of ROOT file per task: larger files are divided, smaller ones combined."""
    retry_quarantined: bool = False
    """Read quarantined files again; without it, only those that have changed."""
    only: Path | None = None
    """List of files (and entries) to read again, or to make a dataset of: _lost.json of a dataset,
    or a text with a name per line."""
    expected: Path | None = None
    """Expected entries of each file, to compare with: a CSV with the columns file and entries, or
    JSON."""
    watch: NonNegativeFloat = 0.0
    """Polling interval in seconds; a file is read once its size is unchanged. 0: run once."""
    spark: SparkConfig = field(default_factory=SparkConfig)
    """The Spark session."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("only", "expected"):
            if self.watch and getattr(self, name) is not None:
                raise ConfigError(f"{name} is for a single run. Leave out watch.")
        if not self.samples:
            example = "Give at least one, such as `samples: {qcd: [qcd]}`."
            raise ConfigError(f"samples names no class. {example}")
        for name in self.samples:
            try:
                plain_name(name)
            except ValueError as error:
                raise ConfigError(
                    f"samples: {error}. A class is a folder of the output."
                ) from error


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(Checked):
    """Select events and compute features with Dask: Parquet in, jagged Zarr arrays out."""

    input: Path = EVENTS
    """Parquet dataset to read: a folder, or a URL (hdfs://, s3://, root://)."""
    output: Path = STORE
    """Zarr store to write: a folder or a URL."""
    overwrite: bool = False
    """Replace a store made with other settings; without it, that is an error."""
    definitions: Literal["corrected", "reference"] = "corrected"
    """corrected: hepflow's definitions; reference: those of the 2019 pipeline, event by event."""
    physics: str | None = None
    """User-defined physics, as package.module:function (docs/own-physics.md)."""
    splits: Mapping[str, float] = field(default_factory=FRACTIONS.copy)
    """Fraction of the events in each split, by hash of the event_id: new files move no event."""
    keep_bits: Annotated[int, ("at least", 1), ("at most", 23)] = 23
    """Mantissa bits kept in the particles' features; 12 saves two fifths, with errors of 1e-4."""
    task_mb: PositiveInt = 64
    """MiB of uncompressed Parquet in memory at once, less if memory is short."""
    part_mb: PositiveFloat = 1024
    """MiB of uncompressed Parquet per part (task) at most; a store of few events has smaller ones,
    so that all workers have some. Parts decide the number of files."""
    compare_definitions: bool = False
    """Print how each difference between the definitions changes the events, and write nothing."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Dask cluster."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions = self.splits.values()
        if {*self.splits} != {*SPLITS} or abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
            rule = "splits must be train, val and test, not negative, with a sum of 1"
            raise ConfigError(f"{rule}; got {dict(self.splits)}")
        if self.physics and ":" not in self.physics:
            raise ConfigError(f"physics must be package.module:function, got {self.physics!r}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """Output and resources of a training."""

    output: Path | None = None
    """Run folder; default: runs/NAME, after the --config that chooses the net."""
    overwrite: bool = False
    """Replace a run with another configuration in the run folder."""
    ckpt_path: Path | None = None
    """Checkpoint to use, default: the best of the run; for fit the one to start from."""
    checkpoint_every_steps: NonNegativeInt = 2000
    """Steps between saves of last.ckpt within an epoch; 0: none."""
    threads: NonNegativeInt = 0
    """Threads per process for arithmetic; 0: torch's default."""


@dataclass(frozen=True, kw_only=True)
class SparkTrainConfig(SparkConfig):
    """A Spark cluster, and the resources of a training in it."""

    num_processes: PositiveInt = 2
    """Number of training processes (one per Spark task)."""
    cpus_per_process: PositiveInt = 1
    """Cores per process; each process takes an executor of this size (but see spark.conf)."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Checked):
    """Compare trained models on the test split: metrics.json and a self-contained report.html."""

    input: Path = RUNS
    """Folder of runs."""
    runs: tuple[str, ...] = ()
    """Runs below the input to compare (names or paths); default: all that have predictions."""
    output: Path = REPORT
    """Folder for the report."""
    store: Path | None = None
    """Feature store (folder or URL), for leakage check, kinematics and displays; default: the one
    of the runs."""
    signal: tuple[str, ...] = ()
    """Classes to keep; the others are background. Default: all but the first."""
    mix: Mapping[str, NonNegativeFloat] = field(default_factory=MIX.copy)
    """Fraction of each class in the rate of the lepton trigger, for rate reductions and purities.
    Default: the poster of the original project (SparkDLTrigger, Docs/Poster.pdf)."""
    targets: tuple[Annotated[float, ("above", 0), ("below", 1)], ...] = (0.90, 0.95, 0.99)
    """Signal efficiencies of the working points; the highest gives the headline."""
    features: tuple[str, ...] = ("HT", "MET", "nJets", "LepPt")
    """High-level features against which the efficiency is plotted."""
    events: tuple[int, ...] = ()
    """event_ids to draw, in addition to the hardest events."""
    ablation: bool = False
    """Compare each model under different definitions, on the test events that the stores share."""
    allow_different_splits: bool = False
    """Compare models even if they were tested on different events; the report states this."""
    common_events: bool = False
    """Compare models on the events that all of them were tested on, such as those on stores of both
    definitions."""
    bootstrap: Annotated[int, ("at least", 2)] = 200
    """Bootstrap replicas for the errors of AUCs and working points."""
    exact_below: NonNegativeInt = 200_000
    """Maximum number of events for exact scores; above it, they are put into 65,536 bins."""
    seed: NonNegativeInt = 1
    """Seed of the bootstrap."""
    json: bool = False
    """Print metrics.json instead of the table."""

    @property
    def other_events(self) -> bool:
        """Whether models may have been tested on different events, or on other stores."""
        return self.ablation or self.allow_different_splits or self.common_events
