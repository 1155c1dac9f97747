"""kill -9 of the driver or a worker at any moment: the same command gives every event once."""

import contextlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from hepflow.data.ledger import Ledger
from hepflow.system.files import read_json
from hepflow_bench.copies import copy_as_new
from tests.support.commands import Command
from tests.support.root_files import write_delphes
from tests.support.toy_trigger import ingest

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(1800)]
N_FILES = 40


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    template = write_delphes(root / "template", [200] * 4)
    for number in range(N_FILES):
        copy_as_new(
            template, root / "raw" / ("qcd", "ttbar")[number % 2] / f"{number:02d}.root", number + 1
        )
    return root / "raw"


def started_ingest(raw: Path, output: Path) -> Command:
    options = (
        "--target_partition_mb=1",
        "--spark.master=local[2]",
        "--spark.driver_memory=512m",
        "--samples={qcd: [qcd], ttbar: [ttbar]}",
    )
    return Command("ingest", f"--input={raw}", f"--output={output}", *options)


def dataset(output: Path) -> dict[str, bytes]:
    about = read_json(output / "_hepflow.json")
    assert {str(path.relative_to(output)) for path in output.rglob("*.parquet")} == set(
        about["fragments"]
    )
    ledger = Ledger.from_dict(about["ledger"]).check()
    assert ledger.n_in == N_FILES * 800
    ids = np.concatenate(
        [
            pq.read_table(output / name, columns=["event_id"])["event_id"].to_numpy()
            for name in about["fragments"]
        ]
    )
    assert len(set(ids.tolist())) == len(ids) == ledger.n_out
    return {name: (output / name).read_bytes() for name in about["fragments"]}


def records(output: Path) -> int:
    return len(list((output / "_records").glob("*.json")))


def wait_for_records(process: Command, output: Path, more: int) -> None:
    wanted = records(output) + more
    while process.poll() is None and records(output) < wanted:
        time.sleep(0.005)


def kill_worker(driver: int) -> bool:
    """Kill one Python process that runs tasks: a child of the daemon that the JVM started."""
    with contextlib.suppress(psutil.Error):  # the process ended meanwhile
        daemons = [
            child
            for child in psutil.Process(driver).children(recursive=True)
            if "pyspark.daemon" in command(child)
        ]
        workers = [child for child in daemons if child.ppid() in {daemon.pid for daemon in daemons}]
        if workers:
            os.kill(workers[0].pid, signal.SIGKILL)
            return True
    return False


def command(process: psutil.Process) -> str:
    """Return nothing for a zombie, such as the shell of Spark's start script under its JVM."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.fixture(scope="module")
def undisturbed(raw: Path) -> dict[str, bytes]:
    """Return the dataset that a plain loop over the tasks writes, without Spark."""
    ingest(raw, raw.parent / "undisturbed", ("qcd", "ttbar"), 1 << 20)
    return dataset(raw.parent / "undisturbed")


@pytest.mark.parametrize("kills", [pytest.param(1, marks=pytest.mark.once), 3])
def test_killed_drivers_lose_and_double_nothing(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path, kills: int
) -> None:
    """Kill at random moments, with 40 tasks, whatever is being written."""
    rng = np.random.default_rng()
    output, left, killed = tmp_path / "events", [], 0
    for _ in range(kills):
        process = started_ingest(raw, output)
        wait_for_records(process, output, int(rng.integers(1, 9)))
        time.sleep(rng.uniform(0, 0.05))
        killed += process.poll() is None
        process.kill()
        left.append(records(output))
    assert started_ingest(raw, output).wait() == 0
    assert dataset(output) == undisturbed, f"records after each kill: {left}"
    assert left == sorted(left), "a finished task was done again"
    assert killed == kills


def test_killed_workers_lose_and_double_nothing(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """Kill two, at the start and later: no task dies so often that its file counts as bad."""
    rng = np.random.default_rng()
    output, killed = tmp_path / "events", 0
    process = started_ingest(raw, output)
    for more in (0, int(rng.integers(1, 16))):
        wait_for_records(process, output, more)
        while process.poll() is None and not kill_worker(process.pid):
            time.sleep(0.005)
        killed += process.poll() is None
    assert process.wait() == 0
    assert killed == 2
    assert dataset(output) == undisturbed


def test_a_killed_java_is_an_error_of_one_line_and_the_same_command_resumes(
    raw: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "events"
    process = started_ingest(raw, output)
    wait_for_records(process, output, 3)
    (java,) = (
        child for child in psutil.Process(process.pid).children() if "SparkSubmit" in command(child)
    )
    java.kill()
    done = process.finish(60)
    printed = done.stderr
    assert done.returncode == 2, printed
    assert "hepflow: error: Spark's Java process died" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert started_ingest(raw, output).wait() == 0
    assert dataset(output) == undisturbed
