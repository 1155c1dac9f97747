"""TensorBoard's log of a run on a remote store."""

import shutil
import tempfile
import time
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from hepflow.data.runs import TENSORBOARD
from hepflow.system.publishing import scratch, whole


class CopiedTensorBoard(TensorBoardLogger):
    """Keeps the log on this machine, and copies it to the run every so often and at the end.

    Its writer appends to an open file, which no store but a disk takes.
    """

    EVERY_S = 30.0

    def __init__(self, folder: Path, version: str) -> None:
        self._folder, self._copied = folder, time.monotonic()
        self._here = tempfile.TemporaryDirectory(dir=scratch())
        super().__init__(self._here.name, TENSORBOARD, version)

    @rank_zero_only
    def save(self) -> None:
        """Copy the log, if it is time: this is called after everything that is logged."""
        super().save()
        if time.monotonic() - self._copied > self.EVERY_S:
            self._copy()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Copy the whole log."""
        super().finalize(status)
        self._copy()

    def _copy(self) -> None:
        here = Path(self._here.name)
        for file in here.rglob("*"):
            if file.is_file():
                with whole(self._folder / file.relative_to(here).as_posix()) as part:
                    shutil.copyfile(file, part)
        self._copied = time.monotonic()
