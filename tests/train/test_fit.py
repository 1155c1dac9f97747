"""`hepflow train`: what a run folder holds, resuming, reproducibility, mistakes in one line."""

import io
import os
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from rich.console import Console

from hepflow.config.options import SWITCH, shown
from hepflow.config.shipped import shipped
from hepflow.data.predictions import read_predictions
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError
from hepflow.models.net import rebuild
from hepflow.schema import HLF, PARTICLE
from hepflow.statistics.metrics import balanced_accuracy, confusion, predicted
from hepflow.system import locks
from hepflow.system.files import read_json, write_json
from hepflow.train.cli import main
from hepflow.train.help import SWITCHES, groups
from hepflow.train.module import lr_factor
from hepflow.train.record import read_table
from tests.support.commands import hepflow
from tests.support.crash import CODE
from tests.support.toy_store import toy_store
from tests.support.trainings import SMALL, assert_same, fit, weights

pytestmark = pytest.mark.slow


class Significance(pl.Callback):
    """Logs a measure of the user's, and records the seeds of the dropout."""

    seeds: ClassVar[list[int]] = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("significance", float(-trainer.current_epoch))

    def on_train_batch_end(self, *_: Any) -> None:
        self.seeds.append(torch.initial_seed())


NETS = ("hlf", "sequence", "inclusive")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    return toy_store(tmp_path_factory.mktemp("fit") / "toy.zarr", events=40, mean_particles=6)


@pytest.fixture(scope="module")
def run(store: EventStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "inclusive"
    fit(store, folder, net="inclusive")
    return folder


def test_a_run_folder_holds_everything(run: Path, store: EventStore) -> None:
    for name in (
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "metrics.csv",
        "predictions.parquet",
        "run.json",
    ):
        assert (run / name).is_file(), name
    assert list(run.glob("tensorboard/*/events.out.tfevents.*"))
    record = read_json(run / "run.json")
    assert (record["name"], record["model"], record["parameters"]) == (
        "inclusive",
        "InclusiveNet",
        12353,
    )
    assert record["classes"] == list(store.spec.classes)
    assert record["provenance"] == store.spec.provenance
    assert record["events_trained"] == 3 * 240
    assert (record["epochs"], record["seed"], record["finished"]) == (3, 1, True)
    assert record["events_per_s"] > 0
    assert len(record["history"]) == 3
    assert (
        "class_path: hepflow.models.inclusive.InclusiveNet\n" in (run / "config.yaml").read_text()
    )


def test_what_was_trained_is_counted_whichever_epoch_was_the_best(
    store: EventStore, tmp_path: Path
) -> None:
    record = fit(
        store, tmp_path / "hlf", "--model.lr", "1", "--checkpoint.mode", "max"
    )  # the worst epoch: seldom the last
    best = torch.load(tmp_path / "hlf" / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    assert record["events_trained"] == 3 * 240, f"the best epoch is {best}"
    assert record["events_per_s"] == pytest.approx(record["events_trained"] / record["wall_s"])


def test_a_training_reports_the_best_epoch_and_why_it_stopped(
    store: EventStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="hepflow"):
        fit(store, tmp_path / "whole")
        fit(
            store,
            tmp_path / "stopped",
            "--early_stopping.patience",
            "1",
            "--early_stopping.min_delta",
            "9",
        )
    best = [
        torch.load(tmp_path / name / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] + 1
        for name in ("whole", "stopped")
    ]
    assert f"the best epoch is {best[0]} of 3 by val_loss" in caplog.messages
    why = "stopped after epoch 2: no lower val_loss for 1 epoch"
    assert f"{why}; the best is epoch {best[1]} by val_loss" in caplog.messages


def test_a_training_reports_its_part_of_an_epoch_and_the_accuracy_of_a_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = toy_store(
        tmp_path / "uneven.zarr", events={"qcd": 90, "ttbar": 16, "wjets": 20}, mean_particles=1
    )
    with caplog.at_level("INFO", logger="hepflow"):
        record = fit(
            store,
            tmp_path / "hlf",
            "--trainer.max_epochs",
            "1",
            "--trainer.limit_train_batches",
            "2",
        )
    assert "an epoch: 2 of 3 batches, about 64 of 96 events, shuffled one by one" in caplog.messages
    assert 0 < record["events_trained"] <= 64
    written = read_predictions(tmp_path / "hlf" / "predictions.parquet")
    accuracy = balanced_accuracy(confusion(predicted(written.logits), written.label, 3)).value
    assert record["test"]["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert accuracy != pytest.approx((predicted(written.logits) == written.label).mean(), abs=0.01)


def test_metrics_have_a_row_per_epoch(run: Path) -> None:
    rows = read_table(run / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    for name in (
        "train_loss",
        "val_loss",
        "train_accuracy",
        "val_accuracy",
        "val_auc_qcd",
        "lr",
        "events_per_s",
        "data_wait_s",
    ):
        assert all(np.isfinite(row[name]) for row in rows), name


def test_predictions_are_of_every_test_event_once_by_the_best_checkpoint(
    run: Path, store: EventStore
) -> None:
    predictions = read_predictions(run / "predictions.parquet")
    blocks = list(store.blocks("test"))
    assert sorted(predictions.event_id.tolist()) == sorted(
        i for block in blocks for i in block.event_id.tolist()
    )
    truth = dict(
        zip(
            np.concatenate([b.event_id for b in blocks]),
            np.concatenate([b.label for b in blocks]),
            strict=True,
        )
    )
    assert [truth[i] for i in predictions.event_id] == predictions.label.tolist()
    assert (predictions.model, predictions.classes) == ("inclusive", store.spec.classes)
    assert (predictions.provenance["store"], predictions.provenance["split"]) == (
        store.spec.provenance,
        "test",
    )
    accuracy = (predictions.logits.argmax(axis=1) == predictions.label).mean()
    assert accuracy == pytest.approx(read_json(run / "run.json")["test"]["test_accuracy"], abs=1e-6)


def test_a_checkpoint_rebuilds_its_net_without_the_configuration(
    run: Path, store: EventStore
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    net = rebuild(checkpoint["hepflow"])
    net.load_state_dict(
        {name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items()}
    )
    assert net.inputs.hlf == tuple(feature.name for feature in store.spec.hlf)


def test_a_finished_run_is_up_to_date_and_nothing_is_touched(
    run: Path, store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with caplog.at_level("INFO", logger="hepflow"):
        fit(
            store, run, "--data.workers", "0", net="inclusive"
        )  # how it runs is no reason to run again
    assert "is up to date: same configuration" in caplog.messages[-1]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_another_configuration_replaces_a_run_with_overwrite(
    store: EventStore, tmp_path: Path
) -> None:
    first = fit(store, tmp_path / "hlf")
    other = ("--model.lr", "0.01", "--trainer.max_epochs", "2")
    with pytest.raises(
        ConfigError,
        match=r"a finished run with model.lr 0.003 \(now 0.01\), trainer.max_epochs 3 \(now 2\)\.",
    ):
        fit(store, tmp_path / "hlf", *other)
    with pytest.raises(
        ConfigError, match=r"with data.balance equal \(now \{qcd: 2, ttbar: 1\}\)\."
    ):
        fit(store, tmp_path / "hlf", "--data.balance", "{qcd: 2, ttbar: 1}")
    assert read_json(tmp_path / "hlf" / "run.json") == first
    second = fit(store, tmp_path / "hlf", *other, "--overwrite")
    with pytest.raises(ConfigError, match="holds a finished run"):  # the switch is not kept
        main(["fit", "--config", str(tmp_path / "hlf" / "config.yaml"), "--model.lr", "0.02"])
    assert first["config_hash"] != second["config_hash"]
    assert (second["epochs"], second["events_trained"], len(second["history"])) == (2, 480, 2)


def test_checkpoints_and_the_runs_of_other_stores_and_models_are_not_replaced_either(
    store: EventStore, tmp_path: Path
) -> None:
    folder = tmp_path / "hlf"
    record = fit(store, folder, "--trainer.max_epochs", "1")
    write_json(folder / "run.json", record | {"finished": False})
    with pytest.raises(
        ConfigError, match=r"holds an unfinished run with trainer.max_epochs 1 \(now 3\)"
    ):
        fit(store, folder)
    with pytest.raises(
        ConfigError,
        match=r"with data.store .*toy\.zarr \(now .*other\.zarr\)\. Give another --output, or",
    ):
        fit(
            toy_store(tmp_path / "other.zarr", events=40, seed=2),
            folder,
            "--trainer.max_epochs",
            "1",
        )
    (tmp_path / "trees").mkdir()
    write_json(
        tmp_path / "trees" / "run.json",
        {"model": "LightGBM", "finished": True, "provenance": store.spec.provenance},
    )
    with pytest.raises(
        ConfigError, match=r"trees holds a finished run with model LightGBM \(now another one\)"
    ):
        fit(store, tmp_path / "trees")


def test_a_new_training_starts_if_the_events_of_its_store_have_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "toy.zarr"
    before = fit(toy_store(path, events=40, seed=1), tmp_path / "hlf")
    shutil.rmtree(path)
    with caplog.at_level("INFO", logger="hepflow"):
        after = fit(toy_store(path, events=40, seed=2), tmp_path / "hlf")
    assert "have changed since; a new training starts" in caplog.text
    assert after["provenance"] != before["provenance"]


def test_a_folder_that_holds_no_run_keeps_what_is_in_it(store: EventStore, tmp_path: Path) -> None:
    theirs = tmp_path / "checkpoints" / "theirs.ckpt"
    theirs.parent.mkdir()
    theirs.touch()
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(
        ConfigError, match=r"holds config.yaml, but no run\. Give another --output, or --overwrite"
    ):
        fit(store, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "mine"
    (tmp_path / "config.yaml").unlink()
    fit(store, tmp_path, "--trainer.max_epochs", "1")
    assert theirs.is_file()


def test_a_training_needs_no_temporary_folder(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint from there would be a copy, which a kill cuts short."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert fit(store, tmp_path / "run", "--trainer.max_epochs", "1")["finished"]


def test_two_trainings_do_not_write_into_one_folder(store: EventStore, tmp_path: Path) -> None:
    with (
        locks.exclusive(tmp_path / "run"),
        pytest.raises(DataError, match="run: another run is writing it"),
    ):
        fit(store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("net", NETS)
def test_the_same_seed_gives_the_same_weights(store: EventStore, tmp_path: Path, net: str) -> None:
    for name, seed, workers in (("a", "7", "0"), ("b", "7", "2"), ("c", "8", "1")):
        fit(
            store,
            tmp_path / name,
            "--seed",
            seed,
            "--data.workers",
            workers,
            "--trainer.max_epochs",
            "1",
            net=net,
        )
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert any(
        not torch.equal(x, y)
        for x, y in zip(
            weights(tmp_path / "a").values(), weights(tmp_path / "c").values(), strict=True
        )
    )


@pytest.mark.parametrize("classes", [("signal", "background"), ("a", "b", "c", "d")])
def test_other_classes_and_features_need_no_change(
    tmp_path: Path, classes: tuple[str, ...]
) -> None:
    store = toy_store(
        tmp_path / "toy.zarr",
        classes=classes,
        hlf=HLF[:5],
        particles=PARTICLE[4:9],
        events=30,
        mean_particles=5,
    )
    for net in NETS:
        record = fit(store, tmp_path / net, net=net)
        assert record["classes"] == list(classes)
        assert read_predictions(tmp_path / net / "predictions.parquet").logits.shape == (
            60 * len(classes),
            len(classes),
        )
        assert set(record["test"]) >= {f"test_auc_{name}" for name in classes}


@pytest.mark.parametrize(
    ("net", "step"),
    [
        ("inclusive", 5),
        pytest.param("hlf", 11, marks=pytest.mark.system),
        pytest.param("sequence", 16, marks=pytest.mark.system),
    ],
)
def test_a_killed_run_resumes_to_the_same_weights(
    store: EventStore, tmp_path: Path, net: str, step: int
) -> None:
    config = tmp_path / "mine.yaml"
    text = yaml.safe_load(shipped(f"train/{net}.yaml").read_text())
    text["trainer"] = {
        "callbacks": [{"class_path": "tests.support.crash.CrashOnce", "init_args": {"step": step}}],
        "max_epochs": 3,
    }
    config.write_text(yaml.safe_dump(text))
    options = (
        "fit",
        "--config",
        str(config),
        "--data.store",
        str(store.path),
        "--checkpoint_every_steps",
        "3",
        *SMALL,
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    whole.mkdir()
    (whole / "crashed-0").touch()
    assert hepflow("train", *options, "--output", str(whole)).returncode == 0
    assert hepflow("train", *options, "--output", str(killed)).returncode == CODE
    assert not read_json(killed / "run.json")["finished"]
    resumed = hepflow("train", *options, "--output", str(killed))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from" in resumed.stderr
    assert_same(weights(killed), weights(whole))
    assert_same(weights(killed, "best"), weights(whole, "best"))
    a, b = (read_json(folder / "run.json") for folder in (killed, whole))
    assert a["events_trained"] == b["events_trained"]
    for mine, theirs in zip(a["history"], b["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-6)
        assert mine["val_loss"] == theirs["val_loss"]


def with_callback(folder: Path, name: str, epoch: int) -> Path:
    config = folder / "mine.yaml"
    text = yaml.safe_load(shipped("train/hlf.yaml").read_text())
    text["trainer"] = {
        "callbacks": [{"class_path": f"tests.support.crash.{name}", "init_args": {"epoch": epoch}}]
    }
    config.write_text(yaml.safe_dump(text))
    return config


def test_a_training_that_starts_from_a_checkpoint_is_its_own_run(
    store: EventStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(store, tmp_path / "first", "--trainer.max_epochs", "1")
    start, own = tmp_path / "first" / "checkpoints" / "last.ckpt", tmp_path / "second"
    record = fit(store, own, "--ckpt_path", str(start))
    assert (record["began_with"], record["epochs"]) == (str(start), 3)
    predicted = read_predictions(own / "predictions.parquet")
    assert record["test"]["test_accuracy"] == pytest.approx(
        (predicted.logits.argmax(axis=1) == predicted.label).mean(), abs=1e-6
    )
    main(["test", "--config", str(own / "config.yaml")])
    assert np.array_equal(read_predictions(own / "predictions.parquet").logits, predicted.logits), (
        "tested by its own best epoch"
    )
    with pytest.raises(
        ConfigError, match=r"a finished run with ckpt_path .*last\.ckpt \(now .*best\.ckpt\)"
    ):
        fit(store, own, "--ckpt_path", str(start.with_name("best.ckpt")))
    with pytest.raises(
        ConfigError,
        match=r"last\.ckpt: has 1 epochs already\. trainer\.max_epochs must be more, got 1",
    ):
        fit(store, tmp_path / "third", "--ckpt_path", str(start), "--trainer.max_epochs", "1")
    write_json(own / "run.json", record | {"finished": False})
    with caplog.at_level("INFO", logger="hepflow"):
        fit(store, own, "--ckpt_path", str(start))
    assert f"resuming from {own / 'checkpoints' / 'last.ckpt'}" in caplog.messages, (
        "where it was, not where it began"
    )


def test_a_training_that_stopped_early_and_was_killed_then_has_no_further_epoch(
    store: EventStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--early_stopping.patience", "1", "--early_stopping.min_delta", "9")
    record = fit(store, tmp_path / "run", *options)
    before = weights(tmp_path / "run")
    write_json(tmp_path / "run" / "run.json", record | {"finished": False})
    with caplog.at_level("INFO", logger="hepflow"):
        again = fit(store, tmp_path / "run", *options)
    assert_same(weights(tmp_path / "run"), before)
    assert (again["epochs"], again["history"]) == (2, record["history"])
    assert "stopped after epoch 2: no lower val_loss for 1 epoch; the best is epoch" in caplog.text


def test_a_run_that_ends_in_a_validation_resumes_to_the_same_history(
    store: EventStore, tmp_path: Path
) -> None:
    config, whole, cut = (
        with_callback(tmp_path, "InValidationOnce", epoch=1),
        tmp_path / "whole",
        tmp_path / "cut",
    )
    whole.mkdir()
    (whole / "happened").touch()
    steps = ("--checkpoint-every-steps", "4")  # of 8 an epoch: also after its last one
    options = ("fit", "--config", str(config), "--data.store", str(store.path), *steps, *SMALL)
    main([*options, "--output", str(whole)])
    with pytest.raises(RuntimeError, match="power cut"):
        main([*options, "--output", str(cut)])
    main([*options, "--output", str(cut)])
    assert_same(weights(cut), weights(whole))
    a, b = (
        [
            {**row, "events_per_s": 0, "events_per_s_a_process": 0, "data_wait_s": 0}
            for row in read_table(f / "metrics.csv")
        ]
        for f in (cut, whole)
    )
    assert a == b


def test_a_job_whose_time_is_up_in_a_validation_is_requeued(
    store: EventStore, tmp_path: Path
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(
        '#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"; kill -TERM $PPID\n'
    )  # as Slurm ends what it requeues
    scontrol.chmod(0o755)
    config = with_callback(tmp_path, "TimeIsUpInValidation", epoch=1)
    options = (
        "fit",
        "--config",
        str(config),
        "--data.store",
        str(store.path),
        *SMALL,
        "--output",
        str(tmp_path / "run"),
    )
    job = {"SLURM_JOB_ID": "17", "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    ended = hepflow("train", *options, env=job)
    assert ended.returncode == -signal.SIGTERM, ended.stderr
    assert (scontrol.parent / "asked").read_text() == "requeue 17\n"
    resumed = hepflow("train", *options, env=job)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from" in resumed.stderr
    assert [row["epoch"] for row in read_table(tmp_path / "run" / "metrics.csv")] == [0, 1, 2]


def test_one_is_a_batch_and_one_point_zero_all_of_them(store: EventStore, tmp_path: Path) -> None:
    epochs = ("--trainer.max_epochs", "1")
    fit(store, tmp_path / "one", *epochs, "--trainer.limit_train_batches", "1")
    fit(store, tmp_path / "all", *epochs, "--trainer.limit_train_batches", "1.0")
    steps = [read_table(tmp_path / name / "metrics.csv")[0]["step"] for name in ("one", "all")]
    assert steps[0] == 0
    assert steps[1] > 0
    limit = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())["trainer"]
    assert repr(limit["limit_train_batches"]) == "1"


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_written_config_reads_back(
    run: Path, store: EventStore, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_predictions(run / "predictions.parquet")
    with caplog.at_level("INFO", logger="hepflow"):
        main([command, "--config", str(run / "config.yaml")])
    assert "best.ckpt" in caplog.messages[-1]
    assert np.allclose(
        read_predictions(run / "predictions.parquet").logits, before.logits, atol=1e-6
    )


def test_another_split_is_predicted_next_to_the_test_split(run: Path, store: EventStore) -> None:
    main(["predict", "--config", str(run / "config.yaml"), "--data.predict_split", "val"])
    predictions = read_predictions(run / "predictions-val.parquet")
    assert set(predictions.event_id) == {
        i for block in store.blocks("val") for i in block.event_id.tolist()
    }


def test_base_yaml_has_the_defaults(store: EventStore, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for configs in (["base", "hlf"], ["hlf"]):
        options = [
            word for name in configs for word in ("--config", str(shipped(f"train/{name}.yaml")))
        ]
        with pytest.raises(SystemExit):
            main(["fit", *options, "--print_config"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("path", sorted(shipped("train").glob("*.yaml")), ids=lambda p: p.name)
def test_every_overlay_is_parsed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", str(path), "--print_config"])
    assert exit_.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]


def test_the_last_overlay_names_the_run(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base, mine = shipped("train/base.yaml"), tmp_path / "mine.yaml"
    mine.write_text(shipped("train/hlf.yaml").read_text())
    main(["fit", "--config", str(base), "--config", str(mine), "--input", str(store.path), *SMALL])
    assert read_json(tmp_path / "runs" / "mine" / "run.json")["finished"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--modl.lr", "1"), "--modl.lr"),
        (("--data.batch_size", "many"), "batch-size must be a whole number"),
        (("--data.batch_size", "9999"), "batch_size 9999 is more than the 240 events"),
        (("--data.balance", "even"), "balance"),
        (("--data.memory_mb", "-5"), "data.memory_mb must be at least 0, got -5"),
        (("--data.buffer_mb", "0"), "data.buffer_mb must be at least 1, got 0"),
        (("--threads", "-2"), "threads must.* -2"),
        (("--early_stopping.patience", "-1"), "early_stopping.patience must be at least 0, got -1"),
        (("--model.lr", "-1"), "model.lr must be above 0, got -1"),
        (("--model.net", "hepflow.models.hlf.HLF"), "HLF"),
        (("--model.net.cell", "gru"), "cell"),
        (("--trainer.max_epochs", "0"), "trainer.max_epochs must be at least 1, got 0"),
        (("--trainer.max_epochs", "-5"), "trainer.max_epochs must be at least 1, got -5"),
        (("--trainer.limit_val_batches", "0"), "trainer.limit_val_batches is 0"),
        (
            ("--trainer.enable_checkpointing", "false"),
            "^Trainer was configured with `enable_checkpointing=False`",
        ),
        (
            ("--trainer.precision", "bf16-true"),
            "bf16-true rounds the features too, to three digits",
        ),
        (("--trainer.fast_dev_run", "true"), "trainer.fast_dev_run keeps no epoch"),
        (
            ("--trainer.check_val_every_n_epoch", "4"),
            "4 is more than trainer.max_epochs 3: no epoch would be the best",
        ),
        (
            ("--checkpoint.save_top_k", "2"),
            "checkpoint.save_top_k must be 1, got 2: .* in trainer.callbacks to keep more",
        ),
        (("--checkpoint.filename", "mine"), "checkpoint.filename must be best, got mine"),
        (("--model.net.hidden", "[0]"), r"model.net.hidden\[0\] must be at least 1, got 0"),
        (
            ("--trainer.accelerator", "cpu", "--trainer.devices", "[0, 1]"),
            r"trainer.devices \[0, 1\]: .*should be an int",
        ),
        (("--trainer.accelerator", "xpu"), "trainer.accelerator xpu: .*invalid accelerator name"),
        (
            ("--trainer.accelerator", "cpu", "--trainer.devices", "9999"),
            "trainer.devices 9999 asks for more processes than the",
        ),
        pytest.param(
            ("--trainer.accelerator", "gpu"),
            "trainer.accelerator gpu: .*backend",
            marks=pytest.mark.skipif(
                torch.cuda.is_available() or torch.backends.mps.is_available(),
                reason="there is a GPU",
            ),
        ),
    ],
)
def test_a_wrong_option_is_a_config_error_and_leaves_no_folder(
    store: EventStore, tmp_path: Path, more: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected) as error:
        fit(store, tmp_path / "run", *more)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--data.batch_size", "0"), "data.batch_size must be at least 1, got 0"),
        (("--model.lr", "-1"), "model.lr must be above 0, got -1"),
        (("--data.balance", "{higgs: 2}"), "balance names higgs; the classes of"),
        (
            ("--model.lr", "0.1", "--trainer.accelerator", "cpu", "--trainer.devices", "9999"),
            "trainer.devices 9999 asks for more",
        ),
    ],
)
def test_a_wrong_option_is_named_where_another_run_is_too(
    store: EventStore, run: Path, more: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        fit(store, run, *more, net="inclusive")


@pytest.mark.parametrize("callback", ["early_stopping", "checkpoint"])
def test_a_measure_that_nothing_logs_is_named_before_anything_is_removed(
    store: EventStore, run: Path, callback: str
) -> None:
    before = sorted(run.rglob("*"))
    with pytest.raises(
        ConfigError,
        match=r"val_los: .* Did you mean val_loss\? There are: .*val_auc_qcd.*, train_accuracy\.$",
    ) as error:
        fit(store, run, f"--{callback}.monitor", "val_los", "--overwrite", net="inclusive")
    assert "\n" not in str(error.value)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("measure", "mode", "best"),
    [("train_loss", "min", np.argmin), ("val_auc_qcd", "max", np.argmax)],
)
def test_an_epoch_can_be_the_best_by_whatever_is_measured(
    store: EventStore, tmp_path: Path, measure: str, mode: str, best: Callable[[list[float]], int]
) -> None:
    by = [
        f"--{callback}.{what}"
        for callback in ("checkpoint", "early_stopping")
        for what in ("monitor", "mode")
    ]
    record = fit(
        store, tmp_path / "run", *chain.from_iterable(zip(by, [measure, mode] * 2, strict=True))
    )
    kept = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    assert kept == best([row[measure] for row in record["history"]])


def test_a_callback_of_the_user_can_measure_what_makes_an_epoch_the_best(
    store: EventStore, tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        yaml.safe_dump(
            {"trainer": {"callbacks": [f"{__name__}.Significance"], "accumulate_grad_batches": 2}}
        )
    )
    Significance.seeds.clear()
    own = ("--config", str(config), "--checkpoint.mode", "max")
    record = fit(store, tmp_path / "run", *own, "--checkpoint.monitor", "significance")
    assert (
        torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 0
    )
    assert [row["significance"] for row in record["history"]] == [0, -1, -2]
    assert len(set(Significance.seeds)) == len(Significance.seeds) == 3 * 8, (
        "batches of one step have each their own dropout"
    )
    with pytest.raises(
        ConfigError,
        match=r"could not find the monitored key in the returned metrics: .*significance",
    ):
        fit(store, tmp_path / "other", *own, "--checkpoint.monitor", "significants")


def test_the_worst_epoch_is_not_kept_unasked(store: EventStore, tmp_path: Path) -> None:
    for callback in ("early-stopping", "checkpoint"):
        with pytest.raises(
            ConfigError, match=rf"would keep the worst epoch\. Give --{callback}\.mode max"
        ):
            fit(store, tmp_path / "run", f"--{callback}.monitor", "val_accuracy")


def test_dashes_are_as_good_as_underscores(
    store: EventStore, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                "--input",
                str(store.path),
                "--data.batch-size",
                "17",
                "--trainer.max-epochs=3",
                "--print-config",
            ]
        )
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["data"]["batch_size"], printed["trainer"]["max_epochs"]) == (17, 3)


def test_a_misspelt_key_in_a_file_is_one_line_and_exit_2(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("data: {bath_size: 3}\n")
    result = hepflow("train", "fit", "--config", str(config))
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "bath_size" in result.stderr


def test_a_checkpoint_that_does_not_fit_is_named(
    run: Path, store: EventStore, tmp_path: Path
) -> None:
    best = str(run / "checkpoints" / "best.ckpt")
    options = [
        "--data.store",
        str(store.path),
        "--output",
        str(tmp_path / "x"),
        "--trainer.enable_progress_bar",
        "false",
    ]
    with pytest.raises(DataError, match="no checkpoint here"):
        main(["test", *options])
    with pytest.raises(
        ConfigError, match=r"holds a net with net hepflow\.models\.inclusive\.InclusiveNet"
    ):
        main(["test", *options, "--ckpt_path", best])
    inclusive = ["--config", str(shipped("train/inclusive.yaml"))]
    with pytest.raises(DataError, match=r"none\.ckpt: no checkpoint here"):
        main(["fit", *inclusive, *options, "--ckpt_path", str(tmp_path / "none.ckpt")])
    (tmp_path / "words.ckpt").write_text("hello")
    with pytest.raises(DataError, match=r"words\.ckpt: not readable as a checkpoint"):
        main(["fit", *inclusive, *options, "--ckpt_path", str(tmp_path / "words.ckpt")])
    with pytest.raises(ConfigError, match=r"would replace\. Give another --output"):
        main(
            [
                "fit",
                *inclusive,
                "--data.store",
                str(store.path),
                "--output",
                str(run),
                "--ckpt_path",
                best,
                "--model.lr",
                "0.1",
            ]
        )
    shutil.copytree(run, tmp_path / "kept")
    kept = ("--output", str(tmp_path / "kept"), "--overwrite")
    with pytest.raises(ConfigError, match="holds a net with arguments"):
        main(
            [
                "fit",
                *inclusive,
                "--data.store",
                str(store.path),
                *kept,
                "--ckpt_path",
                best,
                "--model.net.hidden",
                "20",
            ]
        )
    assert (tmp_path / "kept" / "predictions.parquet").is_file(), (
        "what is refused has replaced nothing"
    )
    with pytest.raises(ConfigError, match="holds a net with arguments"):
        main(["test", *inclusive, *options, "--ckpt_path", best, "--model.net.hidden", "20"])
    other = toy_store(tmp_path / "other.zarr", seed=2, events=30)
    options[1] = str(other.path)
    with pytest.raises(DataError, match="another normalisation"):
        main(["fit", *inclusive, *options, "--ckpt_path", best])
    fewer = toy_store(tmp_path / "fewer.zarr", classes=("qcd", "ttbar"), events=30)
    assert not (tmp_path / "x").exists()
    options[1] = str(fewer.path)
    with pytest.raises(
        DataError, match="made for classes qcd, ttbar, wjets, the store has qcd, ttbar"
    ):
        main(["test", *inclusive, *options, "--ckpt_path", best])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_rises_and_then_stays_or_falls(schedule: str) -> None:
    factors = [lr_factor(step, 1000, 0.1, schedule) for step in range(1000)]
    assert factors[0] < 0.02
    assert np.all(np.diff(factors[:100]) > 0)
    assert max(factors) == pytest.approx(1)
    assert np.all(np.diff(factors[101:]) <= 0)
    assert factors[-1] == pytest.approx(1 if schedule == "constant" else 0.01, abs=1e-3)


def shown_while(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Return the lines that a training draws on a terminal of 80 columns."""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr("hepflow.train.progress.MESSAGES", terminal)
    main([*arguments, *SMALL, "--trainer.enable_progress_bar", "true"])
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", drawn) if line.strip()]


def test_the_bar_and_its_numbers_fit_into_80_columns(
    store: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown_while(
        monkeypatch, "fit", "--data.store", str(store.path), "--output", str(tmp_path / "run")
    )
    number = r"\d\.\d{4}"
    assert re.fullmatch(
        rf"epoch 3/3 ━+ \d:\d\d:\d\d val_loss {number}  acc {number}  [\d,]+ events/s", lines[-1]
    )
    assert max(map(len, lines)) <= 80


def test_the_learning_rate_finder_leaves_the_run_alone(
    store: EventStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = fit(store, tmp_path / "run")
    with caplog.at_level("INFO", "hepflow"), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        lines = shown_while(
            monkeypatch,
            "find-lr",
            "--data.store",
            str(store.path),
            "--output",
            str(tmp_path / "run"),
        )
    assert re.fullmatch(r"steps ━+ 0:00:00", lines[-1])
    assert capfd.readouterr().err == "", "another bar"
    suggested = float(re.search(r"--model.lr (\S+);", caplog.text).group(1))
    rows = np.genfromtxt(tmp_path / "run" / "lr_find.csv", delimiter=",", names=True)
    falling = rows[10:]  # before that the running mean of the loss has not settled
    assert 1e-5 < suggested <= falling["lr"][falling["loss"].argmin()]
    assert read_json(tmp_path / "run" / "run.json") == before


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.skipif(
    " " in tempfile.gettempdir(), reason="torch.compile takes no TMPDIR with blanks"
)
def test_a_compiled_net_trains_as_any_other(store: EventStore, tmp_path: Path) -> None:
    fit(store, tmp_path / "plain")
    fit(store, tmp_path / "compiled", "--model.torch_compile", "true")
    assert_same(weights(tmp_path / "plain"), weights(tmp_path / "compiled"), rtol=1e-3, atol=1e-4)


def test_the_half_precision_of_gpus_is_refused_on_a_cpu(
    store: EventStore, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(
        ConfigError, match=r"trainer\.precision 16-mixed is for GPUs; a CPU has 32-true"
    ):
        fit(
            store,
            tmp_path / "run",
            "--trainer.accelerator",
            "cpu",
            "--trainer.precision",
            "16-mixed",
        )
    assert not [warning for warning in recwarn if "fp16" in str(warning.message)], "said twice"


def test_half_precision_trains_too(store: EventStore, tmp_path: Path) -> None:
    losses = [
        fit(store, tmp_path / name, "--trainer.precision", name)["history"][-1]["val_loss"]
        for name in ("32-true", "bf16-mixed")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]


def test_the_help_has_the_options_and_the_defaults_of_the_parser(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--print-config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    for option in chain.from_iterable(groups().values()):
        if option.name in {"config", "print_config"}:
            continue
        actual = reduce(lambda inner, key: inner[key], option.name.split("."), printed)
        if option.default and actual not in (None, {}):
            assert str(
                actual["class_path"] if isinstance(actual, dict) else shown(actual)
            ).endswith(option.default), option.name
    switches = {
        f"--{option.name}"
        for option in chain.from_iterable(groups().values())
        if option.value == SWITCH
    }
    assert switches == {"--print_config", *SWITCHES}


def test_a_training_leaves_the_arithmetic_of_its_process_alone(run: Path) -> None:
    smallest = np.float32(2**-149)
    assert smallest * np.float32(1) == smallest > 0
