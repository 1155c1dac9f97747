"""Names of this stage for notebooks and scripts."""

from .callbacks import PredictionsWriter as PredictionsWriter
from .callbacks import Throughput as Throughput
from .cli import prepared as prepared
from .progress import FitProgress as FitProgress
from .record import EpochTable as EpochTable
from .spark.job import spark_train as spark_train
