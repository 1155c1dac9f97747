"""Callbacks that record how far a training is; the environment names their files."""

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl

PLACE = "HEPFLOW_BENCHMARK_FILE"
_EVERY = 20


class FirstBatch(pl.Callback):
    """Writes the seconds from the start of the process to the first batch, and its memory in GB."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            seconds = time.time() - psutil.Process().create_time()
            status = Path("/proc/self/status").read_text().split()
            most = int(status[status.index("VmHWM:") + 1]) * 1024 / 1e9
            found = {"seconds": seconds, "cpu_s": time.process_time(), "gb": most}
            Path(os.environ[PLACE]).write_text(json.dumps(found))


class Steps(pl.Callback):
    """Appends the time of every 20th training step to a file."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % _EVERY == 0:
            with Path(os.environ[PLACE]).open("a") as file:
                file.write(f"{trainer.global_step} {time.time()}\n")
