"""A remote store that fails for a while changes no byte, and one that stays away gives one line."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.data.runs import PREDICTIONS, RECORD
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.features import job as features
from hepflow.system import patience
from hepflow.system.byte_ranges import read_range
from hepflow.system.files import read_json
from hepflow.system.places import place
from hepflow.system.publishing import claim, publish_folder, put
from hepflow.system.remote import is_of_a_store
from hepflow.system.storage import listed, make_folder, read_bytes, remove, remove_tree, sizes_below
from hepflow.system.store_options import STORAGE, configure
from tests.support.commands import Command, hepflow
from tests.support.hadoop_cluster import Hadoop
from tests.support.line import Line
from tests.support.stores import ONE, S3Server
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest, write_raw
from tests.support.trainings import assert_same, fit, weights

pytestmark = pytest.mark.slow


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


@pytest.mark.s3
def test_lists_that_lag_lose_no_event(
    here: Path, s3_server: S3Server, tmp_path: Path, spark: Any
) -> None:
    environment = spark.sparkContext.environment
    environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    away = place(f"{s3_server.url}/{uuid.uuid4().hex}")
    with s3_server.lagging(600):  # longer than all of it takes
        ingest(here / "raw", away / "events")
        with pytest.raises(DataError, match="does not list 1 of 1 new parts yet"):
            make(away / "events", away / "features.zarr")
    with s3_server.lagging(2):
        make(away / "events", away / "again.zarr")
    make(away / "events", away / "features.zarr")
    fit(EventStore.open(away / "again.zarr"), away / "run", "--trainer.max_epochs", "1")
    fit(EventStore.open(here / "features.zarr"), tmp_path / "run", "--trainer.max_epochs", "1")
    for made in ("again.zarr", "features.zarr"):
        assert contents(away / made) == contents(here / "features.zarr")
    assert_same(weights(away / "run"), weights(tmp_path / "run"))


@pytest.fixture
def line(request: pytest.FixtureRequest, away: Path) -> Iterator[tuple[Line, Path]]:
    """Yield a line to a store, and a folder at its end."""
    in_s3 = away.protocol == "s3"
    server = os.environ["AWS_ENDPOINT_URL"] if in_s3 else str(away)
    line = Line(int(re.search(r"127.0.0.1:(\d+)", server)[1]))
    own = f"127.0.0.1:{line.port}"
    if in_s3:
        request.getfixturevalue("monkeypatch").setenv(STORAGE, "{}")
        configure({str(away): {"endpoint_url": f"http://{own}"}})
        there = away
    else:
        there = place(re.sub(r"127.0.0.1:\d+", own, server))
    make_folder(there)
    yield line, there
    line.cut()


def use(folder: Path) -> None:
    """Do once what stages do with a store."""
    make_folder(folder / "below")
    put(folder / "below" / "a", b"0123456789")
    assert claim(folder / "claimed", "by me")
    assert read_range(folder / "below" / "a", 2, 4) == b"23"
    assert [one.name for one in listed(folder, "*/*")] == ["a"]
    assert sizes_below(folder) == {"below/a": 10, "claimed": 5}
    remove(folder / "claimed")
    assert not (folder / "claimed").is_file()
    remove_tree(folder / "below")


@pytest.mark.parametrize("seconds", [pytest.param(1, marks=pytest.mark.once), 20, 100])
def test_a_store_that_comes_back_is_waited_for(
    line: tuple[Line, Path], seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a second, the clients tell nobody."""
    cable, folder = line
    use(folder)
    with cable.cut_for(seconds), caplog.at_level(logging.INFO, logger="hepflow"):
        use(folder / "again")
    if seconds > 10:
        assert caplog.text.count("the store does not answer") == 1
        assert caplog.text.count("the store answers again") == 1


@pytest.mark.once
@pytest.mark.parametrize("away", ONE, indirect=True)
def test_a_store_that_stays_away_is_an_error_in_one_line(
    line: tuple[Line, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cable, folder = line
    use(folder)
    monkeypatch.setattr(patience, "PATIENCE_S", 2.0)
    cable.cut()
    with pytest.raises(OSError, match=r"(?i)connect|refused|closed") as caught:
        listed(folder)
    assert is_of_a_store(caught.value)
    assert len(str(caught.value)) < 300
    monkeypatch.setattr(patience, "PATIENCE_S", 1000.0)
    with pytest.raises(OSError, match=r"(?i)connect|refused|closed"):
        listed(folder)  # it is not waited for again
    monkeypatch.undo()
    cable.mend()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # XRootD's client remembers an error for ten seconds
        with suppress(OSError):
            use(folder / "again")
            return
    pytest.fail("it does not come back")


def refuse(store: Path, output: Path, match: str, **variables: str) -> None:
    """Run a command that writes, and expect one line and no output."""
    ended = hepflow("trees", "--input", str(store), "--output", str(output), env=variables)
    (line,) = ended.stderr.strip().splitlines()[-1:]
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False), ended.stderr
    assert re.match(f"hepflow: error: .*{match}", line), line


@pytest.mark.once
def test_a_refusal_of_s3_is_one_line_and_the_same_command_writes_later(
    s3_server: S3Server, tmp_path: Path
) -> None:
    store = toy_store(tmp_path / "toy.zarr", events=30).path
    refuse(store, place("s3://no-such-bucket/trees"), "bucket does not exist")
    output = place(f"{s3_server.url}/{uuid.uuid4().hex}/trees")

    def expired(environ: dict[str, Any], _: int) -> str | None:  # as of a token
        return "403 Forbidden" if PREDICTIONS in environ["PATH_INFO"] else None

    with s3_server.failing(expired):
        refuse(store, output, "Forbidden")
    assert not (output / RECORD).exists()
    assert hepflow("trees", "--input", str(store), "--output", str(output)).returncode == 0
    assert read_json(output / RECORD)["finished"]


def test_refusals_of_hdfs_are_one_line(hdfs: Hadoop, tmp_path: Path) -> None:
    """A folder of somebody else, and a full quota; a name node in safe mode is waited for."""
    store = toy_store(tmp_path / "toy.zarr", events=30).path
    folder = place(f"{hdfs.url}/{uuid.uuid4().hex}")
    make_folder(folder)
    refuse(store, folder / "trees", "Permission denied", HADOOP_USER_NAME="somebody")
    hdfs.admin("-setSpaceQuota", "1000", folder.path)
    refuse(store, folder / "trees", "[Qq]uota")
    hdfs.admin("-clrSpaceQuota", folder.path)
    hdfs.admin("-safemode", "enter")
    waits = Command("trees", "--input", str(store), "--output", str(folder / "trees"))
    try:
        waits.wait_for("the store does not answer")
    finally:
        hdfs.admin("-safemode", "leave")
    ended = waits.finish(200)
    assert ended.returncode == 0, ended.stderr
    assert "SafeModeException" in ended.stderr
    assert "the store answers again" in ended.stderr
    assert read_json(folder / "trees" / RECORD)["finished"]


def test_the_lease_of_a_writer_that_died_keeps_nobody_waiting(hdfs: Hadoop) -> None:
    folder = place(f"{hdfs.url}/{uuid.uuid4().hex}")
    die = "file.write(bytes(3_000_000)); file.flush(); os.kill(os.getpid(), 9)"
    code = f"import fsspec, os; file = fsspec.open('{folder}/.a.1.part', 'wb').open(); {die}"
    make_folder(folder)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    put(folder / "a", b"whole")
    assert [path.name for path in listed(folder)] == [".a.1.part", "a"]
    remove(folder / ".a.1.part")
    assert read_bytes(folder / "a") == b"whole"
    remove_tree(folder)
    assert not folder.exists()


def test_a_data_node_that_is_killed_and_back_costs_no_event(
    here: Path, hdfs: Hadoop, tmp_path: Path
) -> None:
    away = place(f"{hdfs.url}/{uuid.uuid4().hex}")
    publish_folder(shutil.copytree(here / "events", tmp_path / "events"), away / "events")
    hdfs.kill("datanode")
    options = ("--input", str(away / "events"), "--output", str(away / "features.zarr"))
    waits = Command("features", *options, "--cluster.workers", "2")
    waits.wait_for("the store does not answer")
    hdfs.start("datanode")
    ended = waits.finish(300)
    assert ended.returncode == 0, ended.stderr
    assert contents(away / "features.zarr") == contents(here / "features.zarr")
