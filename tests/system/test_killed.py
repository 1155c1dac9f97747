"""A real `kill -9` of each kind of process of an engine: the same command ends as undisturbed.

At which moment does not matter: `test_power_cut` and `test_faults` enumerate them. A rank of a
training is killed in `tests/train/test_ddp.py`, and Spark executors with Dask workers in them in
`test_dask_on_spark`.
"""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hepflow.config.stages import FeaturesConfig
from hepflow.data.events import open_events
from hepflow.data.store import EventStore
from tests.support.calm_store import contents, made_calmly
from tests.support.commands import Command
from tests.support.delphes_events import write_dataset
from tests.support.left_over import left_in, members
from tests.support.root_files import passing_ids, write_copies, write_delphes
from tests.support.toy_trigger import ingest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
N_FILES, N_FRAGMENTS, PART_MB = 20, 10, 0.001
SLOW_PHYSICS = """
import time
from hepflow.physics.features import compute_features

def features(events, definitions):
    time.sleep(0.2 if len(events) else 0)
    return compute_features(events, definitions)
"""


def wait_until(what: Callable[[], bool], running: Command) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert running.poll() is None, f"it ended too early: {running.printed()}"
        assert time.monotonic() < deadline, running.printed()
        time.sleep(0.005)


def kill_one(session: int, is_victim: Callable[[psutil.Process, str], bool]) -> bool:
    """Kill a process of a session, if there is one of the kind that is meant."""
    for process, line in members(session):
        if is_victim(process, line):
            process.send_signal(signal.SIGKILL)
            return True
    return False


def of_spark(process: psutil.Process, line: str) -> bool:
    """Return whether a process runs Spark's tasks: a child of the daemon that Java has started."""
    parent = process.parent()
    return "pyspark.daemon" in line and "pyspark.daemon" in " ".join(parent.cmdline())


def of_dask(process: psutil.Process, line: str) -> bool:
    return "spawn_main" in line and not process.children()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    template = write_delphes(root / "template", [200] * 4)
    write_copies(template, root / "raw", N_FILES)
    ingest(root / "raw", root / "calm", ("qcd", "ttbar"), 1 << 20)
    return root / "raw"


def started_ingest(raw: Path, output: Path) -> Command:
    own = ("--target_partition_mb=1", "--spark.master=local[2]", "--spark.driver_memory=512m")
    samples = "--samples={qcd: [qcd], ttbar: [ttbar]}"
    return Command("ingest", f"--input={raw}", f"--output={output}", *own, samples)


def fragments(dataset: Path) -> dict[str, bytes]:
    """Return the fragments; there is nothing next to those that the manifest names."""
    names = {fragment.path for fragment in open_events(dataset).fragments}
    assert names == set(dataset.glob("*/*.parquet"))
    return {path.name: path.read_bytes() for path in names}


@pytest.mark.spark
@pytest.mark.once
def test_spark_s_worker_and_then_its_driver(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "events"
    records = output / "_records"
    running = started_ingest(raw, output)
    wait_until(lambda: any(records.glob("*.json")), running)
    wait_until(lambda: kill_one(running.pid, of_spark), running)
    before = len(list(records.glob("*.json")))
    wait_until(lambda: len(list(records.glob("*.json"))) > before, running)
    running.kill()
    assert left_in(running.pid) == []
    done = {path: path.stat().st_mtime_ns for path in output.glob("*/*.parquet")}
    again = started_ingest(raw, output).finish()
    assert again.returncode == 0, again.stderr
    assert f"resuming: {len(done)} of {N_FILES}" in again.stderr
    assert fragments(output) == fragments(raw.parent / "calm")
    assert len(passing_ids(raw)) == open_events(output).ledger.n_out
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.spark
def test_spark_s_java(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "events"
    running = started_ingest(raw, output)
    wait_until(lambda: any((output / "_records").glob("*.json")), running)
    assert kill_one(running.pid, lambda _, line: "SparkSubmit" in line)
    done = running.finish(60)
    assert done.returncode == 2, done.stderr
    assert "hepflow: error: Spark's Java process died" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert started_ingest(raw, output).wait() == 0
    assert fragments(output) == fragments(raw.parent / "calm")


@pytest.mark.once
def test_dask_s_worker_and_then_its_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler of a local cluster is in the process of the command."""
    (tmp_path / "slow.py").write_text(SLOW_PHYSICS)
    monkeypatch.chdir(tmp_path)
    config = FeaturesConfig(
        input=write_dataset(tmp_path / "events", fragments=N_FRAGMENTS),
        output=tmp_path / "s.zarr",
        part_mb=PART_MB,
        physics="slow:features",
    )
    options = ("--input", "events", "--output", "s.zarr", "--physics", "slow:features")
    cluster = ("--cluster.workers", "2", "--cluster.memory", "2GiB")
    command = ("features", *options, "--part_mb", str(PART_MB), *cluster)

    def parts() -> list[int]:
        return [int(path.stem) for path in config.output.glob("_parts/[0-9]*.json")]

    running = Command(*command)
    wait_until(lambda: bool(parts()), running)
    wait_until(lambda: kill_one(running.pid, of_dask), running)
    before = len(parts())
    wait_until(lambda: len(parts()) > before, running)
    running.kill()
    assert left_in(running.pid) == [], "workers outlive their client"
    shards = [config.output / "label" / f"c.{number}" for number in parts()]
    done = {path: path.stat().st_mtime_ns for path in shards}
    again = Command(*command).finish()
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of {N_FRAGMENTS} parts" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert EventStore.open(config.output).ledger().n_in == N_FRAGMENTS * 20
    assert contents(config.output) == made_calmly(config, tmp_path / "calm.zarr")
