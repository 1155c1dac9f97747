"""The options of a training that are not Lightning's, and the names of its measures."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from hepflow.config.limits import Checked, NonNegativeInt, PositiveFloat, PositiveInt
from hepflow.config.stages import STORE

MAX_EPOCHS = 50
"""Epochs of a training, unless its configuration has another number."""
MB = 1_000_000
"""Bytes: the unit of `buffer_mb` and `memory_mb`."""
Balance = Literal["equal", "natural"] | dict[str, float]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """How a training reads its feature store."""

    within: ClassVar[str] = "data."
    store: Path = STORE
    """Feature store to read: a folder, or a URL (hdfs://, s3://, root://)."""
    cache: Path | None = None
    """Folder on a disk of each node: the store is copied there once, and read from there."""
    batch_size: PositiveInt = 64
    """Events per batch, over all processes together."""
    eval_batch_size: PositiveInt = 512
    """The same for validation, test and prediction."""
    balance: Balance = "equal"
    """Classes in an epoch. equal: the same number of events of each, as many as the smallest class
    has; an epoch takes other events of the larger classes until all were used. natural: every event
    once. Or weights, such as {qcd: 2, ttbar: 1}. Evaluation always uses every event once."""
    order: Literal["delta_r", "stored"] = "delta_r"
    """Order of the particles for sequence nets: by decreasing distance in (eta, phi) from the
    lepton, or as stored."""
    block_events: PositiveInt = 1024
    """Events that are contiguous on disk and read together."""
    buffer_mb: PositiveInt = 512
    """Memory, of all processes together, for the events that are shuffled one by one. The next ones
    are read meanwhile, and take as much."""
    bucket_batches: PositiveInt = 4
    """Batches whose events are sorted by length together, so that little is padded; 1: none."""
    workers: NonNegativeInt = 1
    """Threads that read; 0: none."""
    prefetch: NonNegativeInt = 4
    """Batches to make ahead."""
    memory_mb: NonNegativeInt = 2048
    """Memory per process for the training split and, in what is left, the validation split: one
    that fits is read once. Of a larger one, each process reads its own share in every epoch."""
    predict_split: Literal["train", "val", "test"] = "test"
    """Split to predict."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """How a net is trained."""

    within: ClassVar[str] = "model."
    lr: PositiveFloat = 3e-3
    """Highest learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or down to a hundredth along a cosine."""
    warmup: Annotated[float, ("at least", 0), ("at most", 1)] = 0.05
    """Fraction of the training in which the learning rate rises linearly."""
    torch_compile: bool = False
    """Fuse the net's operations by torch.compile for training: this takes a minute or so at the
    start, and a C++ compiler."""


def measures(split: str, classes: Iterable[str] = ()) -> list[str]:
    """Return the names of loss, accuracy and the AUC of each class on a split."""
    return [f"{split}_loss", f"{split}_accuracy", *(f"{split}_auc_{name}" for name in classes)]


def of_an_epoch(classes: Iterable[str]) -> list[str]:
    """Return the measures by which an epoch can be the best."""
    return [*measures("val", classes), *measures("train")]
