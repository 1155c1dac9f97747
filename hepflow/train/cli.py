"""``hepflow train fit|validate|test|predict|find-lr``: what each does with the trainer that its options made."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks.early_stopping import EarlyStopping, EarlyStoppingReason
from pytorch_lightning.utilities import rank_zero_only

from hepflow.config.tools import ExportConfig
from hepflow.data.runs import CHECKPOINTS, LAST
from hepflow.errors import ConfigError, DataError, one_line
from hepflow.models.export import read_checkpoint
from hepflow.models.export import run as export
from hepflow.system import locks
from hepflow.train import launch
from hepflow.train.find_lr import find_lr
from hepflow.train.parser import TrainCLI

log = logging.getLogger(__name__)

NOT_FOR_USERS = (
    ".*smaller than the logging interval.*",  # metrics.csv has a row an epoch in any case
    ".*`srun` command is available.*",  # trying things out on a login node is fine
    ".*sync_dist=True.*",  # what is logged is the same on every rank, or the first's alone
    ".*exists and is not empty.*",  # where a training goes on
    ".*AMP with fp16 is not supported on CPU.*",  # refused, see `TrainCLI`
    ".*dirpath has changed from.*",  # where a training begins with a checkpoint of another one
    ".*LeafSpec.*",  # between Lightning and torch
    ".*`broadcast_buffers` is deprecated.*",  # what torch would have instead is not in the oldest one that we allow
)

BETTER = {"min": "lower", "max": "higher"}


def fit(cli: TrainCLI) -> None:
    """Train a net on the store's training split, then predict its test split and export it to ONNX."""
    if cli.state == "done":
        log.info("%s is up to date: same configuration, same store", cli.folder)
        return
    with (
        locks.exclusive(cli.folder) if cli.trainer.is_global_zero else nullcontext()
    ):  # the first process speaks for all
        _fit(cli)


def _fit(cli: TrainCLI) -> None:
    last = cli.folder / CHECKPOINTS / LAST if cli.state == "resume" else cli.config.ckpt_path
    if last:
        log.info("going on from %s", last)
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last, weights_only=True)
    if cli.trainer.interrupted:
        raise KeyboardInterrupt
    log.info("%s", _ending(cli))
    (metrics,) = cli.trainer.test(
        cli.model, cli.datamodule, ckpt_path=cli.best, verbose=False, weights_only=True
    )
    if cli.trainer.is_global_zero:
        _export(cli)
    cli.record.write(cli.trainer, cli.model, finished=True, test=metrics)
    log.info("trained %s: test %s; run folder %s", cli.folder.name, _words(metrics), cli.folder)


def _ending(cli: TrainCLI) -> str:
    """Which epoch is kept, and why there are no more of them."""
    n_epochs, kept, stopping = (
        cli.trainer.current_epoch,
        cli.config.checkpoint.monitor,
        cli.trainer.early_stopping_callback,
    )
    best = read_checkpoint(cli.best)["epoch"] + 1
    by = f" by {kept}" if kept else ""
    usual = f"the best epoch is {best} of {n_epochs}{by}"
    if (
        not isinstance(stopping, EarlyStopping)
        or stopping.stopped_epoch + 1 != n_epochs
        or n_epochs == cli.trainer.max_epochs
    ):
        return usual
    n, measure = stopping.wait_count, stopping.monitor
    why = {
        EarlyStoppingReason.PATIENCE_EXHAUSTED: f"no {BETTER[stopping.mode]} {measure} for {n} epoch{'s' if n > 1 else ''}",
        EarlyStoppingReason.NON_FINITE_METRIC: f"{measure} is no number any more",
        EarlyStoppingReason.STOPPING_THRESHOLD: f"{measure} has reached early_stopping.stopping_threshold",
        EarlyStoppingReason.DIVERGENCE_THRESHOLD: f"{measure} is beyond early_stopping.divergence_threshold",
    }.get(stopping.stopping_reason)
    return (
        usual
        if why is None
        else f"stopped after epoch {n_epochs}: {why}; the best is epoch {best}{by}"
    )


def _export(cli: TrainCLI) -> None:
    """Write model.onnx; a net of somebody's own that ONNX has no words for goes without."""
    try:
        export(ExportConfig(run=cli.folder, input=Path(cli.config.data.store)))
    except (DataError, RuntimeError) as error:
        log.warning("%s: no model.onnx: %s", cli.folder, one_line(error))


def validate(cli: TrainCLI) -> None:
    """Loss, accuracy and AUC of a checkpoint on the validation split."""
    (metrics,) = cli.trainer.validate(
        cli.model, cli.datamodule, ckpt_path=cli.best, verbose=False, weights_only=True
    )
    log.info("%s: %s", cli.best, _words(metrics))


def test(cli: TrainCLI) -> None:
    """Loss, accuracy and AUC of a checkpoint on the test split; its predictions are written."""
    (metrics,) = cli.trainer.test(
        cli.model, cli.datamodule, ckpt_path=cli.best, verbose=False, weights_only=True
    )
    log.info("%s: %s; predictions in %s", cli.best, _words(metrics), cli.writer.path)


def predict(cli: TrainCLI) -> None:
    """Write a checkpoint's predictions on a split, see --data.predict-split."""
    cli.trainer.predict(
        cli.model, cli.datamodule, ckpt_path=cli.best, return_predictions=False, weights_only=True
    )
    log.info("wrote predictions of %s to %s", cli.best, cli.writer.path)


COMMANDS: dict[str, Callable[[TrainCLI], None]] = {
    "fit": fit,
    "validate": validate,
    "test": test,
    "predict": predict,
    "find-lr": find_lr,
}


def main(args: Sequence[str]) -> None:
    """Run a command with its options.

    Raises
    ------
    HepflowError
        A mistake of the user's.
    """
    command, *options = args
    launch.end_with_launcher()
    with prepared():
        run = COMMANDS[command]
        run(TrainCLI(command, options, run.__doc__))


@contextmanager
def prepared() -> Iterator[None]:
    """A process and a thread ready to train: only what a person can act on is said, and arithmetic is fast."""
    for noisy in ("pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for told in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", told)
    if rank_zero_only.rank:  # type: ignore[attr-defined]  # Lightning sets it; the first process speaks for all
        logging.getLogger("hepflow").setLevel(logging.WARNING)
    torch.set_flush_denormal(
        True
    )  # gradients fade into denormal numbers, with which a CPU is many times slower
    try:
        yield
    except MisconfigurationException as error:
        raise ConfigError(one_line(error)) from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise ConfigError(one_line(error)) from error
    finally:
        torch.set_flush_denormal(False)  # whoever called from Python counts on IEEE arithmetic


def _words(metrics: Any) -> str:
    return ", ".join(f"{name.split('_', 1)[1]} {value:.4f}" for name, value in metrics.items())
