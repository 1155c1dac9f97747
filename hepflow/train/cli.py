"""``hepflow train fit|validate|test|predict|find-lr``: what each does with its trainer."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason
from pytorch_lightning.utilities import rank_zero_only

from hepflow.config.tools import ExportConfig
from hepflow.data.runs import CHECKPOINTS, TENSORBOARD
from hepflow.errors import ConfigError, DataError, one_line
from hepflow.models.export import read_checkpoint
from hepflow.models.export import run as export
from hepflow.system import locks
from hepflow.system.places import place
from hepflow.system.processes import LAUNCHER, end_with
from hepflow.system.terminal import counted
from hepflow.train.find_lr import find_lr
from hepflow.train.folder import summary
from hepflow.train.parser import TrainCLI

log = logging.getLogger(__name__)

NOT_FOR_USERS = (
    ".*smaller than the logging interval.*",  # metrics.csv has a row per epoch in any case
    ".*`srun` command is available.*",  # trying things out on a login node is fine
    ".*sync_dist=True.*",  # logged values are the same on every rank, or only the first rank's
    ".*exists and is not empty.*",  # a resumed training
    ".*AMP with fp16 is not supported on CPU.*",  # refused, see `TrainCLI`
    ".*dirpath has changed from.*",  # a training that starts from another one's checkpoint
    ".*LeafSpec.*",  # between Lightning and torch
    ".*`broadcast_buffers` is deprecated.*",  # its successor is not in the oldest torch we allow
)


def fit(cli: TrainCLI) -> None:
    """Train a net on the store's training split, then predict its test split and export it."""
    run = cli.run
    if run.state == "done":
        log.info("%s is up to date: same configuration, same store", run.folder)
        return
    # The first process holds the lock for all.
    lock = locks.exclusive(run.folder, CHECKPOINTS, TENSORBOARD)
    with lock if cli.trainer.is_global_zero else nullcontext():
        start = run.last or cli.config.ckpt_path
        if start:
            log.info("resuming from %s", start)
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=start, weights_only=True)
        if cli.trainer.interrupted:
            raise KeyboardInterrupt
        log.info("%s", _ending(cli))
        metrics = _measured(cli, cli.trainer.test)
        if cli.trainer.is_global_zero:
            try:
                export(ExportConfig(run=run.folder, input=place(cli.config.data.store)))
            except (DataError, RuntimeError) as error:  # a user's net that ONNX cannot express
                log.warning("%s: no model.onnx: %s", run.folder, one_line(error))
        cli.record.write(cli.trainer, cli.model, finished=True, test=metrics)
        text = "trained %s: test %s; run folder %s"
        log.info(text, run.folder.name, summary(metrics), run.folder)


def _ending(cli: TrainCLI) -> str:
    """Return which epoch is kept, and why the training stopped early."""
    trainer, kept = cli.trainer, cli.config.checkpoint.monitor
    n_epochs, stopping = trainer.current_epoch, trainer.early_stopping_callback
    best = read_checkpoint(cli.best)["epoch"] + 1
    by = f" by {kept}" if kept else ""
    if isinstance(stopping, EarlyStopping) and n_epochs < (trainer.max_epochs or 0):
        measure, better = stopping.monitor, {"min": "lower", "max": "higher"}[stopping.mode]
        waited = counted(stopping.wait_count, "epoch")
        limit = f"{measure} has %s early_stopping.%s_threshold"
        why = {
            EarlyStoppingReason.PATIENCE_EXHAUSTED: f"no {better} {measure} for {waited}",
            EarlyStoppingReason.NON_FINITE_METRIC: f"{measure} became NaN or infinite",
            EarlyStoppingReason.STOPPING_THRESHOLD: limit % ("reached", "stopping"),
            EarlyStoppingReason.DIVERGENCE_THRESHOLD: limit % ("passed", "divergence"),
        }.get(stopping.stopping_reason)
        if why and stopping.stopped_epoch + 1 == n_epochs:
            return f"stopped after epoch {n_epochs}: {why}; the best is epoch {best}{by}"
    return f"the best epoch is {best} of {n_epochs}{by}"


def validate(cli: TrainCLI) -> None:
    """Measure loss, accuracy and AUC of a checkpoint on the validation split."""
    log.info("%s: %s", cli.best, summary(_measured(cli, cli.trainer.validate)))


def test(cli: TrainCLI) -> None:
    """Measure loss, accuracy and AUC of a checkpoint on the test split; write its predictions."""
    metrics = _measured(cli, cli.trainer.test)
    log.info("%s: %s; predictions in %s", cli.best, summary(metrics), cli.writer.path)


def predict(cli: TrainCLI) -> None:
    """Write a checkpoint's predictions of a split, see --data.predict-split."""
    how: Any = {"ckpt_path": cli.best, "return_predictions": False, "weights_only": True}
    cli.trainer.predict(cli.model, cli.datamodule, **how)
    log.info("wrote predictions of %s to %s", cli.best, cli.writer.path)


def _measured(cli: TrainCLI, measure: Callable[..., Any]) -> Mapping[str, float]:
    how = {"ckpt_path": cli.best, "verbose": False, "weights_only": True}
    metrics: Mapping[str, float] = measure(cli.model, cli.datamodule, **how)[0]
    return metrics


COMMANDS = {"fit": fit, "validate": validate, "test": test, "predict": predict, "find-lr": find_lr}


def main(args: Sequence[str]) -> None:
    """Run a command with its options."""
    command, *options = args
    launcher = os.environ.get(LAUNCHER)
    if launcher and os.environ.get("LOCAL_RANK", "0") != "0":
        end_with(int(launcher))
    with prepared():
        COMMANDS[command](TrainCLI(command, options, COMMANDS[command].__doc__))


@contextmanager
def prepared() -> Iterator[None]:
    """Prepare this process for training: hide warnings nobody can act on, and speed up a CPU."""
    for noisy in ("pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for text in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", text)
    if rank_zero_only.rank:  # type: ignore[attr-defined]  # only the first process reports
        logging.getLogger("hepflow").setLevel(logging.WARNING)
    # Gradients fade into denormal numbers, which make a CPU many times slower.
    torch.set_flush_denormal(True)
    try:
        yield
    except (MisconfigurationException, RuntimeError) as error:
        of_a_user = "Early stopping conditioned on metric"
        if isinstance(error, RuntimeError) and not str(error).startswith(of_a_user):
            raise
        raise ConfigError(one_line(error)) from error
    finally:
        torch.set_flush_denormal(False)  # callers in Python expect IEEE arithmetic
