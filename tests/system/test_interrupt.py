"""Ctrl-C during a stage: status 130, one line, no process left, and a rerun finishes the work."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from hepflow.config.shipped import shipped
from hepflow.system.files import read_json
from hepflow_bench.copies import copy_as_new
from tests.support.commands import Command, hepflow
from tests.support.left_over import left_in, lines_in
from tests.support.root_files import write_delphes
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest
from tests.support.trainings import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CLASSES = ("qcd", "ttbar")
N_FILES = 12
HLF = str(shipped("train/hlf.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw files, their events, a store, and a trained net."""
    folder = tmp_path_factory.mktemp("interrupted")
    template = write_delphes(folder / "template", [200] * 4)
    for number in range(N_FILES):
        copy_as_new(
            template, folder / "data/raw" / CLASSES[number % 2] / f"{number:02d}.root", number + 1
        )
    ingest(folder / "data/raw", folder / "given/events", CLASSES)
    fit(toy_store(folder / "given/features.zarr", events=200), folder / "given/runs/hlf")
    trainer = {
        "callbacks": [{"class_path": "tests.support.crash.PauseOnce", "init_args": {"step": 40}}],
        "max_epochs": 4,
        "accelerator": "cpu",
    }
    data = {"store": "given/features.zarr", "batch_size": 32, "workers": 0}
    (folder / "pause.yaml").write_text(yaml.safe_dump({"trainer": trainer, "data": data}))
    return folder


def interrupt(place: Path, sign: str, *arguments: str) -> None:
    """Interrupt a command once new files match a pattern, then let the same command finish."""
    before = set(place.glob(sign))
    press_ctrl_c(lambda _: bool(set(place.glob(sign)) - before), place, *arguments)
    done = hepflow(*arguments, cwd=place)
    assert done.returncode == 0, done.stderr


def press_ctrl_c(when: Callable[[int], bool], place: Path, *arguments: str) -> None:
    """Run a command, press Ctrl-C when ``when(session)`` is true, and check the result."""
    process = Command(*arguments, cwd=place, merged=True)
    try:
        while process.poll() is None and not when(process.pid):
            time.sleep(0.01)
        assert process.poll() is None, f"it ended too early: {process.printed()}"
        os.killpg(process.pid, signal.SIGINT)
        done = process.finish(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    printed = done.stdout
    assert done.returncode == 130, printed
    assert (
        printed.strip().splitlines()[-1]
        == "hepflow: interrupted. Run the same command to continue; finished work is kept."
    ), printed
    assert "Traceback" not in printed, printed
    assert "WARNING" not in printed, printed
    assert left_in(process.pid) == [], printed


@pytest.mark.once
@pytest.mark.pythia
def test_simulate(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    pytest.importorskip("pythia8mc", reason="the simulation needs hepflow[simulate]")
    options = "--classes [wjets] --events 12 --events_per_file 3 --pool 10 --pileup 1 --jobs 2"
    interrupt(
        place, "simulated/wjets/*.json", "simulate", "--output", "simulated", *options.split()
    )
    assert sum(read_json(path)["written"] for path in place.glob("simulated/wjets/*.json")) >= 12


SAMPLES = ("--samples", "{qcd: [qcd], ttbar: [ttbar]}", "--spark.driver_memory", "512m")


@pytest.mark.once
@pytest.mark.spark
def test_ingest(place: Path) -> None:
    options = ("--target_partition_mb", "1", "--spark.master", "local[2]")
    interrupt(place, "data/events/_records/*.json", "ingest", *options, *SAMPLES)
    assert read_json(place / "data/events/_hepflow.json")["ledger"]["n_in"] == N_FILES * 800


@pytest.mark.spark
@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_ingest_while_spark_starts(place: Path, seconds: float) -> None:
    """When Java appears, and a while later."""
    seen: list[float] = []

    def is_time(session: int) -> bool:
        if not seen and any("SparkSubmit" in line for line in lines_in(session)):
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= seconds

    press_ctrl_c(is_time, place, "ingest", "--output", "data/other", *SAMPLES)


@pytest.mark.once
def test_features(place: Path) -> None:
    options = ("--input", "given/events", "--cluster.workers", "2", "--part-mb", "1")
    interrupt(place, "data/features.zarr/_parts/[0-9]*.json", "features", *options)
    counts = read_json(place / "data/features.zarr/zarr.json")["attributes"]["hepflow"]["counts"]
    assert sum(sum(split.values()) for split in counts.values()) > 0


@pytest.mark.spark
def test_features_in_spark(place: Path) -> None:
    options = ("--input", "given/events", "--output", "data/spark.zarr", "--part-mb", "1")
    cluster = ("--cluster.kind", "spark", "--cluster.spark.master", "local[2]")
    interrupt(place, "data/spark.zarr/_parts/[0-9]*.json", "features", *options, *cluster)


@pytest.mark.once
def test_train(place: Path) -> None:
    """During the second epoch: between epochs, closing a generator may swallow an interrupt."""
    options = ("--config", HLF, "--config", "pause.yaml", "--output", "runs/hlf")
    interrupt(place, "runs/hlf/paused-0", "train", "fit", *options)
    assert read_json(place / "runs/hlf/run.json")["finished"]
    assert (place / "runs/hlf/metrics.csv").read_text().count("\n") == 1 + 4


@pytest.mark.spark
def test_spark_train(place: Path) -> None:
    options = ("--config", HLF, "--config", "pause.yaml", "--spark.driver_memory", "512m")
    processes = ("--spark.num_processes", "2", "--output", "runs/spark")
    interrupt(place, "runs/spark/paused-0", "spark-train", *options, *processes)
    assert read_json(place / "runs/spark/run.json")["finished"]


@pytest.mark.spark
def test_forest(place: Path) -> None:
    options = ("--input", "given/features.zarr", "--trees", "5", "--spark.driver_memory", "512m")
    interrupt(place, "runs/.forest.lock", "forest", *options)
    assert (place / "runs/forest/predictions.parquet").is_file()


def test_evaluate(place: Path) -> None:
    options = ("--input", "given/runs", "--bootstrap", "2000")
    interrupt(place, "reports/.latest.lock", "evaluate", *options)
    assert (place / "reports/latest/report.html").is_file()


def test_tune(place: Path) -> None:
    space = "{trainer.max_epochs: [2], model.lr: [0.001, 0.01]}"
    options = ("--input", "given/features.zarr", "--trials", "2", "--space", space)
    interrupt(place, "tune/study.journal", "tune", *options)
    assert (place / "tune/best.yaml").is_file()


@pytest.mark.pythia
def test_a_command_waits_for_the_commands_that_it_runs(place: Path) -> None:
    pytest.importorskip("pythia8mc", reason="the simulation needs hepflow[simulate]")
    options = "--stages [simulate] --sizes [6] --workers [1] --repeats 1 --output bench"
    interrupt(place, "bench/input/6/raw/*/*.json", "bench", *options.split())
    assert (place / "bench/bench.csv").is_file()


def test_score(place: Path) -> None:
    options = ("--model", "given/runs/hlf/model.onnx", "--target_partition_mb", "1")
    interrupt(place, "scores/_records/*.json", "score", *options, "--cluster.workers", "2")
    assert read_json(place / "scores/_hepflow.json")["complete"]
