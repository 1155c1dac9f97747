"""Hyper-parameter search with Optuna: every trial is a training as `hepflow train fit` does it, judged on the validation split.

Trials run on Dask workers and meet in a journal file, so that a search goes on where it was stopped. No trial opens the test split.
"""

import json
import logging
import math
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
import yaml
from distributed import as_completed
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from hepflow.config.shipped import shipped
from hepflow.config.tools import TuneConfig
from hepflow.data.provenance import digest
from hepflow.data.runs import CHECKPOINTS, LAST
from hepflow.data.store import EventStore
from hepflow.engines import dask
from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.system import locks
from hepflow.system.files import whole
from hepflow.system.terminal import TO_PASTE
from hepflow.train.cli import prepared
from hepflow.train.parser import TrainCLI
from hepflow.train.tune.folds import make_folds
from hepflow.train.tune.report import REASON, report

log = logging.getLogger(__name__)

JOURNAL, BEST_FILE = "study.journal", "best.yaml"
STUDY = "hepflow"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def run(config: TuneConfig) -> None:
    """Run the trials that are missing, then say which were best and write best.yaml.

    Raises
    ------
    ConfigError
        The space is no space, or the folder holds another search.
    DataError
        No trial came to its end.
    """
    overlay = _overlay(config.net)
    _check_space(overlay, config.space)
    store = EventStore.open(config.input)
    settings = {
        "net": overlay,
        "space": config.space,
        "store": store.spec.provenance,
        "number of folds": config.folds,
        "seed": config.seed,
        "sampler": config.sampler,
        "pruning": config.pruning,
    }
    with locks.exclusive(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
        study = _study(config, {name: digest(value) for name, value in settings.items()})
        n_left = _put_in_order(study, config)
        if n_left:
            if config.folds:
                make_folds(config.input, config.output, config.folds)
            _run_trials(config, overlay, n_left)
        else:
            log.info(
                "%s is up to date: %d trials", config.output, len(study.get_trials(states=FINISHED))
            )
        study = _load(config)
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            reasons = {
                trial.user_attrs.get(REASON, "its loss was no number")
                for trial in study.get_trials(states=(TrialState.PRUNED,))
            }
            raise DataError(
                f"{config.output}: no trial came to its end. Look at the space: {'; '.join(sorted(reasons)[:3])}"
            )
        best = {
            name: json.loads(value) if isinstance(value, str) else value
            for name, value in study.best_params.items()
        }
        _write_best(config.output / BEST_FILE, merged(overlay, best), study)
        report(study, config.output)
        command = (
            "hepflow",
            "train",
            "fit",
            "--config",
            str(config.output / BEST_FILE),
            "--data.store",
            str(config.input),
        )
        log.info("next: %s", shlex.join(command), extra=TO_PASTE)


def merged(overlay: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """An overlay with dotted options put into it."""
    result = json.loads(json.dumps(overlay))
    for name, value in options.items():
        *groups, last = name.split(".")
        place = result
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return result


def suggestions(trial: optuna.Trial, space: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted options of a trial: one of a list's values, or a number from a range."""
    chosen: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, Mapping):
            integer = all(isinstance(values[end], int) for end in ("low", "high"))
            chosen[name] = (trial.suggest_int if integer else trial.suggest_float)(name, **values)
        else:
            chosen[name] = json.loads(
                trial.suggest_categorical(name, [json.dumps(value) for value in values])
            )
    return chosen


def _overlay(net: str) -> dict[str, Any]:
    path = next(
        (path for path in (Path(net), shipped(f"train/{net}.yaml")) if path.is_file()), None
    )
    if path is None:
        known = ", ".join(sorted(found.stem for found in shipped("train").glob("*.yaml")))
        raise ConfigError(f"net {net!r} is neither a file nor one of {known}")
    with prepared():
        _Options("fit", ("--config", str(path)))
    return yaml.safe_load(path.read_text()) or {}


def _check_space(overlay: dict[str, Any], space: Mapping[str, Any]) -> None:
    """Refuse options that no training has, by reading two points of the space."""
    for end, place in (("low", 0), ("high", -1)):
        point = {
            name: values[end] if isinstance(values, Mapping) else values[place]
            for name, values in space.items()
        }
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(yaml.safe_dump(merged(overlay, point)))
            file.flush()
            try:
                with prepared():
                    _Options("fit", ("--config", file.name))
            except ConfigError as error:
                raise ConfigError(str(error).replace(file.name, "space")) from error


def _study(config: TuneConfig, settings: dict[str, str]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=_storage(config), study_name=STUDY, load_if_exists=True)
    before = study.user_attrs.get("settings", settings)
    if changed := [name for name, value in settings.items() if before.get(name, value) != value]:
        raise ConfigError(
            f"{config.output} holds a search with another {' and another '.join(changed)}. Choose another --output."
        )
    study.set_user_attr("settings", settings)
    return study


def _storage(config: TuneConfig) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(JournalFileBackend(str(config.output / JOURNAL)))


def _load(config: TuneConfig, seed: int = 0) -> optuna.Study:
    sampler = (
        optuna.samplers.TPESampler(seed=seed)
        if config.sampler == "tpe"
        else optuna.samplers.RandomSampler(seed=seed)
    )
    pruner = (
        optuna.pruners.MedianPruner(n_warmup_steps=1)
        if config.pruning
        else optuna.pruners.NopPruner()
    )
    return optuna.load_study(
        study_name=STUDY, storage=_storage(config), sampler=sampler, pruner=pruner
    )


def _put_in_order(study: optuna.Study, config: TuneConfig) -> int:
    """Put trials that nobody works on any more back into the queue, and the points of a grid; say how many are to be run."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    wanted = config.trials
    if config.sampler == "grid":
        points = [
            dict(zip(config.space, point, strict=True)) for point in product(*config.space.values())
        ]
        wanted = min(wanted, len(points))
        for point in points[:wanted]:
            study.enqueue_trial(
                {name: json.dumps(value) for name, value in point.items()}, skip_if_exists=True
            )
    return max(0, wanted - len(study.get_trials(states=FINISHED)))


def _run_trials(config: TuneConfig, overlay: dict[str, Any], n_left: int) -> None:
    plain = replace(config, output=config.output.absolute(), input=config.input.absolute())
    done = len(_load(config).get_trials(states=FINISHED))
    with dask.connect(config.cluster, n_left) as client:
        futures = [
            client.submit(_one, plain, overlay, done + index, pure=False) for index in range(n_left)
        ]
        for count, future in enumerate(as_completed(futures), start=done + 1):
            log.info("[%d/%d] %s", count, done + n_left, future.result())


def _one(config: TuneConfig, overlay: dict[str, Any], index: int) -> str:
    """Run one trial, in a worker; what came of it, in words."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("distributed.worker.state_machine").setLevel(
        logging.ERROR
    )  # that a trial is given up is no news after Ctrl-C
    study = _load(config, seed=config.seed * 1_000_003 + index)
    numbers: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        numbers.append(trial.number)
        try:
            return _loss(trial, config, overlay)
        except (
            HepflowError
        ) as error:  # as bad as a point can be: the sampler learns to stay away from it
            trial.set_user_attr(REASON, str(error))
            raise optuna.TrialPruned from error

    study.optimize(objective, n_trials=1)
    trial = study.trials[numbers[0]]
    if trial.state == TrialState.COMPLETE:
        return f"trial {trial.number}: val_loss {trial.value:.4f}"
    return f"trial {trial.number}: {trial.user_attrs.get(REASON, trial.state.name.lower())}"


def _loss(trial: optuna.Trial, config: TuneConfig, overlay: dict[str, Any]) -> float:
    """Lowest val_loss of a trial's training; with folds, the mean over them."""
    chosen = suggestions(trial, config.space)
    folder = config.output / "trials" / digest(chosen)  # the same point again goes on where it was
    with _alone_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / "overlay.yaml"
        own.write_text(yaml.safe_dump(merged(overlay, chosen)))
        loss = (
            _in_folds(trial, config, own, folder)
            if config.folds
            else _fit(own, config.input, folder, config.seed, _Report(trial))
        )
    if not math.isfinite(loss):
        raise optuna.TrialPruned
    return loss


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for a trial of the same point at the same time: what it finds need not be trained again."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locks.exclusive(folder))
                break
            except DataError:  # held
                time.sleep(0.5)
        yield


def _in_folds(trial: optuna.Trial, config: TuneConfig, own: Path, folder: Path) -> float:
    """The mean over the folds."""
    losses: list[float] = []
    for fold, store in enumerate(make_folds(config.input, config.output, config.folds)):
        losses.append(_fit(own, store, folder / f"fold-{fold}", config.seed))
        trial.report(sum(losses) / len(losses), fold)
        if fold + 1 < config.folds and trial.should_prune():
            raise optuna.TrialPruned
    return sum(losses) / len(losses)


def _fit(overlay: Path, store: Path, folder: Path, seed: int, *callbacks: Callback) -> float:
    """Train in this process, without a look at the test split."""
    quiet = (
        "--overwrite",
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.logger",
        "false",
        "--trainer.devices",
        "1",
    )
    options = (
        "--config",
        str(overlay),
        "--data.store",
        str(store),
        "--output",
        str(folder),
        "--seed",
        str(seed),
        "--threads",
        "1",
        *quiet,
    )
    with prepared():
        cli = _TrialCLI("fit", options)
        cli.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]  # Lightning sets it, undeclared
        last = folder / CHECKPOINTS / LAST if cli.state == "resume" else None
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last, weights_only=True)
    for callback in callbacks:
        if isinstance(callback, _Report) and callback.pruned:
            raise optuna.TrialPruned
    kept = next(one for one in cli.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint))
    assert kept.best_model_score is not None
    return float(kept.best_model_score)


class _TrialCLI(TrainCLI):
    prog = "hepflow tune"
    requeues = False


class _Options(_TrialCLI):
    """Reads the options of a trial, and makes nothing."""

    def before_instantiate_classes(self) -> None:
        """There is no run."""

    def instantiate_classes(self) -> None:
        """Nor a trainer."""


class _Report(Callback):
    """Tells the study of every epoch, and ends a trial that is worse than others were."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report, and ask."""
        self.trial.report(float(trainer.callback_metrics["val_loss"]), trainer.current_epoch)
        if self.trial.should_prune():
            self.pruned = trainer.should_stop = True


def _write_best(path: Path, overlay: dict[str, Any], study: optuna.Study) -> None:
    best: FrozenTrial = study.best_trial
    n = len(study.get_trials(states=FINISHED))
    with whole(path) as part:
        part.write_text(
            f"# hepflow tune: trial {best.number}, the best of {n}, val_loss {best.value:.5f}\n{yaml.safe_dump(overlay)}"
        )
