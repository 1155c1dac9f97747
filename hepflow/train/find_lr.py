"""``hepflow train find-lr``: the learning rate at which the loss falls fastest.

Lightning's `Tuner.lr_find` does the same sweep. It would draw a bar of its own and write a
checkpoint next to the run's, and it takes the slope along the rate instead of its logarithm.
"""

import logging
from typing import Any

import numpy as np
import pytorch_lightning as pl

from hepflow.errors import DataError
from hepflow.system.publishing import whole
from hepflow.system.storage import make_folder
from hepflow.train.parser import TrainCLI

log = logging.getLogger(__name__)

LR_FILE = "lr_find.csv"
LOWEST, HIGHEST, STEPS = 1e-5, 1.0, 100
MEMORY = 0.98  # weight of the previous running mean of the loss
SETTLING = 10  # steps before the running mean is meaningful
DIVERGED = 4.0  # times the lowest loss, at which the sweep ends


class Sweep(pl.Callback):
    """Raises the learning rate with every step, and keeps the running mean of the loss."""

    def __init__(self) -> None:
        self.rates, self._sum = np.geomspace(LOWEST, HIGHEST, STEPS), 0.0
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Set the rate, in place of the schedule's."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = float(self.rates[len(self.losses)])

    def on_train_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Record the loss, and stop once it has diverged."""
        self._sum = MEMORY * self._sum + (1 - MEMORY) * float(hook[1]["loss"])
        self.losses.append(self._sum / (1 - MEMORY ** (len(self.losses) + 1)))
        trainer.should_stop = not self.losses[-1] < DIVERGED * min(self.losses)


def find_lr(cli: TrainCLI) -> None:
    """Try learning rates on a copy of the net, and report where the loss falls fastest."""
    config, sweep = cli.config.trainer, Sweep()
    shown = config.enable_progress_bar is not False
    as_trained = {name: config[name] for name in ("accelerator", "precision", "gradient_clip_val")}
    how: dict[str, Any] = {"max_epochs": STEPS, "max_steps": STEPS, "limit_val_batches": 0}
    how |= {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    called = [sweep, *([cli.progress()] if shown else [])]
    how |= {"devices": 1, "callbacks": called, "enable_progress_bar": shown}
    trainer = pl.Trainer(**how, **as_trained)
    trainer.fit(cli.model, cli.datamodule)
    if trainer.interrupted:
        raise KeyboardInterrupt
    path = cli.run.folder / LR_FILE
    make_folder(path.parent)
    rows = np.column_stack([sweep.rates[: len(sweep.losses)], sweep.losses])
    with whole(path) as part:
        np.savetxt(part, rows, fmt="%.6g", delimiter=",", header="lr,loss", comments="")
    losses = sweep.losses[SETTLING:-1]
    slopes = np.gradient(losses) if len(losses) > 1 else np.zeros(1)  # by the rate's logarithm
    if slopes.min() >= 0:
        raise DataError(f"{path}: the loss never fell. Check the data, or --data.batch-size.")
    text = "the loss falls fastest near --model.lr %.2g; losses by learning rate in %s"
    log.info(text, sweep.rates[SETTLING + slopes.argmin()], path)
