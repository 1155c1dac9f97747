"""The features stage on a real Slurm: jobs follow the work, and lost jobs are replaced."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hepflow.data.store import EventStore
from tests.support.delphes_events import write_dataset
from tests.support.slurm_cluster import SlurmCluster, slurm_cluster, why_not

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

FRAGMENTS = 110
"""At 1 s each and two at a time, longer than the 40 s lifetime of a one-minute job's worker."""
SLOW_PHYSICS = """
import time
from hepflow.physics.features import compute_features

def features(events, definitions):
    time.sleep(1.0 if len(events) else 0)
    return compute_features(events, definitions)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def command(folder: Path, **jobs: str) -> list[str]:
    options = {"interface": "lo", "workers_per_job": "1", "max_jobs": "2", "walltime": "1", **jobs}
    words = [
        "features",
        "--input",
        "events",
        "--output",
        "s.zarr",
        "--physics",
        "slow:features",
        "--part-mb",
        "0.001",
        "--cluster.kind",
        "slurm",
    ]
    words += [
        "--cluster.memory",
        "1GiB",
        *(word for key, value in options.items() for word in (f"--cluster.jobs.{key}", value)),
    ]
    return [sys.executable, "-m", "hepflow", *words]


def test_jobs_that_are_cancelled_reach_their_time_limit_or_lose_their_node_are_replaced(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "events", fragments=FRAGMENTS, events=5)
    (tmp_path / "slow.py").write_text(SLOW_PHYSICS)
    client = subprocess.Popen(
        command(tmp_path), cwd=tmp_path, env=cluster.environment, stderr=subprocess.PIPE, text=True
    )

    def wait_for_parts(n: int) -> None:
        deadline = time.monotonic() + 240
        while len(list((tmp_path / "s.zarr" / "_parts").glob("[0-9]*.json"))) < n:
            assert client.poll() is None, client.stderr and client.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    wait_for_parts(5)
    cluster.command("scancel", "--signal=KILL", str(cluster.job_ids()[0]))
    wait_for_parts(20)
    node = next(
        job["NodeList"]
        for job in map(cluster.job, cluster.job_ids())
        if job["JobState"] == "RUNNING"
    )
    cluster.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    _, errors = client.communicate(timeout=300)
    assert client.returncode == 0, errors
    states = [cluster.job(job_id)["JobState"] for job_id in cluster.job_ids()]
    assert len(states) > 3, (
        f"two jobs at a time; killed or expired jobs were not replaced ({states})"
    )
    assert "COMPLETED" in states, f"no worker left in good order at the end of its time ({states})"
    assert "TIMEOUT" not in states, f"a worker overstayed its time ({states})"
    store = EventStore.open(tmp_path / "s.zarr")
    assert store.ledger().n_in == FRAGMENTS * 5


def test_jobs_that_slurm_would_refuse_are_an_error_at_once(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "events", fragments=1, events=5)
    (tmp_path / "slow.py").write_text(SLOW_PHYSICS)
    words = command(tmp_path, queue="nowhere")
    result = subprocess.run(
        words,
        cwd=tmp_path,
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2
    assert "Slurm rejects the jobs" in result.stderr
    assert "invalid partition" in result.stderr
