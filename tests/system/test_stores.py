"""Stages whose input and output lie on HDFS, S3 or XRootD write the bytes of a local run."""

import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hepflow.config.engines import ClusterConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.stages import FeaturesConfig, IngestConfig
from hepflow.config.tools import StoreConfig
from hepflow.data.store import EventStore
from hepflow.features import job as features
from hepflow.ingest import job as ingest
from hepflow.schema import CLASSES
from hepflow.score import job as score
from hepflow.score.tables import read_scores
from hepflow.system.files import read_json
from hepflow.system.places import place
from hepflow.system.publishing import publish_folder
from hepflow.tools import store as tools
from tests.support.commands import hepflow
from tests.support.stores import ONE, shaky
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import untrained, write_raw
from tests.support.trainings import SMALL, assert_same, fit, weights

pytestmark = pytest.mark.slow
CLUSTER = ClusterConfig(workers=1)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, spark: Any) -> Path:
    """Return a folder with raw files, and all that the stages make of them on this disk."""
    folder = tmp_path_factory.mktemp("here")
    for number, name in enumerate(CLASSES * 2):
        write_raw(folder / "raw" / name / f"{number}.root", [40, 30], seed=number)
    untrained(folder / "model", folder / "raw" / "qcd" / "0.root")
    run_stages(folder, folder)
    return folder


def run_stages(raw: Path, output: Path) -> None:
    """Ingest, features and score; every stage reads what the one before has written."""
    model = output / "model" / "model.onnx"
    ingest.run(IngestConfig(input=str(raw / "raw"), output=output / "events"))
    features.run(
        FeaturesConfig(
            input=output / "events", output=output / "features.zarr", cluster=CLUSTER, part_mb=0.01
        )
    )
    score.run(
        ScoreConfig(
            input=str(output / "events"), model=model, output=output / "scores", cluster=CLUSTER
        )
    )


_OTHER = rb'"(listing|_checksum)": "[^"]+"'


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a dataset.

    Without what is not the data's: the seconds in records of ingest, and in the manifest the hash
    of paths and modification times of the input, and with it the checksum.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "_records":
            text = path.read_bytes()
            found[path.relative_to(folder).as_posix()] = re.sub(_OTHER, b"", text)
    return found


@pytest.fixture
def shaken(
    away: Path, request: pytest.FixtureRequest
) -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which every 20th request to S3 fails; the other stores are calm."""
    if away.protocol != "s3":
        return nullcontext
    return partial(request.getfixturevalue("s3_server").failing, shaky)


@pytest.mark.parametrize("away", ONE, indirect=True)
def test_every_stage_writes_the_bytes_of_a_local_run(
    here: Path, away: Path, tmp_path: Path, spark: Any, shaken: Any, caplog: Any
) -> None:
    environment = spark.sparkContext.environment  # of the workers, as spark.executorEnv sets it
    environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in ("raw", "model"):
        shutil.copytree(here / name, tmp_path / name)
        publish_folder(tmp_path / name, away / name)
    with shaken():
        run_stages(away, away)
    for output in ("events", "features.zarr"):
        assert contents(away / output) == contents(here / output)
    assert read_scores(away / "scores").sort_by("event_id") == read_scores(here / "scores").sort_by(
        "event_id"
    )
    with caplog.at_level(logging.INFO, logger="hepflow"):
        run_stages(away, away)
        tools.check(StoreConfig(input=away / "features.zarr"))
    assert sum("is up to date" in text for text in caplog.messages) == 3
    assert "is sound" in caplog.text


@pytest.mark.parametrize("away", ONE, indirect=True)
def test_a_training_from_a_store_far_away_gives_the_same_weights(
    away: Path, tmp_path: Path, shaken: Any
) -> None:
    """The inclusive net on windows smaller than the split, as when it does not fit into memory."""
    store = toy_store(tmp_path / "toy.zarr", events=90)
    publish_folder(shutil.copytree(store.path, tmp_path / "copy"), away / "toy.zarr")
    small = ("--data.memory_mb", "0", "--data.buffer_mb", "1", "--data.block_events", "32")
    small += ("--trainer.max_epochs", "1")
    for name, path in {"here": store.path, "away": away / "toy.zarr"}.items():
        with shaken() if name == "away" else nullcontext():
            fit(EventStore.open(path), tmp_path / name, *small, net="inclusive")
    assert_same(weights(tmp_path / "here"), weights(tmp_path / "away"))
    assert read_json(tmp_path / "away" / "run.json")["store"] == str(away / "toy.zarr")


@pytest.mark.s3
def test_an_endpoint_in_the_configuration_reaches_every_process(
    s3: str, here: Path, tmp_path: Path
) -> None:
    """Two Dask workers and two processes of a training, none of which has it otherwise."""
    there = f"{s3}/by-options"
    config = tmp_path / "site.yaml"
    config.write_text(
        yaml.safe_dump({"storage": {s3: {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}}})
    )
    features = ("--input", str(here / "events"), "--output", f"{there}/features.zarr")
    fit = ("--data.store", f"{there}/features.zarr", "--output", f"{there}/hlf", *SMALL)
    fit += ("--trainer.devices", "2", "--trainer.accelerator", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL")
        for command in (("features", *features), ("train", "fit", *fit)):
            ended = hepflow(*command, "--config", str(config))
            assert ended.returncode == 0, ended.stderr
    assert contents(place(f"{there}/features.zarr")) == contents(here / "features.zarr")
    assert read_json(place(f"{there}/hlf/run.json"))["finished"]
