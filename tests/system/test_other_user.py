"""Another user of the machine gets nothing from a running stage, but to read Spark's own pages.

Sockets that listen on the network, and not on loopback alone, are named here too. Nor does a stage
leave anything in /tmp that this user could have put there first, or can read.
"""

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, NamedTuple

import psutil
import pytest
import yaml

from hepflow.config.shipped import shipped
from hepflow_bench.copies import copy_as_new
from tests.support.commands import ROOT, Command
from tests.support.grid_engine import grid_engine
from tests.support.grid_engine import why_not as no_grid_engine
from tests.support.intruder import what_another_user_can_do
from tests.support.kafka_broker import broker, publish
from tests.support.ports import listening_of
from tests.support.root_files import write_delphes
from tests.support.slurm_cluster import slurm_cluster
from tests.support.slurm_cluster import why_not as no_slurm
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest, untrained

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
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
PAGES = "reads Spark's pages"
EVENTS = "--input events --physics slow:features"
FEATURES = f"features {EVENTS} --part-mb 0.001 --output"
SCORE = "score --model model.onnx --physics slow:features --output"
TRAIN = f"fit --config {HLF} --config train.yaml --trainer.accelerator cpu --output runs"
IN_SPARK = "--cluster.kind spark --cluster.spark.master local[2]"
JOBS = "--cluster.jobs.interface lo --cluster.jobs.workers_per_job 1 --cluster.memory 1GiB"
INGEST = "ingest --config ingest.yaml --input many --output again --spark.master local[1]"
TUNE = "tune --net slow.yaml --input features.zarr --output search --trials 4 --cluster.workers 2"


class Stage(NamedTuple):
    """A stage that waits for the tries to end."""

    words: str
    sign: str
    """Text that it prints."""
    settle_s: float = 2.0
    pages: bool = False
    """Whether Spark has pages."""


STAGES = {
    "features": Stage(f"{FEATURES} made.zarr --cluster.workers 2", "Dask dashboard"),
    "features in Spark": Stage(f"{FEATURES} spark.zarr {IN_SPARK}", "Dask dashboard", 10, True),
    "ingest": Stage(INGEST, "UI at", 0, True),
    "train": Stage(f"train {TRAIN}/1 --trainer.devices 1", "an epoch:", 20),
    "train, DDP": Stage(f"train {TRAIN}/2 --trainer.devices 2", "an epoch:", 20),
    "train, forks": Stage(
        f"train {TRAIN}/3 --trainer.devices 2 --trainer.strategy ddp_fork", "an epoch:"
    ),
    "spark-train": Stage(f"spark-train {TRAIN.removeprefix('fit ')}/4", "an epoch:", 10, True),
    "tune": Stage(TUNE, "Dask dashboard", 20),
    "score": Stage(f"{SCORE} scores --input raw --cluster.workers 2", "Dask dashboard", 5),
    "score --stream": Stage(f"{SCORE} stream --stream --input raw", "watching", 5),
}


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
    untrained(folder, template)
    (folder / "slow.py").write_text(SLOW)
    slow = {"class_path": "tests.support.crash.PauseOnce", "init_args": {"step": 2, "seconds": 900}}
    trainer = {"callbacks": [slow], "max_epochs": 1, "accelerator": "cpu"}
    data = {"store": "features.zarr", "batch_size": 32, "workers": 0}
    many = {"samples": {"qcd": ["qcd"]}, "target_partition_mb": 1}
    (folder / "ingest.yaml").write_text(yaml.safe_dump(many))
    own = {"trainer": trainer, "data": data}
    (folder / "train.yaml").write_text(yaml.safe_dump(own))
    net = {"net": {"class_path": "hepflow.models.hlf.HLFNet"}}
    (folder / "slow.yaml").write_text(yaml.safe_dump(own | {"model": net}))
    return folder


Processes = Callable[[psutil.Process], list[psutil.Process]]


def family(first: psutil.Process) -> list[psutil.Process]:
    return [first, *first.children(recursive=True)]


@pytest.fixture
def attacked(place: Path, tmp_path: Path) -> Iterator["Attack"]:
    """Start a stage, attack it, and end it with the test."""
    attack = Attack(place, tmp_path / "tmp")
    yield attack
    if attack.command is not None:
        with suppress(ProcessLookupError):
            os.killpg(attack.command.pid, signal.SIGKILL)


class Attack:
    """A stage with a /tmp of its own, and what another user could do to it."""

    names: ClassVar[set[str]] = set()
    """Names in /tmp of the stages until now."""

    def __init__(self, place: Path, tmp: Path) -> None:
        self.place, self.tmp = place, tmp
        self.command: Command | None = None
        tmp.mkdir()
        tmp.chmod(0o1777)

    def __call__(
        self, stage: Stage, env: Mapping[str, str] | None = None, processes: Processes = family
    ) -> None:
        """Start a stage, wait for its sign, and try all its sockets and files.

        With ``env``, that of a batch system, whose jobs are elsewhere, /tmp is TMPDIR.
        """
        words = stage.words.split()
        how = {"tmp": self.tmp} if env is None else {"env": {**env, "TMPDIR": str(self.tmp)}}
        self.command = Command(*words, cwd=self.place, merged=True, **how)
        self.command.wait_for(stage.sign, timeout=240)
        time.sleep(stage.settle_s)
        first = psutil.Process(self.command.pid)
        places = listening_of(processes(first))
        found = what_another_user_can_do(places, beside=first.pid)
        self.check_files()
        assert self.command.poll() is None, self.command.printed()
        for each, done in found.items():
            where = f"{each.kind} {each.host}"
            print(f"{words[0]}: {each.program} {where}: {', '.join(done) or 'nothing'}")
        done = {what for every in found.values() for what in every}
        assert done == ({PAGES} if stage.pages else set())
        assert not [each for each in found if each.kind == "udp"]
        self.on_network = {p.program for p in found if p.kind == "tcp" and p.host not in LOOPBACK}
        self.found = found

    def check_files(self) -> None:
        """Assert that /tmp has entries of this user alone, with names that come only once."""
        known = {*self.place.parts, *ROOT.parts, *Path(sys.prefix).parts}
        entries = [path for path in self.tmp.iterdir() if path.name not in known]
        print("in /tmp:", *(path.name for path in entries))
        for path in entries:
            about = path.lstat()
            if path.name.startswith("hsperfdata_"):  # of Java, which refuses it from another user
                continue
            assert not stat.S_IMODE(about.st_mode) & 0o077, path
            assert path.name not in self.names, f"{path.name} can be known before"
            self.names.add(path.name)


@pytest.mark.spark
@pytest.mark.parametrize("name", STAGES)
def test_nobody_gets_in(attacked: Attack, name: str) -> None:
    attacked(STAGES[name])
    assert attacked.on_network == set()


@pytest.mark.spark
@pytest.mark.kafka
def test_nobody_gets_into_the_scores_of_a_topic(attacked: Attack, tmp_path: Path) -> None:
    with broker(tmp_path / "broker") as server:
        topic = f"kafka://{server.address}/events"
        publish(attacked.place / "raw", topic)
        options = f"{SCORE} topic --stream --input {topic} --spark.master local[2]"
        attacked(Stage(options, "reading kafka", 5, pages=True))
    assert attacked.on_network == set()


def those_of(name: str, value: str) -> Processes:
    """Return a function that finds the processes of a batch system's jobs, and of a command."""

    def found(first: psutil.Process) -> list[psutil.Process]:
        processes = family(first)
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                of_jobs = "batch_worker" in " ".join(one.cmdline())
                if of_jobs and one.environ().get(name) == value:
                    processes += family(one)
        return processes

    return found


def attack_jobs(attacked: Attack, kind: str, own: Mapping[str, str], variable: str) -> None:
    """Attack features in jobs of a batch system, which a variable of its environment tells."""
    words = f"{FEATURES} {kind}.zarr --cluster.kind {kind} {JOBS} --cluster.jobs.walltime 10"
    attacked(Stage(words, "Dask dashboard", 30), own, those_of(variable, own[variable]))
    assert len(attacked.found) >= 4, "scheduler, pages, a worker and its nanny"
    assert attacked.on_network == set()


@pytest.mark.slurm
@pytest.mark.skipif(no_slurm() is not None, reason=str(no_slurm()))
def test_nobody_gets_into_jobs_of_slurm(attacked: Attack, tmp_path: Path) -> None:
    with slurm_cluster(tmp_path / "slurm") as cluster:
        attack_jobs(attacked, "slurm", cluster.environment, "SLURM_CONF")


@pytest.mark.sge
@pytest.mark.skipif(no_grid_engine() is not None, reason=str(no_grid_engine()))
def test_nobody_gets_into_jobs_of_grid_engine(attacked: Attack, tmp_path: Path) -> None:
    with grid_engine(tmp_path / "sge") as engine:
        attack_jobs(attacked, "sge", engine.environment, "SGE_ROOT")
