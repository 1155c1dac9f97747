"""Short trainings of the shipped nets, and their weights."""

from pathlib import Path
from typing import Any

import torch

from hepflow.config.shipped import shipped
from hepflow.data.store import EventStore
from hepflow.models.export import read_checkpoint
from hepflow.system.files import read_json
from hepflow.train.cli import main

SMALL = (
    "--data.batch_size",
    "32",
    "--data.eval_batch_size",
    "64",
    "--trainer.max_epochs",
    "3",
    "--trainer.enable_progress_bar",
    "false",
)


def fit(store: EventStore, output: Path, *more: str, net: str = "hlf") -> dict[str, Any]:
    main(
        [
            "fit",
            "--config",
            str(shipped(f"train/{net}.yaml")),
            "--data.store",
            str(store.path),
            "--output",
            str(output),
            *SMALL,
            *more,
        ]
    )
    return read_json(output / "run.json")


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["state_dict"]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], **(tolerance or {"rtol": 0, "atol": 0}))
