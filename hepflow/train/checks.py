"""Refusals of a training that would end without a best epoch, with a wrong one, or not start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from hepflow.config.messages import nearest
from hepflow.config.options import spelt
from hepflow.config.train import of_an_epoch
from hepflow.data.runs import BEST, LAST
from hepflow.errors import ConfigError
from hepflow.train.folder import RunPlan

ONE_BEST = {"save_top_k": 1, "filename": Path(BEST).stem}  # for the checkpoint callback


def check_fit(config: Namespace) -> None:
    """Refuse options of ``hepflow train fit`` that leave no best epoch."""
    trainer, checkpoint = config.trainer, config.checkpoint
    epochs, patience = trainer.max_epochs, config.early_stopping.patience
    precision = trainer.precision
    why = "the learning rate follows the length of the training; early_stopping.patience ends it"
    _refuse((epochs or 0) < 1, f"trainer.max_epochs must be at least 1, got {epochs}: {why}")
    _refuse(patience < 0, f"early_stopping.patience must be at least 0, got {patience}")
    for name in ("max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches"):
        _refuse(trainer[name] == 0, f"trainer.{name} is 0, but must be at least 1 if it is given")
    why = "rounds the features too, to three digits. Use bf16-mixed, which rounds only arithmetic."
    _refuse(precision in {"16-true", "bf16-true"}, f"trainer.precision {precision} {why}")
    why = f"a run keeps {BEST} and {LAST}. Use a ModelCheckpoint in trainer.callbacks to keep more."
    for name, value in ONE_BEST.items():
        got = checkpoint[name]
        _refuse(got != value, f"checkpoint.{name} must be {value}, got {got}: {why}")
    why = "Use --trainer.max-epochs 1 --trainer.limit-train-batches 5 instead."
    _refuse(bool(trainer.fast_dev_run), f"trainer.fast_dev_run keeps no epoch. {why}")
    why = f"is more than trainer.max_epochs {epochs}: no epoch would be the best"
    for name in ("checkpoint.every_n_epochs", "trainer.check_val_every_n_epoch"):
        _refuse((config[name] or 0) > epochs, f"{name} {config[name]} {why}")


def check_monitors(config: Namespace, classes: tuple[str, ...]) -> None:
    """Refuse a measure that is not logged, or that would keep the worst epoch."""
    known = of_an_epoch(classes)
    for callback in ("early_stopping", "checkpoint"):
        name, mode = config[callback].monitor, config[callback].mode
        wrong = name in known and mode == "min" and not name.endswith("_loss")
        why = f"this would keep the worst epoch. Give {spelt(f'{callback}.mode')} max."
        _refuse(wrong, f"{callback}.monitor {name}: {why}")
        if name is not None and not config.trainer.callbacks:  # which may log more
            why = f"no such measure.{nearest(name, known)} There are: {', '.join(known)}."
            _refuse(name not in known, f"{callback}.monitor {name}: {why}")


def check_start(path: Path, checkpoint: Mapping[str, Any], run: RunPlan, max_epochs: int) -> None:
    """Refuse a checkpoint that a new training cannot start from."""
    why = "which a training of this configuration would replace. Give another --output."
    inside = str(path.resolve()).startswith(f"{run.folder.resolve()}/")
    _refuse(inside, f"--ckpt-path {path} is in {run.folder}, {why}")
    why = "holds only the weights, and a training needs the optimizer too. Give its last.ckpt."
    _refuse("loops" not in checkpoint, f"{path}: {why}")  # checkpoint.save_weights_only
    n_done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    why = f"has {n_done} epochs already. trainer.max_epochs must be more, got {max_epochs}."
    _refuse(n_done >= max_epochs, f"{path}: {why}")


def _refuse(applies: bool, message: str) -> None:
    if applies:
        raise ConfigError(message)
