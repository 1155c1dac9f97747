"""The tests' Slurm cluster is real: jobs run on its nodes, fail, and wait for each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.slurm_cluster import SlurmCluster, slurm_cluster, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def test_a_job_runs_on_both_nodes(cluster: SlurmCluster, tmp_path: Path) -> None:
    job_id = cluster.submit(
        "-N2", "--ntasks-per-node=1", "-o", "out", "--wrap", "srun hostname", cwd=tmp_path
    )
    assert cluster.wait(job_id)["JobState"] == "COMPLETED"
    assert sorted((tmp_path / "out").read_text().split()) == ["n1", "n2"]


def test_a_failed_job_cancels_what_waits_for_it(cluster: SlurmCluster, tmp_path: Path) -> None:
    first = cluster.submit("-o", "out", "--wrap", "exit 3", cwd=tmp_path)
    second = cluster.submit(
        f"--dependency=afterok:{first}",
        "--kill-on-invalid-dep=yes",
        "-o",
        "out2",
        "--wrap",
        "true",
        cwd=tmp_path,
    )
    assert cluster.wait(first)["JobState"] == "FAILED"
    assert cluster.wait(second)["JobState"] == "CANCELLED"
