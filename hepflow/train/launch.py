"""The processes that a training starts on this machine: no more than it has cores, and none that outlives the first one."""

import ctypes
import os
import signal
import sys

import pytorch_lightning as pl
from pytorch_lightning.accelerators import CPUAccelerator

from hepflow.errors import ConfigError
from hepflow.system import processes

LAUNCHER = "HEPFLOW_LAUNCHER"
"""Environment variable with the number of the process that starts the others."""
PR_SET_PDEATHSIG = 1


def prepare(trainer: pl.Trainer) -> None:
    """See to it that the processes of a trainer fit on the machine, and know who starts them.

    Raises
    ------
    ConfigError
        There are more than cores.
    """
    if trainer.strategy.launcher is None:  # one process, or Slurm, torchrun or Spark start them
        return
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > (
        cores := processes.cores()
    ):
        raise ConfigError(
            f"trainer.devices {trainer.num_devices} asks for more processes than the {cores} cores that hepflow may use here"
        )
    os.environ[LAUNCHER] = str(os.getpid())


def end_with_launcher() -> None:
    """In a process that another one started: end when that does, even by `kill -9`, and not wait for it for ever."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or os.environ.get("LOCAL_RANK", "0") == "0":
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(launcher):  # it ended while this process was starting
        os._exit(1)
