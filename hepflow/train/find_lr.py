"""``hepflow train find-lr``: learning rates from tiny to huge on a copy of the net, and the one at which the loss falls fastest."""

import logging
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from hepflow.errors import DataError
from hepflow.system.files import whole
from hepflow.train.parser import TrainCLI

log = logging.getLogger(__name__)

LR_FILE = "lr_find.csv"
LOWEST, HIGHEST, STEPS = 1e-5, 1.0, 100
MEMORY = 0.98
"""Share that the running mean of the loss keeps at a step."""
SETTLING = 10
"""Steps until the running mean means something."""
DIVERGED = 4.0
"""Times the lowest loss, at which there is nothing more to see."""


class Sweep(Callback):
    """Raises the learning rate with every step, and keeps the running mean of the loss."""

    def __init__(self) -> None:
        self.rates = np.geomspace(LOWEST, HIGHEST, STEPS)
        self.losses: list[float] = []
        self._sum = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Set the rate, whatever the schedule says."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = float(self.rates[len(self.losses)])

    def on_train_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Note the loss, and end where it has run away."""
        _, outputs, *_ = hook
        self._sum = MEMORY * self._sum + (1 - MEMORY) * float(outputs["loss"])
        self.losses.append(self._sum / (1 - MEMORY ** (len(self.losses) + 1)))
        trainer.should_stop = not self.losses[-1] < DIVERGED * min(self.losses)

    def suggestion(self) -> float | None:
        """Rate at which the loss falls fastest, on a logarithmic axis; None where it never falls."""
        losses = self.losses[SETTLING:-1]
        if len(losses) < 2:
            return None
        slopes = np.gradient(losses)
        return float(self.rates[SETTLING + slopes.argmin()]) if slopes.min() < 0 else None


def find_lr(cli: TrainCLI) -> None:
    """Try learning rates from tiny to huge on a copy of the net, and name the one where the loss falls fastest."""
    sweep = Sweep()
    ours: dict[str, Any] = {
        name: cli.config.trainer[name] for name in ("accelerator", "precision", "gradient_clip_val")
    }
    length: dict[str, Any] = {"max_epochs": STEPS, "max_steps": STEPS, "limit_val_batches": 0}
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    shown = cli.config.trainer.enable_progress_bar is not False
    bar: dict[str, Any] = {
        "callbacks": [sweep, *([cli.progress()] if shown else [])],
        "enable_progress_bar": shown,
    }
    trainer = pl.Trainer(devices=1, **ours, **length, **quiet, **bar)
    trainer.fit(cli.model, cli.datamodule)
    if trainer.interrupted:
        raise KeyboardInterrupt
    path = cli.folder / LR_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_text(
            "".join(
                [
                    "lr,loss\n",
                    *(
                        f"{lr:.6g},{loss:.6g}\n"
                        for lr, loss in zip(sweep.rates, sweep.losses, strict=False)
                    ),
                ]
            )
        )
    suggestion = sweep.suggestion()
    if suggestion is None:
        raise DataError(
            f"the loss never fell, see {path}: look at the data, or at --data.batch-size"
        )
    log.info(
        "the loss falls fastest near --model.lr %.2g; losses by learning rate in %s",
        suggestion,
        path,
    )
