"""Another user of the machine gets nothing from a running stage, but to read Spark's own pages.

What is listening on the network, and not on loopback alone, is named here too.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml

from hepflow.config.shipped import shipped
from hepflow_bench.copies import copy_as_new
from tests.support.commands import Command
from tests.support.intruder import what_another_user_can_do
from tests.support.ports import Place, listening
from tests.support.root_files import write_delphes
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user"),
]

SLOW = """
import time
from distributed.worker import get_worker
from hepflow.physics.features import compute_features
def features(events, definitions):
    try:
        get_worker()
    except ValueError:  # the driver, which tries it
        return compute_features(events, definitions)
    time.sleep(1000)
"""
HLF = str(shipped("train/hlf.yaml"))
SAMPLES = ("--samples", "{qcd: [qcd]}")
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw files, their events, and a store."""
    folder = tmp_path_factory.mktemp("shared")
    template = write_delphes(folder / "template", [200] * 4)
    for number in range(4):
        copy_as_new(template, folder / "raw/qcd" / f"{number:02d}.root", number + 1)
    ingest(folder / "raw", folder / "events", ("qcd",))
    for number in range(100):  # many, so that their ingest lasts
        copy_as_new(template, folder / "many/qcd" / f"{number:02d}.root", number + 1)
    toy_store(folder / "features.zarr", events=200)
    (folder / "slow.py").write_text(SLOW)
    slow = {"class_path": "tests.support.crash.PauseOnce", "init_args": {"step": 2, "seconds": 900}}
    trainer = {"callbacks": [slow], "max_epochs": 1, "accelerator": "cpu"}
    data = {"store": "features.zarr", "batch_size": 32, "workers": 0}
    (folder / "train.yaml").write_text(yaml.safe_dump({"trainer": trainer, "data": data}))
    return folder


@pytest.fixture
def attacked(place: Path) -> Iterator["Attack"]:
    """Start a stage, attack it, and end it with the test."""
    attack = Attack(place)
    yield attack
    if attack.command is not None:
        with suppress(ProcessLookupError):
            os.killpg(attack.command.pid, signal.SIGKILL)


class Attack:
    """A stage, and what another user could do to it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.command: Command | None = None

    def __call__(self, sign: str, *arguments: str, settle_s: float = 2.0) -> dict[Place, list[str]]:
        """Start a command, wait for a text that it prints, and try all its ports."""
        self.command = Command(*arguments, cwd=self.place, merged=True)
        end = time.monotonic() + 240
        while sign not in self.command.printed():
            assert self.command.poll() is None, self.command.printed()
            assert time.monotonic() < end, self.command.printed()
            time.sleep(0.1)
        time.sleep(settle_s)
        places = listening(psutil.Process(self.command.pid))
        found = what_another_user_can_do(places)
        assert self.command.poll() is None, self.command.printed()
        for each, done in found.items():
            print(f"{arguments[0]}: {each.program} {each.host}: {', '.join(done) or 'nothing'}")
        return found


def on_network(found: dict[Place, list[str]]) -> set[str]:
    return {place.program for place in found if place.host not in LOOPBACK}


def test_features(attacked: Attack) -> None:
    options = ("--input", "events", "--output", "made.zarr", "--physics", "slow:features")
    found = attacked("Dask dashboard", "features", *options, "--cluster.workers", "2")
    assert len(found) >= 6, "scheduler, pages, two workers and their nannies"
    assert set(map(tuple, found.values())) == {()}
    assert on_network(found) == set()


@pytest.mark.spark
def test_dask_in_spark(attacked: Attack) -> None:
    options = ("--input", "events", "--output", "spark.zarr", "--physics", "slow:features")
    cluster = ("--cluster.kind", "spark", "--cluster.spark.master", "local[2]")
    found = attacked("Dask dashboard", "features", *options, *cluster, settle_s=10)
    assert {what for done in found.values() for what in done} == {"reads Spark's pages"}
    assert on_network(found) == set()


@pytest.mark.spark
def test_ingest(attacked: Attack) -> None:
    options = ("--input", "many", "--output", "again", "--spark.master", "local[1]", *SAMPLES)
    found = attacked("UI at", "ingest", *options, "--target_partition_mb", "1", settle_s=0)
    assert {what for done in found.values() for what in done} == {"reads Spark's pages"}
    assert on_network(found) == set()


@pytest.mark.parametrize("ranks", [1, 2])
def test_train(attacked: Attack, ranks: int) -> None:
    options = ("--config", HLF, "--config", "train.yaml", "--output", f"runs/{ranks}")
    devices = ("--trainer.devices", str(ranks))
    found = attacked("an epoch:", "train", "fit", *options, *devices, settle_s=20)
    assert {what for done in found.values() for what in done} == set()
    assert on_network(found) == set()
