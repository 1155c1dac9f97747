"""The features stage on a real Grid Engine: the same bytes, and no silence while jobs wait."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.support.grid_engine import PARALLEL, QUEUE, GridEngine, grid_engine, why_not
from tests.support.jobs_of_features import (
    Features,
    only_tls,
    private_keys,
    reason_in,
    same_as_local,
    write_input,
)

pytestmark = [
    pytest.mark.sge,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GridEngine]:
    with grid_engine(tmp_path_factory.mktemp("sge")) as running:
        yield running


@pytest.fixture
def features(engine: GridEngine, tmp_path: Path) -> partial[Features]:
    write_input(tmp_path, fragments=50)
    return partial(Features, tmp_path, engine.environment, "sge")


def test_a_killed_job_is_replaced_and_the_store_is_that_of_a_local_run(
    engine: GridEngine,
    features: partial[Features],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = features(walltime="5", queue=QUEUE)
    run.wait_for_parts(4)
    assert len(private_keys(tmp_path)) == 3
    first = str(min(engine.jobs("r")))
    request = engine.command("qstat", "-j", first)
    assert "h_rt=300" in request
    assert "mem_free=1024M" in request
    engine.command("qdel", first)
    status, errors = run.end()
    assert status == 0, errors
    assert not engine.jobs("r qw"), "jobs were left behind"
    assert only_tls([*tmp_path.glob("dask-worker.[oe]*")])
    assert not [*tmp_path.glob("hepflow-*")]
    assert len(list(tmp_path.glob("dask-worker.o*"))) > 2, "the killed job has no successor"
    monkeypatch.chdir(tmp_path)
    assert same_as_local(tmp_path)


@pytest.mark.parametrize(
    ("directives", "options", "reason"),
    [
        ((), {"queue": "nowhere"}, 'job requests unknown queue "nowhere"'),
        (("-pe nowhere 2",), {}, 'the requested parallel environment "nowhere" does not exist'),
        ((), {"workers_per_job": "2"}, "2 workers per job need a parallel environment"),
    ],
)
def test_what_grid_engine_refuses_is_one_line(
    engine: GridEngine,
    features: partial[Features],
    directives: Sequence[str],
    options: dict[str, str],
    reason: str,
) -> None:
    status, errors = features(*directives, **options).end(120)
    assert status == 2
    assert reason in reason_in(errors)
    assert not engine.jobs()


def test_a_line_says_that_no_worker_runs(engine: GridEngine, features: partial[Features]) -> None:
    engine.command("qmod", "-d", QUEUE)
    run = features(f"-pe {PARALLEL} 2", workers_per_job="2")
    try:
        run.wait_for("no Dask worker runs: Grid Engine has not started job")
    finally:
        engine.command("qmod", "-e", QUEUE)
    status, errors = run.end()
    assert status == 0, errors


def test_jobs_that_are_refused_later_are_reported_and_not_needed(
    engine: GridEngine, features: partial[Features]
) -> None:
    began = time.monotonic()
    engine.change("-Mconf", "-sconf", max_u_jobs="1")
    try:
        status, errors = features().end()
    finally:
        engine.change("-Mconf", "-sconf", max_u_jobs="0")
    assert status == 0, errors
    minutes = (time.monotonic() - began) / 60
    assert 1 <= errors.count("Grid Engine rejects a job") <= 1 + minutes, "a line per minute"
    assert "Traceback" not in errors


def test_jobs_that_fit_nowhere_are_doubted_at_once(features: partial[Features]) -> None:
    run = features("-l mem_free=100G")
    try:
        run.wait_for("Grid Engine may never start the jobs")
    finally:
        run.interrupt()
