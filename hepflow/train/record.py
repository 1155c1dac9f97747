"""run.json: what was trained, on what and by what; and metrics.csv, one row per epoch."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from hepflow.data.provenance import code_hash
from hepflow.data.runs import (
    CHECKPOINTS,
    CONFIG,
    HISTORY,
    RECORD,
    clear,
    read_table,
    recorded_table,
)
from hepflow.models.net import Net, parameters
from hepflow.schema import SPLITS
from hepflow.system import processes
from hepflow.system.files import as_yaml, write_csv, write_json
from hepflow.system.publishing import put
from hepflow.system.storage import make_folder
from hepflow.train.data import EventData
from hepflow.train.folder import RunPlan

PACKAGES = ("hepflow", "torch", "pytorch-lightning", "torchmetrics", "numpy", "zarr")


class RunRecord(pl.Callback):
    """Keeps run.json and config.yaml; a fresh run removes an earlier one from its folder."""

    def __init__(self, run: RunPlan, about: Mapping[str, Any]) -> None:
        self.run, self.about = run, about
        self._events, self._wall_s, self._since = 0, 0.0, time.perf_counter()
        self._splits: dict[str, list[str]] = {}
        self._reach: float | None = None
        self._fitted = False
        self._code = code_hash()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Create the folder: nothing is refused any more, and all ranks have read its state."""
        if not trainer.is_global_zero:
            return
        if self.run.state == "fresh":
            clear(self.run.folder)
        make_folder(self.run.folder / CHECKPOINTS)
        self.write(trainer, pl_module)
        put(self.run.folder / CONFIG, as_yaml(self.run.config_text))

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock, and drop rows of epochs that are newer than the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, EpochTable):
                logger.drop_from(trainer.current_epoch)
        data: EventData = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        n_train = sum(data.store.attributes["counts"]["train"].values())
        of_train = data.inputs.statistics["hlf"]["count"] == n_train
        plan = trainer.train_dataloader.plan  # type: ignore[union-attr]  # of an EventLoader
        self._splits |= {"fit": plan.splits, "statistics": ["train"] if of_train else list(SPLITS)}
        self._reach, self._since = plan.reach, time.perf_counter()

    def on_train_batch_end(self, *hook: Any) -> None:
        """Count events."""
        self._events += hook[3].n_global  # of trainer, module, outputs, batch, index

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Record the split that decides the best epoch."""
        self._splits["tuning"] = trainer.val_dataloaders.plan.splits  # type: ignore[union-attr]

    def on_fit_end(self, *_: Any) -> None:
        """Stop the clock."""
        self._wall_s, self._fitted = self._wall_so_far(), True

    def state_dict(self) -> dict[str, Any]:
        """Return the totals so far."""
        return {"events": self._events, "wall_s": self._wall_so_far(), "splits": self._splits}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue those totals, unless the best epoch is loaded for the test."""
        if not self._fitted:
            self._events, self._wall_s = state_dict["events"], state_dict["wall_s"]
            self._splits, self._since = state_dict["splits"], time.perf_counter()

    def write(self, trainer: pl.Trainer, pl_module: Any, **more: Any) -> None:
        """Write run.json."""
        if not trainer.is_global_zero:
            return
        net: Net = pl_module.net
        inputs, wall_s = net.inputs, self._wall_so_far()
        device = trainer.strategy.root_device
        name = f"{device.type}, {processes.cores()} cores"
        if device.type == "cuda":
            name = torch.cuda.get_device_name(device)
        record = {
            "name": self.run.folder.name,
            "config_hash": self.run.config_hash,
            "model": type(net).__name__,
            "net": net.describe()["net"],
            "arguments": net.arguments,
            "classes": list(inputs.classes),
            "definitions": inputs.definitions,
            "parameters": parameters(net),
            "provenance": inputs.provenance,
            "splits_used": self._splits,
            "code": self._code,
            "epochs": trainer.current_epoch,
            "events_trained": self._events,
            "shuffle_reach": self._reach,
            "wall_s": wall_s,
            "events_per_s": self._events / wall_s if wall_s > 0 else 0.0,
            "processes": trainer.world_size,
            "threads": torch.get_num_threads(),
            "device": name,
            "versions": processes.versions(PACKAGES),
            "history": read_table(self.run.folder / HISTORY),
            "finished": False,
        }
        write_json(self.run.folder / RECORD, {**record, **self.about, **more})

    on_train_epoch_end = write

    def _wall_so_far(self) -> float:
        return self._wall_s + (0 if self._fitted else time.perf_counter() - self._since)


class EpochTable(Logger):
    """metrics.csv: one row per epoch, with everything logged in it; ``go_on`` keeps old rows."""

    name, version = "table", ""

    def __init__(self, path: Path, *, go_on: bool) -> None:
        super().__init__()
        self.path = path
        rows = [*read_table(path), *recorded_table(path.parent)] if go_on else []
        self.rows: dict[int, dict[str, float]] = {}
        for row in rows:  # what the record has is checked
            whole = {name: int(row[name]) for name in ("epoch", "step") if name in row}
            self.rows.setdefault(whole["epoch"], {}).update(row | whole)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: they are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Put values into the row of their epoch."""
        if "val_loss" in metrics or "train_loss" in metrics:
            epoch = int(metrics["epoch"])
            own = {**metrics, "epoch": epoch, "step": step or 0}
            self.rows[epoch] = self.rows.get(epoch, {}) | own

    @rank_zero_only
    def drop_from(self, epoch: int) -> None:
        """Drop the epochs from this one on: they are trained again."""
        self.rows = {key: row for key, row in self.rows.items() if key < epoch}

    @rank_zero_only
    def save(self) -> None:
        """Write the table."""
        if not self.rows:
            return
        make_folder(self.path.parent)
        names = ["epoch", "step", *sorted(set().union(*self.rows.values()) - {"epoch", "step"})]
        rows = ([row.get(name, "") for name in names] for _, row in sorted(self.rows.items()))
        write_csv(self.path, [names, *rows])
