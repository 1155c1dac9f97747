"""Scoring of arriving files: each event once whatever dies, bad and late files, and the view."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

from hepflow.config.engines import ClusterConfig
from hepflow.config.score import ScoreConfig
from hepflow.data.ledger import Ledger
from hepflow.errors import ConfigError, DataError
from hepflow.score import live
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of
from hepflow.score.job import run
from hepflow.score.tables import read_scores
from hepflow.score.task import prepare, score_task
from hepflow.score.view import View
from hepflow.system.files import read_json
from hepflow_bench.copies import copy_as_new
from tests.support.toy_trigger import TEMPLATE_EVENTS, all_ids, scored_ids, write_raw

pytestmark = pytest.mark.slow

N_FILES = 24


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterConfig]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as local:
        yield ClusterConfig(kind="address", address=local.scheduler_address)


def config(tmp_path: Path, model: Path, cluster: ClusterConfig, **more: Any) -> ScoreConfig:
    options = {"input": tmp_path / "raw", "stream": True, "poll_s": 0.1, "idle_stop_s": 1.0} | more
    return ScoreConfig(model=model, output=tmp_path / "scores", cluster=cluster, **options)


def test_files_that_arrive_change_move_or_are_bad(
    tmp_path: Path, model: Path, cluster: ClusterConfig, template: Path
) -> None:
    raw = tmp_path / "raw"
    for number in range(3):
        copy_as_new(template, raw / f"{number}.root", number + 1)
    (raw / "bad.root").write_text("no ROOT file at all")
    options = config(tmp_path, model, cluster, max_lost_files=2, in_flight=2)
    reader = threading.Thread(target=arrive, args=(raw, template, tmp_path / "scores"))
    reader.start()
    run(options)
    reader.join()
    about = read_json(tmp_path / "scores" / "_hepflow.json")
    ledger = Ledger.from_dict(about["ledger"]).check()
    assert about["complete"]
    ids = scored_ids(tmp_path / "scores")
    assert len(set(ids)) == len(ids) == 6 * TEMPLATE_EVENTS, "0, 1, 2, 3, repaired and growing"
    assert ledger.n_in == 7 * TEMPLATE_EVENTS
    assert sorted(item.file for item in ledger.lost) == ["moved.root"]
    assert ledger.lost[0].reason == "a copy of 2.root (same identity)"


def arrive(raw: Path, template: Path, output: Path) -> None:
    wait_for(output, 4)
    (raw / "2.root").rename(raw / "moved.root")  # scores stay
    copy_as_new(template, raw / "later" / "3.root", 4)
    copy_as_new(template, raw / "new.root", 5).replace(raw / "bad.root")  # the repaired file
    content = (copy_as_new(template, raw / ".." / "whole.root", 6)).read_bytes()
    with (raw / "growing.root").open("wb") as file:
        for start in range(0, len(content), len(content) // 4 + 1):
            file.write(content[start : start + len(content) // 4 + 1])
            file.flush()
            time.sleep(0.05)


def wait_for(output: Path, records: int, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while len(list((output / "_records").glob("*.json"))) < records and time.monotonic() < end:
        time.sleep(0.005)


def test_a_run_without_input_or_with_a_wrong_mix_fails_at_once(
    tmp_path: Path, model: Path, cluster: ClusterConfig
) -> None:
    with pytest.raises(DataError, match="raw"):
        run(config(tmp_path, model, cluster))
    (tmp_path / "raw").mkdir()
    with pytest.raises(ConfigError, match="mix must name every class"):
        run(config(tmp_path, model, cluster, mix={"qcd": 1.0}))
    run(config(tmp_path, model, cluster, idle_stop_s=0.1))
    assert read_json(tmp_path / "scores" / "_hepflow.json")["complete"]


def test_a_bounded_number_is_submitted_and_the_oldest_first(
    tmp_path: Path, model: Path, cluster: ClusterConfig, template: Path
) -> None:
    for number in range(7):
        path = copy_as_new(template, tmp_path / "raw" / f"{number}.root", number + 1)
        os.utime(path, (1.5e9 - number, 1.5e9 - number))
    options = config(tmp_path, model, cluster, in_flight=3)
    _, task, about = prepare(options)
    folder = ScoreFolder(task.output, about)
    task = replace(task, run=folder.run)
    with Client(cluster.address) as client:
        stream = live.Stream(options, folder, task, client, View(options, (), None, folder))
        stream.poll()
        assert not stream.waiting, "a file is read once it is unchanged between two polls"
        stream.poll()
        stream.work()
        assert sorted(split.file.name for (split,) in stream.in_flight.values()) == [
            "4.root",
            "5.root",
            "6.root",
        ]
        assert len(stream.waiting) == 4
        while not stream.idle:
            assert len(stream.in_flight) <= 3
            stream.work()
    assert scored_ids(tmp_path / "scores") == all_ids(tmp_path / "raw")


def test_a_long_queue_leaves_few_files_of_scores(
    tmp_path: Path, model: Path, cluster: ClusterConfig
) -> None:
    small = write_raw(tmp_path / "a.root", [6], seed=4)
    for number in range(40):
        copy_as_new(small, tmp_path / "raw" / f"{number}.root", number + 1)
    run(config(tmp_path, model, cluster, in_flight=1))
    assert scored_ids(tmp_path / "scores") == all_ids(tmp_path / "raw")
    assert len(list((tmp_path / "scores").glob("*.parquet"))) < 25
    left = [path.name for path in (tmp_path / "scores").rglob("*") if path.suffix != ".parquet"]
    assert sorted(left) == ["_claims", "_hepflow.json", "_lost.json", "_records", "finished.jsonl"]


def test_the_view_shows_rates_latency_and_drift(
    tmp_path: Path,
    model: Path,
    cluster: ClusterConfig,
    template: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The template has the events of the training; events with other momenta drift."""
    same = config(tmp_path, model, cluster)
    scorer, task, about = prepare(same)
    folder = ScoreFolder(task.output, about)
    task = replace(task, run=folder.run)
    view = View(same, (), scorer.net.spread, folder)
    assert "no event yet" in view.line()
    assert "nan" not in view.line()
    copy_as_new(template, tmp_path / "raw" / "same.root", 1)
    with Client(cluster.address) as client, caplog.at_level(logging.INFO, logger="hepflow"):
        stream = live.Stream(same, folder, task, client, view)
        for _ in range(2):
            stream.poll()
        while not stream.idle:
            stream.work()
        assert "no drift" in view.line()
        assert view.drift()["HT"][0] == pytest.approx(0, abs=0.05)
        rate, _ = view.rates()
        assert rate > 0
        p50, p99 = view.latency()
        assert 0 < p50 <= p99 < 60
        (done,) = folder.records.values()
        record = score_task([one.range for one in done.ranges], task)
        moved = tuple(
            (sum(row), *[0] * (len(row) - 1)) if i == 0 else row
            for i, row in enumerate(record.histograms)
        )
        for _ in range(40):
            view.add(
                type(record)(**{**record.__dict__, "histograms": moved}),
                [(1.0, record.ledger.n_in)],
            )
        assert view.alarms == {"HT"}
        assert "drift of HT" in view.line()
    assert [message for message in caplog.messages if "ALARM" in message] == [
        f"ALARM: HT has drifted from the training events (PSI {view_psi(caplog):.3f})"
    ]


def view_psi(caplog: pytest.LogCaptureFixture) -> float:
    text = next(message for message in caplog.messages if "ALARM" in message)
    return float(text.rsplit(" ", 1)[1].rstrip(")"))


def stream_process(
    raw: Path, output: Path, model: Path, idle_stop_s: float
) -> subprocess.Popen[bytes]:
    options = (
        f"--input={raw}",
        f"--output={output}",
        f"--model={model}",
        "--poll_s=0.1",
        "--in_flight=3",
        "--cluster.workers=1",
    )
    command = (
        sys.executable,
        "-m",
        "hepflow",
        "score",
        "--stream",
        *options,
        f"--idle-stop-s={idle_stop_s}",
    )
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_entry_ranges_of_another_size_replace_those_before(
    tmp_path: Path, model: Path, cluster: ClusterConfig
) -> None:
    path = write_raw(tmp_path / "raw" / "a.root", [40, 30], seed=2)
    _, task, about = prepare(config(tmp_path, model, cluster))
    folder = ScoreFolder(task.output, about)
    task = replace(task, run=folder.run)
    for most in (path.stat().st_size, path.stat().st_size // 2 + 1):
        splits = ranges_of(tmp_path / "raw", task.access, most)
        for split in folder.pending(splits):
            folder.add(score_task((split,), task))
    assert len(splits) == 2
    assert scored_ids(task.output) == all_ids(tmp_path / "raw")
    assert folder.ledger.n_in == 70


def test_an_entry_range_that_is_scored_again_is_not_left_to_a_copy_of_its_file(
    tmp_path: Path, model: Path, cluster: ClusterConfig
) -> None:
    path = write_raw(tmp_path / "raw" / "a.root", [40, 30], seed=2)
    shutil.copy(path, path.with_name("b.root"))
    _, task, about = prepare(config(tmp_path, model, cluster))
    splits = ranges_of(tmp_path / "raw", task.access, path.stat().st_size // 2 + 1)
    task = replace(task, run=ScoreFolder(task.output, about).run)
    records = [score_task((split,), task) for split in splits]
    assert [(record.ranges[0].range.file.name, record.ledger.n_out > 0) for record in records] == [
        ("a.root", True)
    ] * 2 + [("b.root", False)] * 2
    lost = replace(records[0].ranges[0], transient=True)
    replace(records[0], ranges=(lost,)).write(task.output)
    folder = ScoreFolder(task.output, about, retry_lost=True)
    task = replace(task, run=folder.run)
    for split in reversed(folder.pending(splits)):
        folder.add(score_task((split,), task))
    assert scored_ids(task.output) == sorted(set(all_ids(path.parent)))


@pytest.mark.system
def test_killed_streams_and_workers_lose_and_double_nothing(
    tmp_path: Path, model: Path, cluster: ClusterConfig, template: Path
) -> None:
    """kill -9 of the run amid the work, then of a worker, while files keep arriving."""
    rng, raw, output = np.random.default_rng(), tmp_path / "raw", tmp_path / "scores"
    files = iter(
        [
            copy_as_new(template, tmp_path / "kept" / f"{number:02d}.root", number + 1)
            for number in range(N_FILES)
        ]
    )
    raw.mkdir()
    deliver(files, raw, N_FILES // 2)
    process = stream_process(raw, output, model, 0)
    wait_for(output, int(rng.integers(1, N_FILES // 4)))
    assert process.poll() is None
    process.kill()
    process.wait()
    left = len(list((output / "_records").glob("*.json")))
    assert 0 < left < N_FILES
    deliver(files, raw, N_FILES // 4)
    process = stream_process(raw, output, model, 3)
    wait_for(output, left + 2)
    deadline = time.monotonic() + 120  # the records may be of workers that outlived their run
    while not (workers := workers_of(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    deliver(files, raw, N_FILES)
    assert process.wait(timeout=300) == 0
    ids = scored_ids(output)
    assert len(set(ids)) == len(ids) == N_FILES * TEMPLATE_EVENTS
    assert ids == all_ids(raw)
    about = read_json(output / "_hepflow.json")
    assert about["complete"]
    assert Ledger.from_dict(about["ledger"]).check().n_in == N_FILES * TEMPLATE_EVENTS
    assert not list(output.glob("**/.*.part"))
    scores = read_scores(output).sort_by("event_id")
    shutil.rmtree(output)
    run(config(tmp_path, model, cluster))
    assert read_scores(output).sort_by("event_id") == scores


def workers_of(pid: int) -> list[int]:
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def deliver(files: Iterator[Path], raw: Path, n: int) -> None:
    for _, path in zip(range(n), files, strict=False):
        path.rename(raw / path.name)
