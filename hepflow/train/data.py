"""The data module: loaders over the splits of a feature store, made for the net in training."""

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from hepflow.config.stages import STORE
from hepflow.config.train import MB, DataConfig
from hepflow.data.staging import staged
from hepflow.data.store import EventStore
from hepflow.models.inputs import Inputs
from hepflow.models.net import Net
from hepflow.system.remote import is_remote
from hepflow.train.loading.loader import EventLoader
from hepflow.train.loading.plan import EpochPlan, described, make_plan
from hepflow.train.loading.reader import EVERY_EPOCH, BlockReader, kept_splits

log = logging.getLogger(__name__)

REMOTE_WORKERS = 8
"""Threads that read a remote store, unless more are wanted."""
_INDEX_BYTES = 48
"""Memory per event of a window for its order, which counts where there are no particles."""


class EventData(pl.LightningDataModule):
    """Batches of a feature store.

    Further ``options`` are fields of `hepflow.config.train.DataConfig`.

    Parameters
    ----------
    store
        Feature store to read.
    seed
        Decides the order of events.
    """

    def __init__(self, store: Path = STORE, *, seed: int = 1, **options: Any) -> None:
        super().__init__()
        self.options = DataConfig(store=store, **options)
        self.seed = seed
        self.store = EventStore.open(store)
        if self.options.cache is not None:
            self.store = staged(self.store, self.options.cache)
        self.inputs = Inputs.of(self.store, self.options.order)

    def train_dataloader(self) -> EventLoader:
        """Return the training split, balanced and shuffled."""
        loader = self.loader("train", shuffle=True)
        if self.trainer is None or self.trainer.is_global_zero:
            log.info("%s", described(loader.plan, self.batches_trained(loader.plan)))
        return loader

    def val_dataloader(self) -> EventLoader:
        """Return the validation split, every event once."""
        return self.loader("val", shuffle=False)

    def test_dataloader(self) -> EventLoader:
        """Return the test split, every event once."""
        return self.loader("test", shuffle=False)

    def predict_dataloader(self) -> EventLoader:
        """Return the split to predict, every event once."""
        return self.loader(self.options.predict_split, shuffle=False)

    def batches_trained(self, plan: EpochPlan) -> int:
        """Return the batches per epoch that trainer.limit_train_batches allows."""
        limit = 1.0 if self.trainer is None else self.trainer.limit_train_batches
        return min(plan.n_batches, limit) if isinstance(limit, int) else int(plan.n_batches * limit)

    def plan(self, split: str, *, shuffle: bool, particles: bool) -> EpochPlan:
        """Return the order of a split's events, for nets that read particles or not."""
        size = self._bytes_per_event(split, particles=particles)
        held = self.options.buffer_mb * MB
        if not particles and self._total(split, "n_events") * (size + _INDEX_BYTES) > held:
            size += _INDEX_BYTES  # of fewer events, the order stays that of earlier versions
        n_held = max(1, int(held / size))
        how: Any = {"shuffle": shuffle, "seed": self.seed, "window_events": n_held}
        return make_plan(self.store, split, self.options, **how)

    def loader(self, split: str, *, shuffle: bool) -> EventLoader:
        """Return the loader of a split for this process; without a trainer, for any net."""
        own, trainer = self.options, self.trainer
        # threads that wait for a remote store cost nothing, and hide its round trips
        far = own.workers and is_remote(self.store.path)
        workers = max(own.workers, REMOTE_WORKERS) if far else own.workers
        ahead: Any = {"workers": workers, "prefetch": own.prefetch}
        particles = True
        if trainer is not None:
            net: Net = trainer.lightning_module.net  # type: ignore[assignment]
            particles = "particles" in net.reads
            on_gpu = trainer.strategy.root_device.type == "cuda" and torch.cuda.is_available()
            ahead |= {"rank": trainer.global_rank, "world": trainer.world_size, "pin": on_gpu}
        plan = self.plan(split, shuffle=shuffle, particles=particles)
        kept: Any = {"keep": self._is_kept(split, particles), "block_events": own.block_events}
        reader = BlockReader(self.store, particles=particles, order=own.order, **kept)
        return EventLoader(plan, reader, **ahead)

    def _is_kept(self, split: str, particles: bool) -> bool:
        """Return whether a split is read once, and not in every epoch."""
        sizes = {
            name: self._total(name, "n_events") * self._bytes_per_event(name, particles=particles)
            for name in EVERY_EPOCH
        }
        return split in kept_splits(sizes, self.options.memory_mb * MB)

    def _total(self, split: str, count: str) -> int:
        return sum(getattr(one, count) for one in self.store.all_ranges(split))

    def _bytes_per_event(self, split: str, *, particles: bool) -> float:
        flat = 4 * len(self.inputs.hlf) + 16
        if not particles:
            return flat
        per_event = self._total(split, "n_particles") / max(1, self._total(split, "n_events"))
        return flat + 4 * len(self.inputs.particles) * per_event
