"""What a training leaves behind: its speed, last.ckpt and the predictions."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.runs import LAST, PREDICTIONS
from hepflow.models.net import weights_hash
from hepflow.system.files import whole
from hepflow.train.loading.batches import Batch
from hepflow.train.loading.loader import EventLoader
from hepflow.train.module import net_of


class Throughput(Callback):
    """Logs ``events_per_s``, the same a process, and ``data_wait_s`` of each epoch's training part."""

    def __init__(self) -> None:
        self._start = self._busy = self._waited = 0.0
        self._events = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the clock: waiting for the first batch counts."""
        self.on_train_batch_start()

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock where it does not run: after a validation, or within an epoch that was taken up."""
        if not self._start:
            self._start = time.perf_counter()

    def on_train_batch_end(self, *hook: Any) -> None:
        """Count events."""
        self._events += batch_of(hook).n_global

    def on_validation_start(self, *_: Any) -> None:
        """Validation does not count."""
        self._pause()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch's speed."""
        self._pause()
        waited = _loader(trainer).waited_s
        if self._busy:
            rate = self._events / self._busy
            wait = waited - self._waited
            values = {
                "events_per_s": rate,
                "events_per_s_a_process": rate / trainer.world_size,
                "data_wait_s": wait,
            }
            pl_module.log_dict(values, rank_zero_only=True)
        self._busy, self._events, self._waited = 0.0, 0, waited

    def _pause(self) -> None:
        if self._start:
            self._busy += time.perf_counter() - self._start
            self._start = 0.0


def batch_of(hook: Sequence[Any]) -> Batch:
    """The batch among the arguments of a batch hook: trainer, module, outputs, batch, index."""
    batch = hook[3]
    assert isinstance(batch, Batch)
    return batch


def can_go_on_after(trainer: pl.Trainer, batch_index: int) -> bool:
    """Whether a checkpoint after this batch can be taken up.

    Not while gradients accumulate, which it lacks; nor after the last batch of an epoch, which Lightning would then end without validation.
    """
    n_done = batch_index + 1
    return n_done % trainer.accumulate_grad_batches == 0 and n_done < trainer.num_training_batches


def _loader(trainer: pl.Trainer) -> EventLoader:
    loader = trainer.train_dataloader
    assert isinstance(loader, EventLoader)
    return loader


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place. Lightning's own comes from the temporary folder, by a copy if that is on another disk."""

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ARG002 - part of the interface
    ) -> None:
        """Write it whole."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole(Path(path)) as part:
            part.write_bytes(content.getbuffer())


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

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """A training that had stopped early when it was saved has no further epoch."""
        stopping = trainer.early_stopping_callback
        if trainer.ckpt_path == self.folder / LAST and isinstance(stopping, EarlyStopping):
            trainer.should_stop |= stopping.wait_count >= max(1, stopping.patience)

    def on_train_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Save within the epoch."""
        if (
            self.every_steps
            and trainer.global_step % self.every_steps == 0
            and can_go_on_after(trainer, hook[-1])
        ):
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save after the epoch."""
        trainer.save_checkpoint(self.folder / LAST)


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
        own = {
            name: torch.cat([batch[name] for batch in self._seen]).numpy() for name in self._seen[0]
        }
        self._seen = []
        everyone: list[Any] = [own]
        if dist.is_available() and dist.is_initialized():
            everyone = [None] * trainer.world_size
            dist.all_gather_object(everyone, own)
        self.path = self.folder / (
            PREDICTIONS if split == "test" else f"predictions-{split}.parquet"
        )
        if not trainer.is_global_zero:
            return
        columns = {name: np.concatenate([rank[name] for rank in everyone]) for name in own}
        net = net_of(pl_module)
        inputs = net.inputs
        made_from = {
            "weights": weights_hash(net),
            "store": inputs.provenance,
            "definitions": inputs.definitions,
        }
        about = {**self.provenance, **made_from, "split": split}
        columns["label"] = columns["label"].astype(np.int8)
        write_predictions(
            self.path,
            Predictions(
                **columns, classes=inputs.classes, model=self.folder.name, provenance=about
            ),
        )
