"""A callback that records when the first training batch came, and what the process then held."""

import json
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl

PLACE = "HEPFLOW_FIRST_BATCH"
"""Variable of the environment that names the file to write."""


class FirstBatch(pl.Callback):
    """Writes seconds since the start of the process, and the most memory it held so far, in GB."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 0 and trainer.is_global_zero:
            seconds = time.time() - psutil.Process().create_time()
            status = Path("/proc/self/status").read_text().split()
            most = int(status[status.index("VmHWM:") + 1]) * 1024 / 1e9
            Path(os.environ[PLACE]).write_text(json.dumps({"seconds": seconds, "gb": most}))
