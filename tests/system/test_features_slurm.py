"""The features stage on a real Slurm: jobs follow the work, and lost jobs are replaced."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hepflow.data.store import EventStore
from tests.support.jobs_of_features import Features, only_tls, private_keys, reason_in, write_input
from tests.support.slurm_cluster import SlurmCluster, slurm_cluster, why_not

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

FRAGMENTS = 110
"""At 1 s each and two at a time, longer than the 40 s lifetime of a one-minute job's worker."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def test_jobs_that_are_cancelled_reach_their_time_limit_or_lose_their_node_are_replaced(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    write_input(tmp_path, FRAGMENTS)
    run = Features(tmp_path, cluster.environment, "slurm", walltime="1")
    run.wait_for_parts(5)
    assert len(private_keys(tmp_path)) == 3
    cluster.command("scancel", "--signal=KILL", str(cluster.job_ids()[0]))
    run.wait_for_parts(20)
    node = next(
        job["NodeList"]
        for job in map(cluster.job, cluster.job_ids())
        if job["JobState"] == "RUNNING"
    )
    cluster.command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    status, errors = run.end()
    assert status == 0, errors
    states = [cluster.job(job_id)["JobState"] for job_id in cluster.job_ids()]
    assert len(states) > 3, (
        f"two jobs at a time; killed or expired jobs were not replaced ({states})"
    )
    assert "COMPLETED" in states, f"no worker left in good order at the end of its time ({states})"
    assert "TIMEOUT" not in states, f"a worker overstayed its time ({states})"
    assert only_tls(tmp_path.glob("slurm-*.out"))
    assert not [*tmp_path.glob("hepflow-*")]
    store = EventStore.open(tmp_path / "s.zarr")
    assert store.ledger().n_in == FRAGMENTS * 5


def test_the_keys_of_a_killed_run_are_removed_by_the_next_one(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    write_input(tmp_path, fragments=20)
    run = partial(Features, tmp_path, cluster.environment, "slurm", walltime="5")
    killed = run()
    killed.wait_for_parts(1)
    killed.process.kill()
    killed.end()
    left = private_keys(tmp_path)
    assert len(left) == 3
    next_one = run()
    next_one.wait_for("Dask dashboard")
    now = private_keys(tmp_path)
    assert len(now) == 3
    assert not {*now} & {*left}
    status, errors = next_one.end()
    assert status == 0, errors
    assert not [*tmp_path.glob("hepflow-*")]


def test_jobs_that_slurm_would_refuse_are_an_error_at_once(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    write_input(tmp_path, fragments=1)
    status, errors = Features(tmp_path, cluster.environment, "slurm", queue="nowhere").end(120)
    assert status == 2
    assert "Slurm rejects the jobs" in reason_in(errors)
    assert "invalid partition" in errors
