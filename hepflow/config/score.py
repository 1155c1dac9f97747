"""Configurations of `hepflow score` and `hepflow replay`, one frozen dataclass each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.config.limits import Checked, NonNegativeFloat, PositiveFloat, PositiveInt
from hepflow.config.stages import KAFKA, RAW, REPORT, RUNS, SCORES, ReadingConfig
from hepflow.data.runs import ONNX
from hepflow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KafkaConfig(Checked):
    """Options for reading a topic."""

    within: ClassVar[str] = "kafka."
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further client properties, in librdkafka's names, such as security.protocol. A password may
    be file:PATH, env:NAME or keyring:SERVICE/USER."""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further options of Spark's own connector, such as kafka.security.protocol, if it is used."""
    starting: Literal["earliest", "latest"] = "earliest"
    """Start of the first run in the topic; later runs resume where the last one stopped."""
    max_messages: PositiveInt = 256
    """Maximum messages per micro-batch; further messages wait in the topic."""
    max_message_mb: PositiveFloat = 16.0
    """Larger messages, in MiB (2^20 bytes), are quarantined unread."""
    roll_s: PositiveFloat = 600.0
    """Seconds after which the scores of micro-batches are merged into one file."""
    roll_mb: PositiveInt = 256
    """MiB (2^20 bytes) of their files from which they are merged earlier."""
    remembered: PositiveInt = 100_000
    """Latest messages of which a copy is recognised."""
    connector: Literal["auto", "spark", "python"] = "auto"
    """spark: spark-sql-kafka (a Spark package); python: confluent-kafka; auto: the first found."""

    @property
    def max_message_bytes(self) -> int:
        """Bytes of the largest message that is read."""
        return int(self.max_message_mb * (1 << 20))


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ReadingConfig):
    """Score raw events with an exported net: features, probabilities, trigger decision."""

    model: Path = RUNS / "inclusive" / ONNX
    """ONNX file of `hepflow train fit` or `hepflow export`, or its URL."""
    input: str | Path = RAW
    """Folder or URL of ROOT files (of any class), a dataset of `hepflow ingest`, or (with stream)
    kafka://HOST:PORT/TOPIC."""
    output: Path = SCORES
    """Folder or URL for the scores (a folder, if a topic is read); use one per model and working
    point."""
    overwrite: bool = False
    """Replace scores made with other settings; without it, that is an error."""
    working_point: str = ""
    """Working point of the trigger: CLASS@EFFICIENCY from the report, such as ttbar@0.99; several,
    separated by commas, give one stream each. Default: none."""
    report: Path = REPORT
    """Report of `hepflow evaluate` with the thresholds of the working points."""
    physics: str | None = None
    """User-defined physics that the net was trained with, as package.module:function."""
    store: Path | None = None
    """Feature store (folder or URL) to compare the model with: its features and normalisation must
    be the same."""
    target_partition_mb: PositiveInt = 128
    """MiB (2^20 bytes) of ROOT files per task: larger files are divided, smaller ones share a task.
    Of more than 10,000 tasks, each reads more."""
    retry_quarantined: bool = False
    """Read quarantined files again; without it, only those that have changed."""
    only: Path | None = None
    """List of files to score, and no others: _lost.json of a folder of scores or of a dataset, or a
    text with a name per line."""
    stream: bool = False
    """Score ROOT files as they arrive in the input, or messages of a topic, until interrupted."""
    poll_s: PositiveFloat | None = None
    """Polling interval in seconds; a file is read once its size is unchanged between two polls.
    Default: 1 for files, 0.1 for a topic."""
    in_flight: PositiveInt = 8
    """Maximum tasks processed at once, of a file (or an entry range of a large one) or, in a long
    queue, of several; the others wait."""
    idle_stop_s: NonNegativeFloat = 0.0
    """Stop a stream after this many seconds without new input; 0: never."""
    drift_events: PositiveInt = 2000
    """Latest selected events whose features are compared with the training sample."""
    drift_alarm: NonNegativeFloat = 0.2
    """Population stability index, beyond fluctuations, above which a feature has drifted."""
    mix: Mapping[str, NonNegativeFloat] = field(default_factory=dict)
    """Expected class fractions, for the drift test only; default: those of the training sample."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Dask cluster, for files."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """Options for reading a topic."""
    spark: SparkConfig = field(default_factory=SparkConfig)
    """The Spark session, for a topic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream and self.only is not None:
            raise ConfigError("only is for a single run. Leave out stream.")
        if self.reads_topic and not self.stream:
            advice = "Give --stream, and --idle-stop-s to stop when no more messages arrive."
            raise ConfigError(f"{self.input}: a topic has no end. {advice}")
        if self.physics and ":" not in self.physics:
            raise ConfigError(f"physics must be package.module:function, got {self.physics!r}")

    @property
    def interval_s(self) -> float:
        """Polling interval in seconds."""
        return self.poll_s or (0.1 if self.reads_topic else 1.0)

    @property
    def reads_topic(self) -> bool:
        """True if the input is a Kafka topic instead of files."""
        return str(self.input).startswith(KAFKA)


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(ReadingConfig):
    """Publish events to a Kafka topic at a chosen rate, for `hepflow score --stream` to read."""

    input: str | Path = RAW
    """Folder or URL of ROOT files, or a dataset of `hepflow ingest`."""
    output: str = KAFKA + "localhost:9092/events"
    """Topic to publish to, kafka://HOST:PORT/TOPIC; created if it does not exist."""
    rate: NonNegativeFloat = 1000.0
    """Events per second; 0: as fast as the broker accepts them."""
    events_per_message: PositiveInt = 50
    """Events per message; fewer if they exceed the broker's message.max.bytes."""
    limit: Annotated[int, ("at least", 0)] = 0
    """Number of events after which to stop; 0: publish all."""
    partitions: PositiveInt = 2
    """Partitions of the topic, if it is created."""
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further client properties, in librdkafka's names, such as message.max.bytes. A password may
    be file:PATH, env:NAME or keyring:SERVICE/USER."""
