"""One frozen dataclass a stage, and the paths that chain them: a stage's default input is the output before it.

The string under a field is its help text on the command line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hepflow.config.bounds import not_negative, positive
from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.errors import ConfigError
from hepflow.schema import CLASSES, TREE

RAW = Path("data/raw")
EVENTS = Path("data/events")
STORE = Path("data/features.zarr")
RUNS = Path("runs")
TUNE = Path("tune")
BENCH = Path("bench")
REPORT = Path("reports/latest")
DEMO = Path("demo")
SCORES = Path("scores")
KAFKA = "kafka://"


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """Generate Delphes-layout ROOT files with Pythia8 and a parametric detector, one folder a class."""

    input: Path | None = None
    """A cached minimum-bias pool (.npz) to overlay; default: generated, and kept beside the output."""
    output: Path = RAW
    """Folder to fill: one folder a class, ROOT files with a JSON sidecar each."""
    overwrite: bool = False
    """Replace files made with other settings, and remove those not asked for; without it other settings are an error."""
    classes: tuple[str, ...] = CLASSES
    """Processes to generate, of qcd, ttbar and wjets."""
    events: int = 2000
    """Events a class that pass the trigger selection; the files hold the rejected ones too."""
    events_per_file: int = 250
    """Selected events a file: one file is one job."""
    seed: int = 1
    """Same seed, same events, whatever the number of jobs."""
    pileup: float = 20.0
    """Mean number of minimum-bias events laid over each event."""
    pool: int = 500
    """Minimum-bias events in the pool that pile-up is drawn from."""
    underlying_event: Literal["overlay", "mpi"] = "overlay"
    """overlay: fast, soft events from the pool; mpi: Pythia's own multi-parton interactions, about ten times slower."""
    qcd_quarks: Literal["b", "bc"] = "b"
    """Heavy quarks behind the QCD leptons: b with forced leptonic decays (fast) or b and c with natural ones."""
    jobs: int = 0
    """Processes at once; 0: as many as the machine has cores."""

    def __post_init__(self) -> None:
        positive(self, "events", "events_per_file", "pool")
        not_negative(self, "pileup", "jobs")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """Where raw events come from, and what to do about files that do not read."""

    input: str | Path = RAW
    """Folder or URL (root://, s3://, hdfs://, http://) of ROOT files."""
    tree: str = TREE
    """Name of the tree in the ROOT files; of several cycles the highest counts."""
    max_lost_files: int = 0
    """Bad files to tolerate before the command ends with an error; they are quarantined and listed in any case."""
    retries: int = 3
    """Further tries, one, two, four ... seconds apart, before an I/O error is taken for a bad file."""
    timeout_s: float = 60.0
    """Seconds to wait for a remote server."""

    def __post_init__(self) -> None:
        if "://" not in str(self.input):
            object.__setattr__(self, "input", Path(self.input))
        not_negative(self, "max_lost_files", "retries", "timeout_s")


@dataclass(frozen=True, kw_only=True)
class IngestConfig(ReadingConfig):
    """Read Delphes ROOT files with Spark, skim them, and write Parquet with one list of structs a collection."""

    input: str | Path = RAW
    """Folder or URL (root://, s3://, hdfs://, http://) of ROOT files, one folder a class or as samples say."""
    output: Path = EVENTS
    """Parquet dataset to write."""
    overwrite: bool = False
    """Replace a dataset made with other settings; without it that is an error."""
    samples: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {name: (name,) for name in CLASSES}
    )
    """Class -> folders, files or globs of either under the input; the order gives the labels."""
    unmatched: Literal["refuse", "skip"] = "refuse"
    """What to do about ROOT files that samples give no class: end with an error, or leave them out and say how many."""
    target_partition_mb: int = 128
    """MiB (2^20 bytes) of ROOT file a task reads: larger files are cut, smaller ones packed."""
    retry_quarantined: bool = False
    """Read again the files that could not be read before; without it only those that changed since."""
    estimate: bool = False
    """Read a small sample, say what the run would take and give, and stop."""
    json: bool = False
    """Print the estimate as one JSON object."""
    watch: float = 0.0
    """Look for new files every so many seconds until interrupted; a file is taken once it has looked the same twice. 0: run once."""
    spark: SparkConfig = field(default_factory=SparkConfig)
    """The Spark session."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "target_partition_mb")
        not_negative(self, "watch")
        if self.json and not self.estimate:
            raise ConfigError(
                "json is for the estimate: give --estimate too. What a dataset holds stands in its _hepflow.json."
            )
        if not self.samples:
            raise ConfigError(
                "samples names no class: give at least one, such as `samples: {qcd: [qcd]}`"
            )


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Turn Parquet events into jagged Zarr arrays with Dask: selection, isolation, 14 high- and 19 low-level features."""

    input: Path = EVENTS
    """Parquet dataset to read."""
    output: Path = STORE
    """Zarr store to write."""
    overwrite: bool = False
    """Replace a store made with other settings; without it that is an error."""
    definitions: Literal["corrected", "reference"] = "corrected"
    """corrected physics, or the 2019 pipeline's event for event (reference)."""
    physics: str | None = None
    """A function of your own in place of hepflow's, as package.module:function (docs/own-physics.md)."""
    splits: Mapping[str, float] = field(
        default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2}
    )
    """Share of the events in each split; by hash of the event_id, so that files added later move no event."""
    keep_bits: int = 23
    """Bits of the 23-bit mantissa that the particles' features keep; 23: all; 12 saves two fifths of the store at errors of 1e-4."""
    task_mb: int = 64
    """MiB (2^20 bytes) of uncompressed Parquet a task holds, fewer if a worker lacks the memory. Larger fragments are cut between row
    groups."""
    compare_definitions: bool = False
    """Print what each difference between the definitions does to the events, and write nothing."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Dask cluster."""

    def __post_init__(self) -> None:
        positive(self, "task_mb")
        if not 1 <= self.keep_bits <= 23:
            raise ConfigError(f"keep_bits must be from 1 to 23, got {self.keep_bits}")
        if (
            set(self.splits) != {"train", "val", "test"}
            or abs(sum(self.splits.values()) - 1) > 1e-9
            or min(self.splits.values()) < 0
        ):
            raise ConfigError(
                f"splits must be train, val and test, not negative, adding up to 1; got {dict(self.splits)}"
            )
        if self.physics is not None and ":" not in self.physics:
            raise ConfigError(f"physics must be package.module:function, got {self.physics!r}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Where a training runs and what it leaves behind."""

    output: Path | None = None
    """Run folder; default: runs/NAME, by the --config that chooses the net."""
    overwrite: bool = False
    """Replace what another configuration has trained in the run folder."""
    ckpt_path: Path | None = None
    """Checkpoint to use, default: the best of the run folder; for fit the one to begin with, default: none."""
    checkpoint_every_steps: int = 2000
    """Steps between two last.ckpt within an epoch; 0: none."""
    threads: int = 0
    """Threads of a process for its arithmetic; 0: as torch chooses."""

    def __post_init__(self) -> None:
        not_negative(self, "checkpoint_every_steps", "threads")


@dataclass(frozen=True, kw_only=True)
class SparkTrainConfig(SparkConfig):
    """How to reach a Spark cluster, and what a training takes of it."""

    num_processes: int = 2
    """Processes that train together, one a Spark task."""
    cpus_per_process: int = 1
    """Cores of each, for its threads; it takes whole executors of this size, unless spark.conf says otherwise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "num_processes", "cpus_per_process", within="spark.")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Compare trained models on the test split: metrics.json and a self-contained report.html."""

    input: Path = RUNS
    """Folder of runs."""
    runs: tuple[str, ...] = ()
    """Runs under the input to compare (names or paths); default: every one that holds predictions."""
    output: Path = REPORT
    """Folder to write the report into."""
    store: Path | None = None
    """Feature store of the runs, for the leak check, efficiencies against kinematics and event displays; default: the one they name."""
    signal: tuple[str, ...] = ()
    """Classes that the trigger is to keep; the others are what it rejects. Default: all but the first, so ttbar and wjets."""
    mix: Mapping[str, float] = field(
        default_factory=lambda: {"wjets": 0.634, "qcd": 0.362, "ttbar": 0.004}
    )
    """Share of each class in the lepton trigger's rate, behind rate reductions and purities. Default: the poster of the original
    project (SparkDLTrigger, Docs/Poster.pdf)."""
    targets: tuple[float, ...] = (0.90, 0.95, 0.99)
    """Signal efficiencies of the working points; the highest makes the headline."""
    features: tuple[str, ...] = ("HT", "MET", "nJets", "LepPt")
    """High-level features to show the efficiency against."""
    events: tuple[int, ...] = ()
    """event_ids to draw, beside the hardest ones."""
    ablation: bool = False
    """Compare each model under different definitions of the features, on the events that both stores have in their test split."""
    allow_different_splits: bool = False
    """Compare models tested on different events all the same; the report says so."""
    bootstrap: int = 200
    """Bootstrap replicas behind each error of an AUC and of a working point."""
    exact_below: int = 200_000
    """Up to this many events every distinct score counts; beyond, scores are put into 65,536 bins."""
    seed: int = 1
    """Seed of the bootstrap."""
    json: bool = False
    """Print metrics.json in place of the table."""

    def __post_init__(self) -> None:
        not_negative(self, "exact_below", "seed")
        if self.bootstrap < 2:
            raise ConfigError(
                f"bootstrap must be at least 2, between which errors can be told; got {self.bootstrap}"
            )
        if not self.targets or not all(0 < target < 1 for target in self.targets):
            raise ConfigError(
                f"targets must be signal efficiencies between 0 and 1, such as 0.99; got {list(self.targets)}"
            )
        if any(share < 0 for share in self.mix.values()):
            raise ConfigError(f"mix must hold shares that are not negative, got {dict(self.mix)}")
