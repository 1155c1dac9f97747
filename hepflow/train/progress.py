"""The progress of a training on the terminal: a bar, or one line per epoch."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hepflow.system.terminal import MESSAGES
from hepflow.train.module import steps

log = logging.getLogger(__name__)

REFRESH_S = 0.2
BAR_WIDTH = 8  # leaves room for the numbers in 80 columns
NUMBERS = {
    "val_loss": "val_loss {:.4f}",
    "val_accuracy": "acc {:.4f}",
    "events_per_s": "{:,.0f} events/s",
}


class _Shown(ProgressBar):
    """Progress that only the first process shows."""

    def __init__(self) -> None:
        super().__init__()
        self._shown, self._enabled = time.perf_counter(), True

    def disable(self) -> None:
        """Show nothing: Lightning calls it in all processes but the first."""
        self._enabled = False


class FitProgress(_Shown):
    """One rich bar for the whole training, with the speed and the newest losses."""

    _bar: Progress | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        super().on_train_start(trainer, pl_module)
        if self._enabled:
            shown = ("{task.description}", "{task.fields[note]}")
            text, note = (TextColumn(one, markup=False) for one in shown)
            columns = (text, BarColumn(BAR_WIDTH), TimeRemainingColumn(), note)
            self._bar = Progress(*columns, console=MESSAGES)
            self._bar.add_task(_place(trainer), total=None, note="")
            self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move the bar, a few times per second."""
        now = time.perf_counter()
        if now - self._shown > REFRESH_S:
            self._shown = now
            self._move(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the newest numbers."""
        self._move(trainer, note=newest(trainer))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Leave the bar as it is."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    on_exception = on_train_end

    def _move(self, trainer: pl.Trainer, **more: Any) -> None:
        if self._bar:
            (bar,) = self._bar.task_ids
            state = {"completed": trainer.global_step, "description": _place(trainer), **more}
            self._bar.update(bar, total=steps(trainer, trainer.num_training_batches), **state)


class EpochLines(_Shown):
    """One line per epoch, and one per minute: for a terminal shared by several processes."""

    EVERY_S = 60.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Print the position within a long epoch."""
        if time.perf_counter() - self._shown > self.EVERY_S:
            loss = trainer.callback_metrics.get("val_loss")
            before = "" if loss is None else f", val_loss {loss:.4f} before"
            batch, n = trainer.fit_loop.epoch_loop.batch_idx + 1, trainer.num_training_batches
            self._print(f"epoch {trainer.current_epoch + 1}, batch {batch:,} of {n:,}{before}")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Print the numbers of the epoch."""
        self._print(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}  {newest(trainer)}")

    def _print(self, text: str) -> None:
        if self._enabled:
            log.info("%s", text)
            self._shown = time.perf_counter()


def newest(trainer: pl.Trainer) -> str:
    """Return loss, accuracy and speed of the last epoch, short enough to go next to a bar."""
    known = trainer.callback_metrics
    return "  ".join(text.format(float(known[n])) for n, text in NUMBERS.items() if n in known)


def _place(trainer: pl.Trainer) -> str:
    epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
    return "steps" if trainer.max_steps >= 0 else epoch
