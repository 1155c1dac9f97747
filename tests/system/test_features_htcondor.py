"""The features stage on a real HTCondor pool: the same bytes, and no silence about held jobs."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.support.htcondor_pool import PREFIX, HTCondorPool, htcondor_pool, why_not
from tests.support.jobs_of_features import Features, reason_in, same_as_local, write_input

pytestmark = [
    pytest.mark.htcondor,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HTCondorPool]:
    with htcondor_pool(tmp_path_factory.mktemp("htcondor")) as running:
        yield running


@pytest.fixture
def features(pool: HTCondorPool, tmp_path: Path) -> partial[Features]:
    write_input(tmp_path, fragments=50)
    return partial(Features, tmp_path, pool.environment, "htcondor", prefix=PREFIX)


def test_a_removed_job_is_replaced_and_the_store_is_that_of_a_local_run(
    pool: HTCondorPool,
    features: partial[Features],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = features('+JobFlavour = "workday"', walltime="5", account="group_u.atlas")
    run.wait_for_parts(4)
    names = ("RequestCpus", "RequestMemory", "MaxRuntime", "AllowedJobDuration", "AcctGroup")
    wanted = ["1", "1024", "300", "300", "group_u.atlas", "workday"]
    assert wanted in pool.values(*names, "JobFlavour")
    pool.command("condor_rm", pool.running()[0])
    status, errors = run.end()
    assert status == 0, errors
    assert not pool.running(), "jobs were left behind"
    assert len(list(tmp_path.glob("dask-worker.*.log"))) > 2, "the removed job has no successor"
    monkeypatch.chdir(tmp_path)
    assert same_as_local(tmp_path)


@pytest.mark.parametrize(
    ("directives", "options", "reason"),
    [
        (("requirements = ((",), {}, "Parse error in expression"),
        (("workday",), {}, "must be `NAME = VALUE`, or an option of condor_submit"),
        ((), {"queue": "long"}, "HTCondor has no queues"),
    ],
)
def test_what_htcondor_refuses_is_one_line(
    pool: HTCondorPool,
    features: partial[Features],
    directives: Sequence[str],
    options: dict[str, str],
    reason: str,
) -> None:
    status, errors = features(*directives, **options).end(120)
    assert status == 2
    assert reason in reason_in(errors)
    assert not pool.running()


def test_a_line_says_that_no_worker_runs(pool: HTCondorPool, features: partial[Features]) -> None:
    run = features("hold = True")
    run.wait_for("no Dask worker runs: HTCondor has not started job")
    pool.command("condor_release", "-all")
    status, errors = run.end()
    assert status == 0, errors
