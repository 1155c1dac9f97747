"""A random forest of Spark ML on the high-level features, kept as a run."""

import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.ml.classification import RandomForestClassifier
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.functions import vector_to_array
from pyspark.sql import DataFrame, SparkSession

from hepflow.config.tools import ForestConfig
from hepflow.engines.spark import spark_session
from hepflow.train.trees.run import Fitted, TreeData, balanced, keep


def run(config: ForestConfig) -> None:
    """Fit on the training split, each class with the same weight, and predict the test split."""
    own = {"trees": config.trees, "depth": config.depth, "seed": config.seed}
    keep(config, {"engine": "Spark ML", **own}, partial(_fit, config))


def _fit(config: ForestConfig, tables: Mapping[str, TreeData]) -> Fitted:
    x, label, _ = tables["train"]
    x_test = tables["test"].x
    with spark_session(config.spark, "hepflow forest") as spark:
        size = {"numTrees": config.trees, "maxDepth": config.depth}
        forest = RandomForestClassifier(weightCol="weight", seed=config.seed, **size)
        train = _frame(spark, x, label=label.astype(np.float64), weight=balanced(label)).cache()
        train.count()
        start = time.perf_counter()
        fitted = forest.fit(train)
        wall_s = time.perf_counter() - start
        rows = fitted.transform(_frame(spark, x_test, row=np.arange(len(x_test))))
        column = vector_to_array("probability").alias("probability")
        found = rows.select("row", column).orderBy("row").toArrow()
    probability = np.array(found["probability"].to_pylist())
    return Fitted(probability, type(forest).__name__, config.trees, "tree", wall_s, "pyspark")


def _frame(spark: SparkSession, x: np.ndarray, **columns: np.ndarray) -> DataFrame:
    """Return a frame with ``features``, one vector per event, and other columns."""
    names = [f"x{i}" for i in range(x.shape[1])]
    table = pa.table({**columns, **dict(zip(names, x.T, strict=True))})
    frame = spark.createDataFrame(table).repartition(spark.sparkContext.defaultParallelism)
    return VectorAssembler(inputCols=names, outputCol="features").transform(frame)
