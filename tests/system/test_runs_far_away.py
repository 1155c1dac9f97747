"""Trainings, searches and reports on HDFS, S3 and XRootD are those of a local disk."""

import logging
from pathlib import Path

import pytest
import yaml
from distributed import LocalCluster

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import EvaluateConfig
from hepflow.config.tools import ExportConfig, TreesConfig, TuneConfig
from hepflow.data.predictions import read_predictions
from hepflow.data.runs import ONNX, PREDICTIONS
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError
from hepflow.evaluate import job as evaluate
from hepflow.models import export
from hepflow.models.onnx_net import OnnxNet
from hepflow.score.working_points import resolve
from hepflow.system.publishing import put
from hepflow.system.storage import listed, make_folder, read_bytes
from hepflow.train.trees import boosted
from hepflow.train.tune import job as tune
from tests.support.commands import hepflow
from tests.support.crash import CODE
from tests.support.stores import ONE
from tests.support.toy_store import toy_store
from tests.support.trainings import SMALL, assert_same, fit, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path) -> EventStore:
    return toy_store(tmp_path / "toy.zarr", events=90)


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a report by name, without the time at which runs were trained."""
    names = [*listed(folder), *listed(folder / "figures")]
    return {path.name: read_bytes(path) for path in names if path.suffix in {".png", ".csv"}}


@pytest.mark.parametrize("away", ONE, indirect=True)
def test_a_run_and_its_report_are_those_of_a_disk(
    store: EventStore, away: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for place in (tmp_path, away):
        fit(store, place / "runs" / "hlf")
        boosted.run(TreesConfig(input=store.path, output=place / "runs" / "trees", rounds=5))
        runs = {"input": place / "runs", "output": place / "report", "bootstrap": 2}
        evaluate.run(EvaluateConfig(**runs))
        export.run(ExportConfig(run=place / "runs" / "hlf", output=place / "again.onnx"))
    here, there = tmp_path / "runs" / "hlf", away / "runs" / "hlf"
    assert_same(weights(here), weights(there))
    assert_same(weights(here, "best"), weights(there, "best"))
    for name in ("hlf", "trees"):
        ours, theirs = (read_predictions(p / "runs" / name / PREDICTIONS) for p in (tmp_path, away))
        assert ours.logits.tobytes() == theirs.logits.tobytes()
    assert read_bytes(away / "again.onnx") == read_bytes(there / ONNX) == read_bytes(here / ONNX)
    assert files(tmp_path / "report") == files(away / "report") != {}
    assert listed(there / "tensorboard", "*/events.*")
    ours, theirs = (
        resolve("ttbar@0.9", place / "report", OnnxNet(place / "runs" / "hlf" / ONNX))
        for place in (tmp_path, away)
    )
    assert [point.threshold for point in ours] == [point.threshold for point in theirs] != []
    with caplog.at_level(logging.INFO, logger="hepflow"):
        fit(store, there)
        evaluate.run(EvaluateConfig(**runs))
    assert sum("is up to date" in text for text in caplog.messages) == 2


@pytest.mark.system
@pytest.mark.parametrize("away", ONE, indirect=True)
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_training_resumes_to_the_same_weights(
    store: EventStore, away: Path, tmp_path: Path, processes: int
) -> None:
    """An overlay that lies next to the run, and a kill within an epoch."""
    crash = {"class_path": "tests.support.crash.CrashOnce", "init_args": {"step": 5}}
    overlay = {"model": {"net": "hepflow.models.hlf.HLFNet"}, "trainer": {"callbacks": [crash]}}
    put(away / "mine.yaml", yaml.safe_dump(overlay).encode())
    options = ("--config", str(away / "mine.yaml"), "--data.store", str(store.path), *SMALL)
    options += ("--trainer.devices", str(processes), "--trainer.accelerator", "cpu")
    options += ("--checkpoint_every_steps", "3")
    make_folder(tmp_path / "whole")
    for mark in ("whole/crashed-0", "whole/crashed-1"):
        put(tmp_path / mark, b"")
    put(away / "killed" / "crashed-1", b"")  # only the first process dies by itself
    for folder, status in {tmp_path / "whole": 0, away / "killed": CODE}.items():
        ended = hepflow("train", "fit", *options, "--output", str(folder))
        assert ended.returncode == status, ended.stderr
    resumed = hepflow("train", "fit", *options, "--output", str(away / "killed"))
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from {away}/killed/checkpoints/last.ckpt" in resumed.stderr
    assert f"run folder {away}/killed" in resumed.stderr
    assert_same(weights(away / "killed"), weights(tmp_path / "whole"))
    assert_same(weights(away / "killed", "best"), weights(tmp_path / "whole", "best"))


@pytest.mark.system
@pytest.mark.parametrize("away", ONE, indirect=True)
def test_a_search_goes_on_with_the_trials_that_it_has(
    store: EventStore, away: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"input": store.path, "output": away / "tune", "space": {"model.lr": [0.001, 0.003]}}
    quiet = {"processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(n_workers=1, **quiet) as running:
        cluster = ClusterConfig(kind="address", address=running.scheduler_address)
        with pytest.raises(ConfigError, match="--work-dir"):
            tune.run(TuneConfig(**own, cluster=cluster))
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, logger="hepflow"):
            patch.setenv("HEPFLOW_WORK_DIR", str(store.path.parent))
            tune.run(TuneConfig(**own, cluster=cluster, trials=1))
            before = read_bytes(away / "tune" / "study.journal")
            tune.run(TuneConfig(**own, cluster=cluster, trials=2))
    assert [text[:5] for text in caplog.messages if "val_loss" in text] == ["[1/1]", "[2/2]"]
    assert read_bytes(away / "tune" / "study.journal").startswith(before)
    assert yaml.safe_load(read_bytes(away / "tune" / "best.yaml"))["model"]["lr"] in {0.001, 0.003}
    assert not list(store.path.parent.rglob("study.journal"))


@pytest.mark.system
@pytest.mark.spark
def test_spark_trains_a_net_and_a_forest_there(
    store: EventStore, away: Path, tmp_path: Path
) -> None:
    spark = ("--spark.master", "local[2]", "--spark.driver_memory", "1g")
    for top in (tmp_path, away):
        net = ("--data.store", str(store.path), "--output", str(top / "net"), *SMALL)
        trees = ("--input", str(store.path), "--output", str(top / "forest"), "--trees", "3")
        for command in (("spark-train", *net, *spark), ("forest", *trees, *spark)):
            ended = hepflow(*command)
            assert ended.returncode == 0, ended.stderr
    assert_same(weights(tmp_path / "net"), weights(away / "net"))
    ours, theirs = (read_predictions(top / "forest" / PREDICTIONS) for top in (tmp_path, away))
    assert ours.logits.tobytes() == theirs.logits.tobytes()
