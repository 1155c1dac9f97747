"""What a training shows and leaves behind: progress, speed, metrics.csv, last.ckpt and the predictions."""

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from hepflow.predictions import Predictions, write_predictions
from hepflow.terminal import MESSAGES
from hepflow.train.batches import Batch
from hepflow.train.loader import EventLoader
from hepflow.train.module import net_of

log = logging.getLogger(__name__)

REFRESH_S = 0.2
LAST = "last.ckpt"


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


class Throughput(Callback):
    """Logs ``events_per_s``, the same a process, and ``data_wait_s`` of each epoch's training part."""

    def __init__(self) -> None:
        self._start = self._busy = self._waited = 0.0
        self._events = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock: waiting for the first batch counts."""
        self.on_train_batch_start(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock where it does not run: after a validation, or within an epoch that was taken up."""
        if not self._start:
            self._start = time.perf_counter()
            self._waited = _loader(trainer).waited_s

    def on_train_batch_end(self, *hook: Any) -> None:
        """Count events."""
        self._events += batch_of(hook).n_global

    def on_validation_start(self, *_: Any) -> None:
        """Validation does not count."""
        self._pause()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch's speed."""
        self._pause()
        if self._busy:
            rate = self._events / self._busy
            wait = _loader(trainer).waited_s - self._waited
            values = {"events_per_s": rate, "events_per_s_a_process": rate / trainer.world_size, "data_wait_s": wait}
            pl_module.log_dict(values, rank_zero_only=True)
        self._busy, self._events = 0.0, 0

    def _pause(self) -> None:
        if self._start:
            self._busy += time.perf_counter() - self._start
            self._start = 0.0


def batch_of(hook: Sequence[Any]) -> Batch:
    """The batch among the arguments of a batch hook: trainer, module, outputs, batch, index."""
    batch = hook[3]
    assert isinstance(batch, Batch)
    return batch


def _loader(trainer: pl.Trainer) -> EventLoader:
    loader = trainer.train_dataloader
    assert isinstance(loader, EventLoader)
    return loader


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt after every epoch, and every so many steps within one.

    Parameters
    ----------
    folder : Path
        Where to.
    every_steps : int
        Steps between two of them; 0: only after epochs.
    """

    def __init__(self, folder: Path, every_steps: int) -> None:
        self.folder = folder
        self.every_steps = every_steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save within the epoch."""
        if self.every_steps and trainer.global_step % self.every_steps == 0:
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save after the epoch."""
        trainer.save_checkpoint(self.folder / LAST)


class EpochTable(Logger):
    """metrics.csv: one row an epoch, with everything that was logged in it.

    Parameters
    ----------
    path : Path
        Of the file.
    go_on : bool
        Keep the rows that are there.
    """

    def __init__(self, path: Path, *, go_on: bool) -> None:
        super().__init__()
        self.path = path
        rows = read_table(path) if go_on else []
        self.rows: dict[int, dict[str, float]] = {int(row["epoch"]): row for row in rows}

    @property
    def name(self) -> str:
        """Of the logger."""
        return "table"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Put numbers into the row of their epoch."""
        if "val_loss" in metrics or "train_loss" in metrics:
            epoch = int(metrics["epoch"])
            self.rows[epoch] = {**self.rows.get(epoch, {}), **metrics, "epoch": epoch, "step": step or 0}

    @rank_zero_only
    def drop_from(self, epoch: int) -> None:
        """Forget the epochs from this one on: they will be trained again."""
        self.rows = {key: row for key, row in self.rows.items() if key < epoch}

    @rank_zero_only
    def save(self) -> None:
        """Write the table whole."""
        if not self.rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = ["epoch", "step", *sorted({name for row in self.rows.values() for name in row} - {"epoch", "step"})]
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows[epoch] for epoch in sorted(self.rows))
        part.replace(self.path)


def read_table(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


class PredictionsWriter(Callback):
    """Collects the logits of test and predict from all ranks and writes one file, each event once.

    Parameters
    ----------
    folder : Path
        Of the run; the file is ``predictions.parquet`` for the test split, ``predictions-{split}.parquet`` for others.
    provenance : mapping
        What the file says of its origin, beside store and split.
    predict_split : str
        What predict runs on.
    """

    def __init__(self, folder: Path, provenance: dict[str, Any], predict_split: str) -> None:
        self.folder = folder
        self.predict_split = predict_split
        self.provenance = provenance
        self.path: Path | None = None
        """What was written."""
        self._seen: list[dict[str, Tensor]] = []

    def on_test_batch_end(self, *hook: Any) -> None:
        """Keep a batch's logits."""
        _, _, outputs, *_ = hook
        self._seen.append({name: value.cpu() for name, value in outputs.items()})

    def on_predict_batch_end(self, *hook: Any) -> None:
        """Keep a batch's logits."""
        self.on_test_batch_end(*hook)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them."""
        self._write(trainer, pl_module, "test")

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them."""
        self._write(trainer, pl_module, self.predict_split)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str) -> None:
        own = {name: torch.cat([batch[name] for batch in self._seen]).numpy() for name in self._seen[0]}
        self._seen = []
        everyone: list[Any] = [own]
        if dist.is_available() and dist.is_initialized():
            everyone = [None] * trainer.world_size
            dist.all_gather_object(everyone, own)
        self.path = self.folder / ("predictions.parquet" if split == "test" else f"predictions-{split}.parquet")
        if not trainer.is_global_zero:
            return
        columns = {name: np.concatenate([rank[name] for rank in everyone]) for name in own}
        inputs = net_of(pl_module).inputs
        about = {**self.provenance, "store": inputs.provenance, "definitions": inputs.definitions, "split": split}
        columns["label"] = columns["label"].astype(np.int8)
        write_predictions(self.path, Predictions(**columns, classes=inputs.classes, model=self.folder.name, provenance=about))
