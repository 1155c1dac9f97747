"""Callbacks that write the checkpoints and predictions of a training, and log its speed."""

import io
import time
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.runs import BEST, LAST, PREDICTIONS
from hepflow.models.net import Net, weights_hash
from hepflow.system import seal
from hepflow.system.places import place
from hepflow.system.publishing import put
from hepflow.system.storage import make_folder, read_bytes


class Throughput(Callback):
    """Logs ``events_per_s``, in all and per process, and ``data_wait_s`` of each training epoch."""

    def __init__(self) -> None:
        self._start = self._busy = self._waited = 0.0
        self._events = 0

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        """Start the clock if it is stopped: after a validation, or in a resumed epoch."""
        if not self._start:
            self._start = time.perf_counter()

    on_train_epoch_start = on_train_batch_start  # waiting for the first batch counts

    def on_train_batch_end(self, *hook: Any) -> None:
        """Count events."""
        self._events += hook[3].n_global  # of trainer, module, outputs, batch, index

    def on_validation_start(self, *_: Any) -> None:
        """Stop the clock: validation does not count."""
        if self._start:
            self._busy += time.perf_counter() - self._start
            self._start = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch's speed."""
        self.on_validation_start()
        waited = trainer.train_dataloader.waited_s  # type: ignore[union-attr]  # an EventLoader
        if self._busy:
            rate, waits = self._events / self._busy, waited - self._waited
            values = {"events_per_s": rate, "events_per_s_a_process": rate / trainer.world_size}
            pl_module.log_dict({**values, "data_wait_s": waits}, rank_zero_only=True)
        self._busy, self._events, self._waited = 0.0, 0, waited


def can_resume_after(trainer: pl.Trainer, batch_index: int) -> bool:
    """Return whether a checkpoint after this batch can be resumed.

    Not while gradients accumulate, since a checkpoint lacks them; nor after the last batch of an
    epoch, since Lightning would then end the epoch without validation.
    """
    n_done = batch_index + 1
    return n_done % trainer.accumulate_grad_batches == 0 and n_done < trainer.num_training_batches


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all.

    Lightning's own come from the temporary folder: by a copy, if that is on another disk.
    """

    def save_checkpoint(self, checkpoint: Any, path: str | Path, *_: Any, **__: Any) -> None:
        """Write a checkpoint."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        make_folder(place(path).parent)
        put(place(path), seal.sealed_zip(content.getvalue()))  # torch checks none of zip's own

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        how: Any = {"map_location": map_location or "cpu", "weights_only": weights_only}
        written = read_bytes(there := place(path))
        seal.check(written, there, "Remove it to start again, or give another one.")
        content: dict[str, Any] = torch.load(io.BytesIO(written), **how)
        return content


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt after every epoch, and every so many steps within one (0: none)."""

    def __init__(self, folder: Path, every_steps: int) -> None:
        self.folder, self.every_steps = folder, every_steps

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Train no further epoch if the training had stopped early when it was saved."""
        stopping = trainer.early_stopping_callback
        if trainer.ckpt_path == self.folder / LAST and isinstance(stopping, EarlyStopping):
            trainer.should_stop |= stopping.wait_count >= max(1, stopping.patience)

    def on_train_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Save within the epoch."""
        due = self.every_steps and trainer.global_step % self.every_steps == 0
        if due and can_resume_after(trainer, hook[-1]):
            trainer.save_checkpoint(self.folder / LAST)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save after the epoch."""
        trainer.save_checkpoint(self.folder / LAST)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best epoch, also after the run folder was moved or copied.

    Lightning drops the best score if the folder of a resumed run has another path than before, and
    could then keep a worse epoch.
    """

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint: Lightning's, so that older checkpoints resume."""
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with the paths of the present folder if it holds the best epoch."""
        folder = place(str(self.dirpath or ""))
        if not (folder / BEST).is_file():  # begins from the checkpoint of another run
            super().load_state_dict(state_dict)
            return

        def here(path: str) -> str:
            return str(folder / PurePosixPath(path).name) if path else ""

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        state = {**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath}
        super().load_state_dict(state)


class PredictionsWriter(Callback):
    """Collects the logits of test and predict from all processes, and writes each event once."""

    def __init__(self, folder: Path, provenance: dict[str, Any], predict_split: str) -> None:
        self.folder, self.provenance, self.predict_split = folder, provenance, predict_split
        self.path: Path | None = None  # file that was written
        self._seen: list[dict[str, Tensor]] = []

    def on_test_batch_end(self, *hook: Any, **_: Any) -> None:
        """Keep a batch's logits."""
        self._seen.append({name: value.cpu() for name, value in hook[2].items()})

    on_predict_batch_end = on_test_batch_end

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write them."""
        split = "test" if trainer.testing else self.predict_split
        names = self._seen[0]
        own = {name: torch.cat([batch[name] for batch in self._seen]).numpy() for name in names}
        self._seen = []
        everyone: list[Any] = [own]
        if dist.is_available() and dist.is_initialized():
            everyone = [None] * trainer.world_size
            dist.all_gather_object(everyone, own)
        file = PREDICTIONS if split == "test" else f"predictions-{split}.parquet"
        self.path = self.folder / file
        if not trainer.is_global_zero:
            return
        columns: Any = {name: np.concatenate([rank[name] for rank in everyone]) for name in own}
        net: Net = pl_module.net
        inputs, about = net.inputs, {**self.provenance, "weights": weights_hash(net)}
        about |= {"store": inputs.provenance, "definitions": inputs.definitions, "split": split}
        make_folder(self.folder)  # of `predict` with another --output
        columns |= {"classes": inputs.classes, "model": self.folder.name, "provenance": about}
        write_predictions(self.path, Predictions(**columns))

    on_predict_epoch_end = on_test_epoch_end
