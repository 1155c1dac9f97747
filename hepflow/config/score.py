"""Configurations of `hepflow score` and `hepflow replay`, one frozen dataclass each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hepflow.config.bounds import not_negative, positive
from hepflow.config.engines import ClusterConfig, SparkConfig
from hepflow.config.stages import KAFKA, RAW, REPORT, RUNS, SCORES, ReadingConfig
from hepflow.data.runs import ONNX
from hepflow.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class KafkaConfig:
    """How to read a topic."""

    properties: Mapping[str, str] = field(default_factory=dict)
    """Further properties of the client, by librdkafka's names, such as security.protocol."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Further options of Spark's own connector, such as kafka.security.protocol, if it reads."""
    starting: Literal["earliest", "latest"] = "earliest"
    """Where a first run begins in the topic; a later one goes on where it stopped."""
    max_messages: int = 256
    """Messages of a micro-batch at most; what else has arrived waits in the topic."""
    max_message_mb: float = 16.0
    """Larger messages, in MiB (2^20 bytes), are quarantined unread."""
    connector: Literal["auto", "spark", "python"] = "auto"
    """spark: spark-sql-kafka, which spark.conf spark.jars.packages can name; python: confluent-kafka; auto: the first that is there."""

    def __post_init__(self) -> None:
        positive(self, "max_messages", within="kafka.")
        if self.max_message_mb <= 0:
            raise ConfigError(f"kafka.max_message_mb must be positive, got {self.max_message_mb}")


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(ReadingConfig):
    """Score raw events with an exported net: selection, features, probabilities and decision, in Parquet (docs/scoring.md)."""

    model: Path = RUNS / "inclusive" / ONNX
    """ONNX file of `hepflow train fit` or `hepflow export`."""
    input: str | Path = RAW
    """Folder or URL of ROOT files (of whatever class), a dataset of `hepflow ingest`, or (stream) kafka://HOST:PORT/TOPIC."""
    output: Path = SCORES
    """Folder to write the scores into; one folder a model and working point."""
    overwrite: bool = False
    """Replace scores made with other settings; without it that is an error."""
    working_point: str = ""
    """What the trigger keeps: CLASS@EFFICIENCY by the report, such as ttbar@0.99; several with commas, a stream each. Default: none."""
    report: Path = REPORT
    """Report of `hepflow evaluate` with the thresholds of the working points."""
    physics: str | None = None
    """Your own physics that the net was trained on, as package.module:function."""
    store: Path | None = None
    """Feature store to hold the model against: its features and normalisation must be the store's."""
    target_partition_mb: int = 128
    """MiB (2^20 bytes) of ROOT file a task scores: larger files are cut."""
    retry_quarantined: bool = False
    """Read again the files that could not be read before; without it only those that changed since."""
    stream: bool = False
    """Score ROOT files as they arrive in the input, or messages of a topic, until interrupted."""
    poll_s: float = 1.0
    """Seconds between two looks for what is new; a file is taken once it has looked the same twice."""
    in_flight: int = 8
    """Files (or shares of large ones) in the workers' hands at a time; what else arrives waits in the folder."""
    idle_stop_s: float = 0.0
    """End a stream when nothing has arrived for so many seconds; 0: never."""
    drift_events: int = 2000
    """Latest selected events whose high-level features are held against those of the training."""
    drift_alarm: float = 0.2
    """Population stability index, beyond what chance gives, at which a feature is said to have drifted."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Share of each class that the stream is expected to hold, for the drift alone; default: that of the training events."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Dask cluster, for files."""
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    """How to read a topic."""
    spark: SparkConfig = field(default_factory=SparkConfig)
    """The Spark session, for a topic."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "target_partition_mb", "in_flight", "drift_events")
        not_negative(self, "idle_stop_s", "drift_alarm")
        if self.reads_topic and not self.stream:
            raise ConfigError(
                f"{self.input}: a topic has no end; add --stream (and --idle-stop-s to stop when nothing more arrives)"
            )
        if self.poll_s <= 0:
            raise ConfigError(f"poll_s must be positive, got {self.poll_s}")
        if self.physics is not None and ":" not in self.physics:
            raise ConfigError(f"physics must be package.module:function, got {self.physics!r}")
        if any(share < 0 for share in self.mix.values()):
            raise ConfigError(f"mix must hold shares that are not negative, got {dict(self.mix)}")

    @property
    def reads_topic(self) -> bool:
        """Whether the input is a topic of Kafka, not files."""
        return str(self.input).startswith(KAFKA)


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(ReadingConfig):
    """Publish events to a topic of Kafka at a chosen rate, for `hepflow score --stream` to read."""

    input: str | Path = RAW
    """Folder or URL of ROOT files, or a dataset of `hepflow ingest`."""
    output: str = KAFKA + "localhost:9092/events"
    """Topic to publish to, kafka://HOST:PORT/TOPIC; made if it is not there."""
    rate: float = 1000.0
    """Events a second; 0: as fast as the broker takes them."""
    events_per_message: int = 50
    """Events of a message; fewer where they are larger than the broker takes (message.max.bytes)."""
    limit: int = 0
    """Stop after so many events; 0: when all are published."""
    partitions: int = 2
    """Partitions of the topic, if it is made."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Further properties of the client, by librdkafka's names, such as security.protocol or message.max.bytes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "events_per_message", "partitions")
        not_negative(self, "rate", "limit")
