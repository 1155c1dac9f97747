"""Throughput that others published for the same pipeline. Other machines and other samples: a scale, never a like-for-like."""

from dataclasses import dataclass

REPOSITORY = "https://github.com/cerndb/SparkDLTrigger"
PAPER = "https://arxiv.org/abs/1909.10389"


@dataclass(frozen=True)
class Rate:
    """A published throughput."""

    stage: str
    """As the stages are named here."""
    what: str
    machine: str
    date: str
    events_per_s: float
    source: str
    cores: int | None = None
    """Where it ran on cores."""


RATES = (
    Rate("ingest+features", "Spark 2.4 SQL with higher-order functions", "YARN, 400 cores", "2019", 6910, REPOSITORY, 400),
    Rate("ingest+features", "Spark 2.4, Python map", "YARN, 400 cores", "2019", 4689, REPOSITORY, 400),
    Rate("train hlf", "BigDL", "Spark on YARN, 144 cores", "2019", 155_000, REPOSITORY, 144),
    Rate("train inclusive", "BigDL, scaling plot", "Spark on YARN, 132 cores", "2019", 5200, PAPER, 132),
    Rate("train inclusive", "BigDL, full training", "Spark on YARN, 360 cores", "2019", 5654, REPOSITORY, 360),
    Rate("train sequence", "BigDL, full training", "Spark on YARN, 420 cores", "2019", 5049, REPOSITORY, 420),
    Rate("train inclusive", "Keras, one process", "24-core machine", "2019", 60, PAPER, 24),
    Rate("train inclusive", "Keras", "GTX1080", "2019", 950, PAPER),
    Rate("train inclusive", "Keras, GRU", "P100", "2019", 2496, REPOSITORY),
    Rate("train inclusive", "Keras, LSTM", "P100", "2019", 3742, REPOSITORY),
)
