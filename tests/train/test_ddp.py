"""Several processes: the training of one, one file of predictions, resumed by other numbers."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml

from hepflow.config.shipped import shipped
from hepflow.data.predictions import read_predictions
from hepflow.data.store import EventStore
from hepflow.system.files import read_json
from tests.support.commands import hepflow
from tests.support.toy_store import toy_store
from tests.support.trainings import assert_same, weights

pytestmark = pytest.mark.slow

CLOSE = {
    "rtol": 1e-3,
    "atol": 1e-4,
}  # after many steps of Adam, which divides small gradients by their own size


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return toy_store(tmp_path_factory.mktemp("ddp") / "toy.zarr", events=35, mean_particles=5)


def options(store: EventStore, tmp_path: Path, net: str, crash_at: int) -> list[str]:
    """Return options of two epochs of seven batches, without dropout: its masks differ per rank."""
    config = tmp_path / f"{net}.yaml"
    text = yaml.safe_load(shipped(f"train/{net}.yaml").read_text())
    text.setdefault("model", {})["schedule"] = "constant"
    if net != "hlf":
        text["model"]["net"].setdefault("init_args", {})["dropout"] = 0.0
    text["data"] = {"batch_size": 31, "eval_batch_size": 50, "bucket_batches": 2}
    text["trainer"] = {
        "callbacks": [
            {"class_path": "tests.support.crash.KillOnce", "init_args": {"step": crash_at}}
        ],
        "max_epochs": 2,
    }
    config.write_text(yaml.safe_dump(text))
    quiet = (
        "--trainer.enable_progress_bar",
        "false",
        "--checkpoint_every_steps",
        "2",
        "--data.workers",
        "0",
    )
    return ["fit", "--config", str(config), "--data.store", str(store.path), *quiet]


def fit(options: list[str], output: Path, world: int) -> int:
    one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    several = (
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        str(world),
        "--trainer.accelerator",
        "cpu",
    )
    result = hepflow(
        "train", *options, "--output", str(output), *(several if world > 1 else ()), env=one_thread
    )
    return result.returncode


@pytest.mark.parametrize("net", [pytest.param("hlf", marks=pytest.mark.system), "inclusive"])
def test_two_processes_train_as_one_and_write_one_file(
    store: EventStore, tmp_path: Path, net: str
) -> None:
    own = options(store, tmp_path, net, crash_at=-1)
    assert fit(own, tmp_path / "one", 1) == 0
    assert fit(own, tmp_path / "two", 2) == 0
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"), **CLOSE)
    one, two = (read_json(tmp_path / name / "run.json") for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["events_trained"] == two["events_trained"] == 2 * 210
    for a, b in zip(one["history"], two["history"], strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc_qcd"):
            assert a[name] == pytest.approx(b[name], rel=1e-3), name
    first, second = (
        read_predictions(tmp_path / name / "predictions.parquet") for name in ("one", "two")
    )
    everything = sorted(i for block in store.blocks("test") for i in block.event_id.tolist())
    assert first.event_id.tolist() == second.event_id.tolist() == everything
    assert np.allclose(first.logits, second.logits, atol=1e-2)


@pytest.mark.parametrize(
    ("before", "after"), [pytest.param(1, 2, marks=pytest.mark.system), (2, 1)]
)
def test_a_killed_run_goes_on_with_another_number_of_processes(
    store: EventStore, tmp_path: Path, before: int, after: int
) -> None:
    own = options(store, tmp_path, "hlf", crash_at=9)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder, ranks in ((whole, range(2)), (killed, range(before - 1))):
        folder.mkdir()
        for rank in ranks:  # of the ranks of the second folder, only the last one is killed
            (folder / f"crashed-{rank}").touch()
    assert fit(own, whole, 1) == 0
    assert fit(own, killed, before) not in {0, 2}
    for rank in range(2):
        (killed / f"crashed-{rank}").touch()
    assert fit(own, killed, after) == 0
    assert_same(weights(whole), weights(killed), **CLOSE)
    one, two = (read_json(folder / "run.json") for folder in (whole, killed))
    assert one["events_trained"] == two["events_trained"]
    assert one["history"][-1]["train_loss"] == pytest.approx(
        two["history"][-1]["train_loss"], rel=1e-3
    )


def test_forks_end_with_the_record_of_processes_that_are_commands(
    store: EventStore, tmp_path: Path
) -> None:
    own, output = options(store, tmp_path, "hlf", crash_at=-1), tmp_path / "forks"
    forks = ("--trainer.strategy", "ddp_fork", "--trainer.devices", "2")
    forks = (*forks, "--trainer.accelerator", "cpu", "--output", str(output))
    done = hepflow("train", *own, *forks, "--early_stopping.stopping_threshold", "9")
    assert done.returncode == 0, done.stderr
    reason = "stopped after epoch 1: val_loss has reached early_stopping.stopping_threshold"
    assert reason in done.stderr
    record = read_json(output / "run.json")
    assert (record["epochs"], record["events_trained"]) == (1, 210)
    assert record["splits_used"] == {"fit": ["train"], "statistics": ["train"], "tuning": ["val"]}
    assert record["wall_s"] > 0
    again = ("--data.store", str(store.path), "--config", str(output / "config.yaml"), *forks)
    tested = hepflow("train", "test", *again)
    assert f"predictions in {output}/predictions.parquet" in tested.stderr


def test_no_process_outlives_the_one_that_started_it(store: EventStore, tmp_path: Path) -> None:
    own, output = options(store, tmp_path, "hlf", crash_at=-1), tmp_path / "run"
    pause = tmp_path / "pause.yaml"
    pause.write_text(
        yaml.safe_dump(
            {
                "trainer": {
                    "callbacks": [
                        {"class_path": "tests.support.crash.PauseOnce", "init_args": {"step": 3}}
                    ]
                }
            }
        )
    )
    several = (
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        "2",
        "--trainer.accelerator",
        "cpu",
    )
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "MASTER_ADDR": "127.0.0.1",
    }
    command = [
        sys.executable,
        "-m",
        "hepflow",
        "train",
        *own,
        "--config",
        str(pause),
        "--output",
        str(output),
        *several,
    ]
    with subprocess.Popen(command, env=environment) as first:
        while first.poll() is None and not (output / "paused-1").exists():
            time.sleep(0.1)
        (second,) = (child for child in psutil.Process(first.pid).children() if child.is_running())
        first.kill()
    psutil.wait_procs(
        [second], timeout=20
    )  # it would wait for a minute, and then for the other process
    assert not second.is_running()


def test_gradients_of_two_halves_average_to_those_of_the_whole() -> None:
    """The mean over ranks of ``sum * world / n_global`` is the loss, for unequal halves too."""
    torch.manual_seed(1)
    net = torch.nn.Linear(4, 3)
    x, label = torch.randn(9, 4), torch.arange(9) % 3
    whole = torch.autograd.grad(torch.nn.functional.cross_entropy(net(x), label), net.weight)[0]
    halves = [
        torch.autograd.grad(
            torch.nn.functional.cross_entropy(net(x[r::2]), label[r::2], reduction="sum") * 2 / 9,
            net.weight,
        )[0]
        for r in range(2)
    ]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)
