"""run.json: what was trained, on what and by what."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from hepflow.data.provenance import code_hash
from hepflow.data.runs import CHECKPOINTS, CONFIG, HISTORY, RECORD, clear
from hepflow.models.net import parameters
from hepflow.schema import SPLITS
from hepflow.system import processes
from hepflow.system.files import whole, write_json
from hepflow.train.callbacks import batch_of
from hepflow.train.data import EventData
from hepflow.train.folder import State
from hepflow.train.loading.loader import EventLoader
from hepflow.train.module import net_of
from hepflow.train.table import EpochTable, read_table

PACKAGES = ("hepflow", "torch", "pytorch-lightning", "torchmetrics", "numpy", "zarr")


class RunRecord(Callback):
    """Keeps run.json and config.yaml.

    Parameters
    ----------
    folder : Path
        Of the run.
    state : {"fresh", "resume", "done"}
        What is in it: a fresh run removes what an earlier one of another configuration left.
    config_text : str
        The resolved configuration, as YAML.
    about : mapping
        ``config_hash``, ``seed``, ``store`` and ``engine``.
    """

    def __init__(
        self, folder: Path, state: State, config_text: str, about: Mapping[str, Any]
    ) -> None:
        self.folder = folder
        self.state = state
        self.config_text = config_text
        self.about = about
        self._events = 0
        self._wall_s = 0.0
        self._since = time.perf_counter()
        self._splits: dict[str, list[str]] = {}
        self._reach: float | None = None
        self._fitted = False
        self._code = code_hash()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder, with nothing left to refuse. Every rank has made up its mind about the folder's state: they have met by now."""
        if not trainer.is_global_zero:
            return
        if self.state == "fresh":
            clear(self.folder)
        (self.folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        self.write(trainer, pl_module, finished=False)
        with whole(self.folder / CONFIG) as part:
            part.write_text(self.config_text)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock, and forget the rows of epochs that a checkpoint does not know of."""
        for logger in trainer.loggers:
            if isinstance(logger, EpochTable):
                logger.drop_from(trainer.current_epoch)
        self._splits = {
            **self._splits,
            "fit": _splits_of(trainer.train_dataloader),
            "statistics": _splits_of_statistics(trainer),
        }
        assert isinstance(trainer.train_dataloader, EventLoader)
        self._reach = trainer.train_dataloader.plan.reach
        self._since = time.perf_counter()

    def on_train_batch_end(self, *hook: Any) -> None:
        """Count events."""
        self._events += batch_of(hook).n_global

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note on what the best epoch is chosen."""
        self._splits["tuning"] = _splits_of(trainer.val_dataloaders)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the record current."""
        self.write(trainer, pl_module, finished=False)

    def on_fit_end(self, *_: Any) -> None:
        """Stop the clock."""
        self._wall_s, self._since = self._wall_so_far(), time.perf_counter()
        self._fitted = True

    def state_dict(self) -> dict[str, Any]:
        """Totals up to here."""
        return {"events": self._events, "wall_s": self._wall_so_far(), "splits": self._splits}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with those totals, unless the checkpoint is that of the best epoch, loaded for the test."""
        if self._fitted:
            return
        self._events, self._wall_s, self._splits = (
            state_dict["events"],
            state_dict["wall_s"],
            state_dict["splits"],
        )
        self._since = time.perf_counter()

    def write(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, finished: bool, **more: Any
    ) -> None:
        """Write run.json whole."""
        if not trainer.is_global_zero:
            return
        net = net_of(pl_module)
        inputs = net.inputs
        history = read_table(self.folder / HISTORY)
        wall_s = self._wall_s if finished else self._wall_so_far()
        record = {
            "name": self.folder.name,
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
            "device": _device(trainer),
            "versions": processes.versions(PACKAGES),
            "history": history,
            "finished": finished,
            **self.about,
            **more,
        }
        write_json(self.folder / RECORD, record)

    def _wall_so_far(self) -> float:
        return self._wall_s + time.perf_counter() - self._since


def _splits_of(loader: Any) -> list[str]:
    """Where a loader's events come from."""
    assert isinstance(loader, EventLoader)
    return sorted({block.part.split for blocks in loader.plan.blocks for block in blocks})


def _splits_of_statistics(trainer: pl.Trainer) -> list[str]:
    """What the normalisation has seen: the training split, unless its count of events says otherwise."""
    data: EventData = trainer.datamodule  # type: ignore[attr-defined]  # Lightning attaches it, undeclared
    n_train = sum(data.store.attributes["counts"]["train"].values())
    return ["train"] if data.inputs.statistics["hlf"]["count"] == n_train else list(SPLITS)


def _device(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {processes.cores()} cores"
