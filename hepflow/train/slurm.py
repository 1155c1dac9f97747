"""Before Slurm's time limit: a checkpoint, then back into the queue. The next start of the same command goes on from it.

Lightning's own handler saves inside the signal handler, where one rank may be in the backward pass and another in a barrier: they
wait for each other for ever. Here a signal only leaves a mark; the ranks agree on it between two batches, and save there. Within a
validation or a test nothing is saved: they begin anew, after the training since last.ckpt.
"""

import logging
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Callback

from hepflow.data.runs import LAST
from hepflow.train.callbacks import can_go_on_after

log = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR1
UNTIL_KILLED_S = 120


def in_a_job() -> bool:
    """Whether this process belongs to a Slurm job that can be requeued."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("scontrol") is not None


def environment() -> list[SLURMEnvironment]:
    """Lightning's plugin with its own signal handler switched off, where Slurm and nobody in between started this process."""
    return (
        [SLURMEnvironment(auto_requeue=False)]
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
        else []
    )


class SlurmRequeue(Callback):
    """Saves last.ckpt and requeues the job once a rank has got SIGUSR1, or the job's end is near.

    Parameters
    ----------
    folder : Path
        Of the checkpoints.
    every : int
        Batches between two times that the ranks ask each other.
    margin_s : float
        Seconds before the end of the job that count as near, for a signal that came before anyone listened.
    """

    def __init__(self, folder: Path, every: int = 10, margin_s: float = 60.0) -> None:
        self.folder = folder
        self.every = every
        self.margin_s = margin_s
        self._asked = False

    def setup(self, *_: Any, **__: Any) -> None:
        """Listen. A job script may have the signal ignored until now, so that it kills nobody."""
        signal.signal(SIGNAL, self._mark)

    def on_train_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Ask, save, requeue."""
        if (
            trainer.global_step % self.every == 0
            and can_go_on_after(trainer, hook[-1])
            and self._anyone_asked(trainer)
        ):
            trainer.save_checkpoint(self.folder / LAST)
            self._requeue(trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Ask, requeue."""
        batch_index = hook[3]
        if batch_index % self.every == 0 and self._anyone_asked(trainer):
            self._requeue(trainer)

    def on_test_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Ask, requeue."""
        self.on_validation_batch_end(trainer, *hook)

    def _mark(self, *_: Any) -> None:
        self._asked = True

    def _anyone_asked(self, trainer: pl.Trainer) -> bool:
        end = float(os.environ.get("SLURM_JOB_END_TIME", "inf"))
        mine = torch.tensor(
            int(self._asked or time.time() > end - self.margin_s),
            device=trainer.strategy.root_device,
        )
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        return bool(mine.item())

    def _requeue(self, trainer: pl.Trainer) -> None:
        trainer.strategy.barrier("requeue")
        signal.signal(
            signal.SIGTERM, signal.SIG_DFL
        )  # Lightning's handler would wait for another batch
        if trainer.is_global_zero:
            self._ask_slurm()
        time.sleep(UNTIL_KILLED_S)  # Slurm ends this step

    def _ask_slurm(self) -> None:
        job = os.environ["SLURM_JOB_ID"]
        if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
        last = self.folder / LAST
        onward = (
            f"to go on from {last}"
            if last.is_file()
            else "to begin anew, since there is no checkpoint yet"
        )
        log.warning("the time is up: job %s goes back into the queue, %s", job, onward)
        result = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False
        )
        if result.returncode:
            log.error(
                "the job could not be requeued (%s); submit it again, %s",
                result.stderr.strip(),
                onward,
            )
