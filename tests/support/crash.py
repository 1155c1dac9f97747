"""A training that dies: a callback for the tests of resuming."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl

from hepflow.system.places import place
from hepflow.system.publishing import put

CODE = 9


class CrashOnce(pl.Callback):
    """Ends the process silently at a step, but only once."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        marker = place(trainer.default_root_dir) / f"crashed-{trainer.global_rank}"
        if trainer.global_step == self.step and not marker.exists():
            put(marker, b"")
            self.die()

    def die(self) -> None:
        os._exit(CODE)


class KillOnce(CrashOnce):
    """Kills the Spark executor of the process, or else the process, with SIGKILL, but only once."""

    def die(self) -> None:
        process = psutil.Process()
        executors = (
            parent
            for parent in process.parents()
            if "CoarseGrainedExecutorBackend" in " ".join(parent.cmdline())
        )
        next(executors, process).kill()


class InValidationOnce(pl.Callback):
    """Does something within a validation, only once."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        marker = Path(trainer.default_root_dir) / "happened"
        if trainer.current_epoch == self.epoch and not marker.exists():
            marker.touch()
            self.happen()

    def happen(self) -> None:
        msg = "power cut"
        raise RuntimeError(msg)


class TimeIsUpInValidation(InValidationOnce):
    """Send the signal that Slurm sends before a time limit."""

    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)


class PauseOnce(pl.Callback):
    """Waits at a step to be interrupted, only once."""

    def __init__(self, step: int, seconds: float = 60) -> None:
        self.step, self.seconds = step, seconds

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        marker = Path(trainer.default_root_dir) / f"paused-{trainer.global_rank}"
        if trainer.global_step == self.step and not marker.exists():
            marker.touch()
            time.sleep(self.seconds)


class Slow(pl.Callback):
    """Slows down every batch, so that a test has time to interfere."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds)


class SlowUntilRequeued(Slow):
    """The same, until a Slurm job was requeued a number of times."""

    def __init__(self, seconds: float, times: int) -> None:
        super().__init__(seconds)
        self.times = times

    def on_train_batch_start(self, *_: Any) -> None:
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) < self.times:
            super().on_train_batch_start()
