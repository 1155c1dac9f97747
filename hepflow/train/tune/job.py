"""Hyper-parameter search with Optuna: every trial is a training of `hepflow train fit`.

A trial is judged on the validation split, and never opens the test split. Trials run on Dask
workers and share a journal file, so that a search can be resumed.
"""

import json
import logging
import math
import shlex
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytorch_lightning as pl
import yaml
from distributed import as_completed
from optuna.trial import TrialState
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from hepflow.config.shipped import net_file
from hepflow.config.tools import TuneConfig
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.engines import dask
from hepflow.errors import ConfigError, DataError, HepflowError
from hepflow.system import durable, locks
from hepflow.system.files import as_yaml
from hepflow.system.publishing import put
from hepflow.system.storage import make_folder
from hepflow.system.terminal import TO_PASTE
from hepflow.train.cli import prepared
from hepflow.train.parser import TrainCLI
from hepflow.train.tune.folds import make_folds
from hepflow.train.tune.journal import JOURNAL, CheckedJournal, keep, local_journal
from hepflow.train.tune.report import REASON, report

log = logging.getLogger(__name__)

BEST_FILE = "best.yaml"
STUDY = "hepflow"
TRIALS = "trials"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
NOT_FINITE = "its loss was NaN or infinite"


def run(config: TuneConfig) -> None:
    """Run the missing trials, report the best ones, and write best.yaml."""
    dask.prepare(config.cluster, {"input": config.input, "output": config.output})
    overlay = _overlay(config.net)
    for end, position in (("low", 0), ("high", -1)):  # two points of the space, parsed only
        ranges = config.space.items()
        point = {name: v[end if isinstance(v, Mapping) else position] for name, v in ranges}
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(yaml.safe_dump(merged(overlay, point)))
            file.flush()
            try:
                _parse(Path(file.name))
            except ConfigError as error:
                raise ConfigError(str(error).replace(file.name, "space")) from error
    provenance = EventStore.open(config.input).spec.provenance
    settings: dict[str, Any] = {
        "net": overlay,
        "space": config.space,
        "store": provenance,
        "number of folds": config.folds,
        "seed": config.seed,
        "sampler": config.sampler,
        "pruning": config.pruning,
    }
    best_file = config.output / BEST_FILE
    with ExitStack() as stack:
        stack.enter_context(locks.exclusive(config.output, TRIALS, JOURNAL, f"{JOURNAL}.lock"))
        make_folder(config.output)
        journal = local_journal(config, stack)
        hashes = {name: digest(value) for name, value in settings.items()}
        study = _open_study(config, journal, hashes)
        n_done, n_left = _queue(study, config)
        if n_left:
            if config.folds:
                make_folds(config.input, config.output, config.folds)
            own = replace(config, output=config.output.absolute(), input=config.input.absolute())
            with dask.dask_client(config.cluster, n_left) as client:
                indices = range(n_done, n_done + n_left)
                futures = [
                    client.submit(_one, own, journal, overlay, i, pure=False) for i in indices
                ]
                for count, future in enumerate(as_completed(futures), start=n_done + 1):
                    log.info("[%d/%d] %s", count, n_done + n_left, future.result())
                    keep(journal, config)
        else:
            log.info("%s is up to date: %d trials", config.output, n_done)
            dask.nothing_to_do(config.cluster)
        study = _load(config, journal)
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            pruned = study.get_trials(states=(TrialState.PRUNED,))
            reasons = sorted({trial.user_attrs.get(REASON, NOT_FINITE) for trial in pruned})
            why = "; ".join(reasons[:3])
            raise DataError(f"{config.output}: all trials failed. Check the space: {why}")
        params = study.best_params.items()
        best = {name: json.loads(v) if isinstance(v, str) else v for name, v in params}
        number, loss = study.best_trial.number, study.best_value
        n_finished = len(study.get_trials(states=FINISHED))
        head = f"# hepflow tune: trial {number}, the best of {n_finished}, val_loss {loss:.5f}\n"
        put(best_file, as_yaml(head + yaml.safe_dump(merged(overlay, best))))
        report(study, config.output)
        command = f"hepflow train fit --config {shlex.quote(str(best_file))}"
        store = shlex.quote(str(config.input))
        log.info("next: %s --data.store %s", command, store, extra=TO_PASTE)


def merged(overlay: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return an overlay with dotted options put into it."""
    result = json.loads(json.dumps(overlay))
    for name, value in options.items():
        *groups, last = name.split(".")
        place = result
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return result


def suggestions(trial: optuna.Trial, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted options of a trial: values from lists, numbers from ranges."""
    chosen: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, Mapping):
            integer = all(isinstance(values[end], int) for end in ("low", "high"))
            chosen[name] = (trial.suggest_int if integer else trial.suggest_float)(name, **values)
        else:  # as JSON: Optuna's categories are plain values, ours may be lists
            choice = trial.suggest_categorical(name, [json.dumps(value) for value in values])
            chosen[name] = json.loads(choice)
    return chosen


def _overlay(net: str) -> dict[str, Any]:
    path = net_file(net)
    _parse(path)
    return yaml.safe_load(path.read_text()) or {}


def _parse(overlay: Path) -> None:
    with prepared():
        _Options("fit", ("--config", str(overlay)))


def _storage(journal: Path) -> optuna.storages.JournalStorage:
    storage = optuna.storages.JournalStorage(CheckedJournal(str(journal)))
    durable.flush_folder(journal.parent)  # what is in the journal, optuna flushes
    return storage


def _open_study(config: TuneConfig, journal: Path, settings: dict[str, str]) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    how: dict[str, Any] = {"study_name": STUDY, "load_if_exists": True}
    study = optuna.create_study(storage=_storage(journal), **how)
    before = study.user_attrs.get("settings", settings)
    if changed := [name for name, value in settings.items() if before.get(name, value) != value]:
        held = f"a search with another {' and another '.join(changed)}"
        raise ConfigError(f"{config.output} holds {held}. Choose another --output.")
    study.set_user_attr("settings", settings)
    return study


def _load(config: TuneConfig, journal: Path | None = None, seed: int = 0) -> optuna.Study:
    samplers, pruners = optuna.samplers, optuna.pruners
    sampler = samplers.TPESampler if config.sampler == "tpe" else samplers.RandomSampler
    pruner = pruners.MedianPruner(n_warmup_steps=1) if config.pruning else pruners.NopPruner()
    how = {
        "storage": _storage(journal or config.output / JOURNAL),
        "sampler": sampler(seed=seed),
        "pruner": pruner,
    }
    return optuna.load_study(study_name=STUDY, **how)


def _queue(study: optuna.Study, config: TuneConfig) -> tuple[int, int]:
    """Queue abandoned trials again, and the points of a grid; return how many are done and left."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    n_wanted = config.trials
    if config.sampler == "grid":
        points = list(product(*config.space.values()))
        n_wanted = min(n_wanted, len(points))
        for point in points[:n_wanted]:
            params = dict(zip(config.space, map(json.dumps, point), strict=True))
            study.enqueue_trial(params, skip_if_exists=True)
    n_done = len(study.get_trials(states=FINISHED))
    return n_done, max(0, n_wanted - n_done)


def _one(config: TuneConfig, journal: Path, overlay: dict[str, Any], index: int) -> str:
    """Run one trial in a worker, and return its result in one line."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # A trial that Ctrl-C interrupts needs no message.
    logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
    study = _load(config, journal, config.seed * 1_000_003 + index)

    def objective(trial: optuna.Trial) -> float:
        try:
            return _loss(trial, config, overlay)
        except HepflowError as error:  # the worst result, so that the sampler avoids the point
            trial.set_user_attr(REASON, str(error))
            raise optuna.TrialPruned from error

    ended: list[optuna.trial.FrozenTrial] = []
    study.optimize(objective, n_trials=1, callbacks=[lambda _, trial: ended.append(trial)])
    trial = ended[0]
    if trial.state == TrialState.COMPLETE:
        return f"trial {trial.number}: val_loss {trial.value:.4f}"
    return f"trial {trial.number}: {trial.user_attrs.get(REASON, trial.state.name.lower())}"


def _loss(trial: optuna.Trial, config: TuneConfig, overlay: dict[str, Any]) -> float:
    """Return the lowest val_loss of a trial's training; with folds, the mean over them."""
    chosen = suggestions(trial, config.space)
    folder = config.output / TRIALS / digest(chosen)  # the same point again resumes here
    own = folder / "overlay.yaml"
    with _alone_in(folder):
        make_folder(folder)
        put(own, yaml.safe_dump(merged(overlay, chosen)).encode())
        if not config.folds:
            loss = _fit(own, config.input, folder, config.seed, _Report(trial))
        losses: list[float] = []
        stores = make_folds(config.input, config.output, config.folds) if config.folds else []
        for fold, store in enumerate(stores):
            losses.append(_fit(own, store, folder / f"fold-{fold}", config.seed))
            loss = sum(losses) / len(losses)
            trial.report(loss, fold)
            if fold + 1 < len(stores) and trial.should_prune():
                raise optuna.TrialPruned
    if not math.isfinite(loss):
        raise optuna.TrialPruned
    return loss


def _alone_in(folder: Path) -> ExitStack:
    """Wait for a trial of the same point: its training need not be repeated."""
    lock = ExitStack()
    while True:
        with suppress(DataError):  # held by that trial
            lock.enter_context(locks.exclusive(folder))
            return lock
        time.sleep(0.5)


def _fit(overlay: Path, store: Path, folder: Path, seed: int, *callbacks: Callback) -> float:
    """Train in this process, without the test split, and return the lowest val_loss."""
    quiet = "--trainer.enable_progress_bar false --trainer.logger false --trainer.devices 1"
    paths = ("--config", overlay, "--data.store", store, "--output", folder, "--seed", seed)
    options = [*map(str, paths), "--threads", "1", "--overwrite", *quiet.split()]
    with prepared():
        cli = _TrialCLI("fit", options)
        cli.trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.run.last, weights_only=True)
    if any(isinstance(callback, _Report) and callback.pruned for callback in callbacks):
        raise optuna.TrialPruned
    kept = next(one for one in cli.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint))
    assert kept.best_model_score is not None
    return float(kept.best_model_score)


class _TrialCLI(TrainCLI):
    prog = "hepflow tune"
    requeues = False


class _Options(_TrialCLI):
    """Parses the options of a trial, and makes nothing."""

    def before_instantiate_classes(self) -> None:
        """Settle no run."""

    def instantiate_classes(self) -> None:
        """Make no trainer."""


class _Report(Callback):
    """Reports every epoch to the study, and stops a trial that is worse than the others."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report the epoch."""
        self.trial.report(float(trainer.callback_metrics["val_loss"]), trainer.current_epoch)
        if self.trial.should_prune():
            self.pruned = trainer.should_stop = True
