"""Before Slurm's time limit: write a checkpoint and requeue the job; its next start resumes.

Lightning saves inside its signal handler, where one rank may be in the backward pass and another
in a barrier: they wait for each other indefinitely. Here a signal only sets a flag; between two
batches the ranks agree on it, and save. During validation and test nothing is saved: the next start
resumes from last.ckpt and repeats them.
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

from hepflow.data.runs import LAST
from hepflow.train.callbacks import can_resume_after
from hepflow.train.folder import next_start

log = logging.getLogger(__name__)

SIGNAL = signal.SIGUSR1
EVERY = 10  # batches between two agreements of the ranks
MARGIN_S = 60.0  # before the end of the job, counts as the signal, which may have come too early
UNTIL_KILLED_S = 120


def in_a_job() -> bool:
    """Return whether this process belongs to a Slurm job that can be requeued."""
    return "SLURM_JOB_ID" in os.environ and shutil.which("scontrol") is not None


def environment() -> list[SLURMEnvironment]:
    """Return Lightning's plugin without its signal handler, if Slurm started this process."""
    by_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if by_slurm else []


class SlurmRequeue(pl.Callback):
    """Saves last.ckpt and requeues the job after SIGUSR1 to any rank, or shortly before its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked = False

    def setup(self, *_: Any, **__: Any) -> None:
        """Handle the signal; a job script may have ignored it until now, so that it kills none."""
        signal.signal(SIGNAL, self._mark)

    def on_train_batch_end(self, trainer: pl.Trainer, *hook: Any) -> None:
        """Save and requeue."""
        due = trainer.global_step % EVERY == 0 and can_resume_after(trainer, hook[-1])
        if due and self._anyone_asked(trainer):
            trainer.save_checkpoint(self.folder / LAST)
            self._requeue(trainer)

    def on_validation_batch_end(self, *hook: Any, **_: Any) -> None:
        """Requeue."""
        trainer, batch_index = hook[0], hook[4]
        if batch_index % EVERY == 0 and self._anyone_asked(trainer):
            self._requeue(trainer)

    on_test_batch_end = on_validation_batch_end

    def _mark(self, *_: Any) -> None:
        self._asked = True

    def _anyone_asked(self, trainer: pl.Trainer) -> bool:
        end = float(os.environ.get("SLURM_JOB_END_TIME", "inf"))
        mine = int(self._asked or time.time() > end - MARGIN_S)
        anyone = torch.tensor(mine, device=trainer.strategy.root_device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(anyone, op=dist.ReduceOp.MAX)
        return bool(anyone.item())

    def _requeue(self, trainer: pl.Trainer) -> None:
        trainer.strategy.barrier("requeue")
        # Lightning's handler of SIGTERM would wait for another batch.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if trainer.is_global_zero:
            job = os.environ["SLURM_JOB_ID"]
            if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
                job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
            then = next_start(self.folder)
            log.warning("time limit reached: requeueing job %s; it will %s", job, then)
            command = ["scontrol", "requeue", job]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                why = result.stderr.strip()
                log.error("could not requeue it (%s). Submit it again: it will %s", why, then)
        time.sleep(UNTIL_KILLED_S)  # Slurm ends this step
