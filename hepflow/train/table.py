"""metrics.csv: what a training logged, a row an epoch."""

import csv
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from hepflow.system.files import whole


class EpochTable(Logger):
    """metrics.csv: one row an epoch, with everything that was logged in it.

    Parameters
    ----------
    path : Path
        Of the file.
    go_on : bool
        Keep the rows that are there.
    """

    def __init__(self, path: Path, *, go_on: bool) -> None:
        super().__init__()
        self.path = path
        rows = read_table(path) if go_on else []
        self.rows: dict[int, dict[str, float]] = {int(row["epoch"]): row for row in rows}

    @property
    def name(self) -> str:
        """Of the logger."""
        return "table"

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """They are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Put numbers into the row of their epoch."""
        if "val_loss" in metrics or "train_loss" in metrics:
            epoch = int(metrics["epoch"])
            self.rows[epoch] = {
                **self.rows.get(epoch, {}),
                **metrics,
                "epoch": epoch,
                "step": step or 0,
            }

    @rank_zero_only
    def drop_from(self, epoch: int) -> None:
        """Forget the epochs from this one on: they will be trained again."""
        self.rows = {key: row for key, row in self.rows.items() if key < epoch}

    @rank_zero_only
    def save(self) -> None:
        """Write the table whole."""
        if not self.rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        names = [
            "epoch",
            "step",
            *sorted({name for row in self.rows.values() for name in row} - {"epoch", "step"}),
        ]
        with whole(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows[epoch] for epoch in sorted(self.rows))


def read_table(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics.csv; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
