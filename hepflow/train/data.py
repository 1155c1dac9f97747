"""The data module: loaders over the splits of a feature store, made for the net that is being trained."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch

from hepflow.config.stages import STORE
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError
from hepflow.models.inputs import Inputs, Order
from hepflow.train.loading.loader import EventLoader
from hepflow.train.loading.plan import Balance, EpochPlan, described, make_plan
from hepflow.train.loading.reader import BlockReader

log = logging.getLogger(__name__)

MB = 1_000_000


class EventData(pl.LightningDataModule):
    """Batches of a feature store.

    Parameters
    ----------
    store
        Feature store to read.
    batch_size
        Events in a batch, over all processes together.
    eval_batch_size
        The same for validation, test and prediction.
    balance
        Classes in an epoch. equal: the same number of events of each, as many as the smallest class has; an epoch takes other
        events of the larger classes until all were seen. natural: every event once. Or weights, such as {qcd: 2, ttbar: 1}.
        Validation, test and prediction always see every event once.
    order
        How the sequence nets read particles: by decreasing distance in (eta, phi) from the lepton, or as stored.
    seed
        Decides the order of events.
    block_events
        Events that lie together on disk and are read together.
    buffer_mb
        Memory, of all processes together, for the events that are shuffled one by one.
    bucket_batches
        Batches whose events are sorted by length together, so that little is padded; 1 leaves the mixture untouched.
    workers
        Threads that read; 0: none.
    prefetch
        Batches to make ahead.
    memory_mb
        A split that fits is kept in the memory of each process, which reads all of it once; of a larger one it reads its own share
        in every epoch.
    predict_split
        Split that predict writes predictions of.
    """

    def __init__(
        self,
        store: Path = STORE,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 512,
        balance: Balance = "equal",
        order: Order = "delta_r",
        seed: int = 1,
        block_events: int = 1024,
        buffer_mb: int = 512,
        bucket_batches: int = 4,
        workers: int = 1,
        prefetch: int = 4,
        memory_mb: int = 2048,
        predict_split: Literal["train", "val", "test"] = "test",
    ) -> None:
        super().__init__()
        least = dict.fromkeys(
            ("batch_size", "eval_batch_size", "block_events", "buffer_mb", "bucket_batches"), 1
        )
        least |= dict.fromkeys(("seed", "workers", "prefetch", "memory_mb"), 0)
        for name, minimum in least.items():
            if locals()[name] < minimum:
                raise ConfigError(f"data.{name} must be at least {minimum}, got {locals()[name]}")
        self.store = EventStore.open(store)
        self.inputs = Inputs.of(self.store, order)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.balance, self.order, self.seed = balance, order, seed
        self.block_events, self.buffer_mb, self.bucket_batches = (
            block_events,
            buffer_mb,
            bucket_batches,
        )
        self.workers, self.prefetch, self.memory_mb = workers, prefetch, memory_mb
        self.predict_split = predict_split

    def train_dataloader(self) -> EventLoader:
        """The training split, balanced and shuffled."""
        loader = self.loader("train", shuffle=True)
        if self.trainer is None or self.trainer.is_global_zero:
            log.info("%s", described(loader.plan, self.batches_trained(loader.plan)))
        return loader

    def batches_trained(self, plan: EpochPlan) -> int:
        """Of an epoch: as many as trainer.limit_train_batches, a number or a share, allows."""
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        return min(plan.n_batches, limit) if isinstance(limit, int) else int(plan.n_batches * limit)

    def val_dataloader(self) -> EventLoader:
        """The validation split, every event once."""
        return self.loader("val", shuffle=False)

    def test_dataloader(self) -> EventLoader:
        """The test split, every event once."""
        return self.loader("test", shuffle=False)

    def predict_dataloader(self) -> EventLoader:
        """The split to predict, every event once."""
        return self.loader(self.predict_split, shuffle=False)

    def plan(self, split: str, *, shuffle: bool, particles: bool) -> EpochPlan:
        """Order of events of a split, for nets that read particles or not."""
        return make_plan(
            self.store,
            split,
            balance=self.balance,
            batch_size=self.batch_size if shuffle else self.eval_batch_size,
            block_events=self.block_events,
            window_events=max(
                1, int(self.buffer_mb * MB / self._bytes_an_event(split, particles=particles))
            ),
            bucket_batches=self.bucket_batches if shuffle else np.iinfo(np.int64).max,
            shuffle=shuffle,
            seed=self.seed,
        )

    def loader(self, split: str, *, shuffle: bool) -> EventLoader:
        """Loader of a split for this process of the trainer; without a trainer, for a net that reads all there is."""
        trainer = self.trainer
        particles = trainer is None or "particles" in trainer.lightning_module.net.reads  # type: ignore[operator, union-attr]  # a Classifier's
        plan = self.plan(split, shuffle=shuffle, particles=particles)
        size = self._bytes_an_event(split, particles=particles) * self._n_events(split)
        reader = BlockReader(
            self.store,
            particles=particles,
            order=self.order,
            keep=size <= self.memory_mb * MB,
            block_events=self.block_events,
        )
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        pin = (
            trainer is not None
            and trainer.strategy.root_device.type == "cuda"
            and torch.cuda.is_available()
        )
        return EventLoader(
            plan,
            reader,
            rank=rank,
            world=world,
            workers=self.workers,
            prefetch=self.prefetch,
            pin=pin,
        )

    def _n_events(self, split: str) -> int:
        return sum(
            part.n_events for name in self.inputs.classes for part in self.store.parts(split, name)
        )

    def _bytes_an_event(self, split: str, *, particles: bool) -> float:
        flat = 4 * len(self.inputs.hlf) + 16
        if not particles:
            return flat
        n_particles = sum(
            part.n_particles
            for name in self.inputs.classes
            for part in self.store.parts(split, name)
        )
        return flat + 4 * len(self.inputs.particles) * n_particles / max(1, self._n_events(split))
