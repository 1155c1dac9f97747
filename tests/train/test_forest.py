"""The random forest of Spark ML: a run like any other."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.toy_store import toy_store

pytest.importorskip("pyspark", reason="needs hepflow[ingest]")

from hepflow.config.tools import ForestConfig
from hepflow.data.predictions import read_predictions
from hepflow.errors import ConfigError
from hepflow.system.files import read_json
from hepflow.train.trees import forest

pytestmark = [pytest.mark.slow, pytest.mark.spark]


def test_a_forest_predicts_every_test_event_once(
    spark: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = toy_store(
        tmp_path / "toy.zarr", events={"qcd": 300, "ttbar": 200, "wjets": 100}, mean_particles=0
    )
    config = ForestConfig(input=store.path, output=tmp_path / "forest", trees=20, depth=5)
    forest.run(config)
    predictions = read_predictions(tmp_path / "forest" / "predictions.parquet")
    truth = {
        i: label
        for block in store.blocks("test")
        for i, label in zip(block.event_id, block.label, strict=True)
    }
    assert len(predictions.event_id) == len(truth)
    assert [truth[i] for i in predictions.event_id] == predictions.label.tolist()
    assert predictions.probabilities.sum(axis=1) == pytest.approx(1)
    correct = predictions.logits.argmax(axis=1) == predictions.label
    assert correct[predictions.label == 2].mean() > 0.7, (
        "the smallest class is sacrificed to the others"
    )  # 0.54 without weights
    record = read_json(tmp_path / "forest" / "run.json")
    assert (record["engine"], record["model"], record["finished"]) == (
        "Spark ML",
        "RandomForestClassifier",
        True,
    )
    assert record["provenance"] == store.spec.provenance

    before = (tmp_path / "forest" / "run.json").stat().st_mtime_ns
    with caplog.at_level("INFO", logger="hepflow"):
        forest.run(config)
    assert "up to date" in caplog.messages[-1]
    assert (tmp_path / "forest" / "run.json").stat().st_mtime_ns == before


def test_a_tree_is_no_deeper_than_spark_allows() -> None:
    with pytest.raises(ConfigError, match="depth must be at most 30"):
        ForestConfig(depth=31)
