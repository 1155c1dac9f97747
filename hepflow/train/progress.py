"""What a training shows while it runs: a bar, or a line an epoch."""

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hepflow.terminal import MESSAGES
from hepflow.train.module import net_of

log = logging.getLogger(__name__)

REFRESH_S = 0.2


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
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=MESSAGES)
        self._bar.add_task(type(net_of(pl_module)).__name__, total=None, note="")
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Move it, a few times a second at most."""
        now = time.perf_counter()
        if self._bar and now - self._drawn > REFRESH_S:
            self._drawn = now
            total = None if trainer.max_epochs in (None, -1) else trainer.num_training_batches * trainer.max_epochs
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, total=total)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Show the newest numbers."""
        if self._bar:
            shown = {name: trainer.callback_metrics.get(name) for name in ("val_loss", "val_accuracy", "events_per_s")}
            text = "  ".join(f"{name} {value:,.4g}" for name, value in shown.items() if value is not None)
            self._bar.update(self._bar.task_ids[0], note=f"epoch {trainer.current_epoch + 1}  {text}")

    def on_train_end(self, *_: Any) -> None:
        """Leave the last state of the bar."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Give the terminal back."""
        self._close()

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
            self._say(f"epoch {trainer.current_epoch + 1}, batch {batch:,} of {trainer.num_training_batches:,}{known}")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Say what came of it."""
        shown = {name: trainer.callback_metrics.get(name) for name in ("val_loss", "val_accuracy", "events_per_s")}
        text = "  ".join(f"{name} {value:,.4g}" for name, value in shown.items() if value is not None)
        self._say(f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}  {text}")

    def _say(self, text: str) -> None:
        if self._enabled:
            log.info("%s", text)
            self._said = time.perf_counter()
