"""What a training shows while it runs: a bar, or a line an epoch."""

import logging
import math
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hepflow.system.terminal import MESSAGES

log = logging.getLogger(__name__)

REFRESH_S = 0.2
BAR_WIDTH = 8
"""With which all fits into 80 columns."""


class FitProgress(ProgressBar):
    """One rich bar for the whole training, with the speed and the newest losses."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._drawn = 0.0
        self._enabled = True

    def disable(self) -> None:
        """Lightning's way to keep all ranks but the first silent."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        super().on_train_start(trainer, pl_module)
        if not self._enabled:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(BAR_WIDTH),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = Progress(*columns, console=MESSAGES)
        self._bar.add_task(self._epoch(trainer), total=None, note="")
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move it, a few times a second at most."""
        now = time.perf_counter()
        if now - self._drawn > REFRESH_S:
            self._drawn = now
            self._move(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the newest numbers."""
        self._move(trainer, note=newest(trainer))

    def on_train_end(self, *_: Any) -> None:
        """Leave the last state of the bar."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Give the terminal back."""
        self._close()

    def _move(self, trainer: pl.Trainer, **more: Any) -> None:
        if self._bar:
            (bar,) = self._bar.task_ids
            self._bar.update(
                bar,
                description=self._epoch(trainer),
                completed=trainer.global_step,
                total=_steps(trainer),
                **more,
            )

    @staticmethod
    def _epoch(trainer: pl.Trainer) -> str:
        return (
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            if trainer.max_steps < 0
            else "steps"
        )

    def _close(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


class EpochLines(ProgressBar):
    """A line an epoch, and one a minute within long ones: for a terminal that several processes write to."""

    EVERY_S = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._said = time.perf_counter()
        self._enabled = True

    def disable(self) -> None:
        """Lightning's way to keep all ranks but the first silent."""
        self._enabled = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Say how far it is."""
        if time.perf_counter() - self._said > self.EVERY_S:
            loss = trainer.callback_metrics.get("val_loss")
            known = "" if loss is None else f", val_loss {loss:.4f} before"
            batch = trainer.fit_loop.epoch_loop.batch_idx + 1
            self._say(
                f"epoch {trainer.current_epoch + 1}, batch {batch:,} of {trainer.num_training_batches:,}{known}"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Say what came of it."""
        self._say(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}  {newest(trainer)}")

    def _say(self, text: str) -> None:
        if self._enabled:
            log.info("%s", text)
            self._said = time.perf_counter()


def newest(trainer: pl.Trainer) -> str:
    """What the last epoch came to, in words that fit beside a bar."""
    formats = {
        "val_loss": "val_loss {:.4f}",
        "val_accuracy": "acc {:.4f}",
        "events_per_s": "{:,.0f} events/s",
    }
    values = {name: trainer.callback_metrics.get(name) for name in formats}
    return "  ".join(
        formats[name].format(float(value)) for name, value in values.items() if value is not None
    )


def _steps(trainer: pl.Trainer) -> int:
    """Of the whole training."""
    n_steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches) * (
        trainer.max_epochs or 1
    )
    return n_steps if trainer.max_steps < 0 else min(n_steps, trainer.max_steps)
