"""A remote store that fails for a while changes no byte, and one that stays away gives one line."""

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.data.store import EventStore
from hepflow.features import job as features
from hepflow.system.places import place
from hepflow.system.storage import publish_folder, read_bytes
from tests.support.stores import S3Server
from tests.support.toy_trigger import ingest, write_raw
from tests.support.trainings import assert_same, fit, weights

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, spark: Any) -> Path:
    """Return a folder with events, and the store made of them on this disk."""
    folder = tmp_path_factory.mktemp("here")
    for number, name in enumerate(("qcd", "ttbar", "wjets")):
        write_raw(folder / "raw" / name / f"{number}.root", [40, 30], seed=number)
    ingest(folder / "raw", folder / "events")
    make(folder / "events", folder / "features.zarr")
    return folder


def make(events: Path, store: Path) -> None:
    features.run(FeaturesConfig(input=events, output=store, cluster=ClusterConfig(workers=2)))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): read_bytes(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def shaky(environ: dict[str, Any], number: int) -> str | None:
    """Of all requests, five per cent: too many requests, a broken server, or a cut connection."""
    if number % 20:
        return None
    kinds = ("503 Slow Down", "500 Internal Server Error", S3Server.RESET)
    return kinds[number // 20 % 3]


@pytest.mark.s3
def test_failing_requests_change_no_byte(here: Path, s3_server: S3Server, tmp_path: Path) -> None:
    away = place(f"{s3_server.url}/{uuid.uuid4().hex}")
    publish_folder(shutil.copytree(here / "events", tmp_path / "events"), away / "events")
    with s3_server.failing(shaky):
        make(away / "events", away / "features.zarr")
        fit(EventStore.open(away / "features.zarr"), away / "run", "--trainer.max_epochs", "1")
    fit(EventStore.open(here / "features.zarr"), tmp_path / "run", "--trainer.max_epochs", "1")
    assert contents(away / "features.zarr") == contents(here / "features.zarr")
    assert_same(weights(away / "run"), weights(tmp_path / "run"))
