"""What a training is told of its length and of what it keeps: refused where no best epoch would come of it."""

from pathlib import Path

from jsonargparse import Namespace

from hepflow.data.runs import BEST, LAST
from hepflow.errors import ConfigError

ROUNDING = {"16-true", "bf16-true"}
"""Precisions at which the features and their normalisation lose most of their digits."""
ONE_BEST = {"save_top_k": 1, "filename": Path(BEST).stem}
"""Options of the checkpoint callback that a run folder rests on."""


def check_fit(config: Namespace) -> None:
    """Refuse a training that would end without a best epoch, or with a wrong one.

    Parameters
    ----------
    config : Namespace
        The options of ``hepflow train fit``.

    Raises
    ------
    ConfigError
        It says which option, and why.
    """
    _check_length(config)
    _check_kept(config)


def _check_length(config: Namespace) -> None:
    trainer = config.trainer
    if (trainer.max_epochs or 0) < 1:
        why = "the learning rate follows the length of the training, and early_stopping.patience ends a long one"
        raise ConfigError(f"trainer.max_epochs must be at least 1, got {trainer.max_epochs}: {why}")
    if (patience := config.early_stopping.patience) < 0:
        raise ConfigError(f"early_stopping.patience must be at least 0, got {patience}")
    for name in ("max_steps", "limit_train_batches", "limit_val_batches", "limit_test_batches"):
        if trainer[name] == 0:
            raise ConfigError(
                f"trainer.{name} is 0: a training needs at least 1, and to leave the option out means all"
            )
    if trainer.precision in ROUNDING:
        raise ConfigError(
            f"trainer.precision {trainer.precision} rounds the features too, to three digits; bf16-mixed rounds the arithmetic alone"
        )


def _check_kept(config: Namespace) -> None:
    trainer, checkpoint = config.trainer, config.checkpoint
    for name, value in ONE_BEST.items():
        if checkpoint[name] != value:
            kept = f"a run keeps its best epoch as {BEST} and its last as {LAST}; a ModelCheckpoint in trainer.callbacks keeps more"
            raise ConfigError(f"checkpoint.{name} must be {value}, got {checkpoint[name]}: {kept}")
    if trainer.fast_dev_run:
        raise ConfigError(
            "trainer.fast_dev_run keeps no epoch: to try a training out, give --trainer.max-epochs 1 --trainer.limit-train-batches 5"
        )
    for name, every in (
        ("checkpoint.every_n_epochs", checkpoint.every_n_epochs),
        ("trainer.check_val_every_n_epoch", trainer.check_val_every_n_epoch),
    ):
        if every and every > trainer.max_epochs:
            raise ConfigError(
                f"{name} {every} is more than trainer.max_epochs {trainer.max_epochs}: no epoch would be the best"
            )
