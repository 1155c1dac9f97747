"""The one Lightning module: it trains, validates and tests any net. Nets differ only in what they read and in their forward."""

import math
from collections.abc import Callable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from hepflow.errors import ConfigError, DataError
from hepflow.models.hlf import HLFNet
from hepflow.models.inputs import Inputs
from hepflow.models.net import Net
from hepflow.train.data import EventData
from hepflow.train.loading.batches import Batch
from hepflow.train.measures import measures

# B events, K classes

NetOf = Callable[[Inputs], Net]


class Classifier(pl.LightningModule):
    """Cross-entropy on the logits of a net, by Adam.

    Parameters
    ----------
    net
        Class of the net, such as hepflow.models.inclusive.InclusiveNet, made from the store's description of its inputs; its own
        arguments are model.net.NAME.
    inputs
        Classes, features and statistics; from the store.
    lr
        Learning rate, at its highest.
    weight_decay
        Decoupled weight decay.
    schedule
        Learning rate after the warm-up: constant, or down to a hundredth along a cosine.
    warmup
        Share of the training in which the learning rate rises linearly.
    seed
        Decides the dropout of each step.
    torch_compile
        Let torch.compile fuse the net's operations for training: it takes a minute or so at the start, and a C++ compiler.
    """

    def __init__(
        self,
        inputs: Inputs,
        net: NetOf = HLFNet,
        *,
        lr: float = 3e-3,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine"] = "cosine",
        warmup: float = 0.05,
        seed: int = 1,
        torch_compile: bool = False,
    ) -> None:
        super().__init__()
        if lr <= 0 or not 0 <= warmup <= 1:
            raise ConfigError(
                f"model.lr must be positive and model.warmup between 0 and 1, got {lr} and {warmup}"
            )
        self.net = net(inputs)
        self.lr, self.weight_decay, self.schedule, self.warmup, self.seed = (
            lr,
            weight_decay,
            schedule,
            warmup,
            seed,
        )
        self.torch_compile = torch_compile
        n_classes = len(inputs.classes)
        self.loss = MeanMetric()
        self.accuracy = MulticlassAccuracy(
            n_classes, average="macro"
        )  # each class counts the same, as in a report
        self.auc = MulticlassAUROC(n_classes, average="none")
        # cross-entropy, correct, events of the epoch so far; no buffer, since DDP would overwrite those of the other ranks
        self.sums = torch.zeros(3)

    def setup(self, stage: str) -> None:
        """Compile the net, in place: checkpoints do not know."""
        if self.torch_compile and stage == "fit":
            self.net.compile()

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, K)."""
        logits_BK: Tensor = self.net(**{name: getattr(batch, name) for name in self.net.reads})
        return logits_BK

    def on_train_start(self) -> None:
        """Nothing of an earlier fit is left."""
        self.sums = self.sums.to(self.device)
        if not self.trainer.fit_loop.restarting:
            self.sums.zero_()

    def on_train_batch_start(self, _: Any, batch_index: int) -> None:
        """Dropout is a function of seed, batch and rank, so that a resumed run goes on as if nothing had happened."""
        batches_a_step = self.trainer.accumulate_grad_batches
        batch = self.global_step * batches_a_step + batch_index % batches_a_step
        seed = (self.seed * 1_000_003 + batch) * 4099 + self.global_rank
        # torch.manual_seed would seed every device there could be, which takes longer than a step of a small net
        generator = (
            torch.cuda.default_generators[self.device.index or 0]
            if self.device.type == "cuda"
            else torch.default_generator
        )
        generator.manual_seed(seed)

    def training_step(self, batch: Batch) -> Tensor:
        """Loss whose average over the ranks is the mean over the global batch."""
        logits_BK = self(batch)
        loss_B = functional.cross_entropy(logits_BK, batch.label, reduction="none") * batch.weight
        with torch.no_grad():
            correct_B = (logits_BK.argmax(dim=1) == batch.label) * batch.weight
            self.sums += torch.stack([loss_B.sum(), correct_B.sum(), batch.weight.sum()])
        return loss_B.sum() * (self.trainer.world_size / batch.n_global)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's loss and accuracy, which changed while it ran."""
        loss, correct, n_events = self.trainer.strategy.reduce(
            self.sums.clone(), reduce_op="sum"
        ).tolist()
        self.sums.zero_()
        values = dict(zip(measures("train"), (loss / n_events, correct / n_events), strict=True))
        self.log_dict({**values, "lr": self._lr_now()}, rank_zero_only=True)

    def validation_step(self, batch: Batch) -> None:
        """Collect loss, accuracy and AUC."""
        self._measure(batch, self(batch))

    def on_validation_epoch_end(self) -> None:
        """Log them."""
        self._log_measured("val")

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        """Collect loss, accuracy and AUC; give the logits to whoever writes them."""
        logits_BK = self(batch)
        self._measure(batch, logits_BK)
        return _outputs(batch, logits_BK)

    def on_test_epoch_end(self) -> None:
        """Log them."""
        self._log_measured("test")

    def predict_step(self, batch: Batch) -> dict[str, Tensor]:
        """Logits."""
        return _outputs(batch, self(batch))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam, with a learning rate that follows the schedule step by step."""
        fused = "mixed" not in str(
            self.trainer.precision
        )  # Lightning's mixed precision clips no gradients of a fused optimizer
        optimizer: Optimizer = AdamW(
            self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=fused
        )
        n_steps = self._n_steps()
        schedule = LambdaLR(
            optimizer, lambda step: lr_factor(step, n_steps, self.warmup, self.schedule)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put in what rebuilds the net without any configuration, and the half epoch's sums."""
        checkpoint["hepflow"] = self.net.describe()
        checkpoint["epoch_sums"] = self.trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the half epoch's sums of a checkpoint that fits."""
        self.require_fit(checkpoint, training=self.trainer.training)
        if self.trainer.training and self.global_rank == 0:
            self.sums = checkpoint["epoch_sums"].clone()

    def require_fit(self, checkpoint: dict[str, Any], *, training: bool) -> None:
        """Refuse a checkpoint of another net or of other inputs; for a training also one of another normalisation.

        Raises
        ------
        ConfigError
            It holds another net.
        DataError
            Its events were others.
        """
        theirs, mine = checkpoint["hepflow"], self.net.describe()
        for key in ("net", "arguments"):
            if theirs[key] != mine[key]:
                raise ConfigError(
                    f"the checkpoint holds a net with {key} {theirs[key]}, the configuration asks for {mine[key]}. Give its config.yaml."
                )
        Inputs.from_dict(theirs["inputs"]).require_same_features(self.net.inputs, "the checkpoint")
        if training and theirs["inputs"]["statistics"] != mine["inputs"]["statistics"]:
            raise DataError(
                "the checkpoint was trained with another normalisation (other training events); start afresh in another --output"
            )

    def _measure(self, batch: Batch, logits_BK: Tensor) -> None:
        real = batch.weight > 0
        logits_BK, label_B = logits_BK[real].float(), batch.label[real]
        self.loss.update(functional.cross_entropy(logits_BK, label_B, reduction="none"))
        self.accuracy.update(logits_BK, label_B)
        self.auc.update(logits_BK.softmax(dim=1), label_B)

    def _log_measured(self, split: str) -> None:
        names = measures(split, self.net.inputs.classes)
        values = dict(
            zip(
                names,
                (self.loss.compute(), self.accuracy.compute(), *self.auc.compute()),
                strict=True,
            )
        )
        for metric in (self.loss, self.accuracy, self.auc):
            metric.reset()
        # every rank computed the same from all ranks' events
        self.log_dict(values, sync_dist=False, rank_zero_only=False)

    def _n_steps(self) -> int:
        """Optimiser steps of the whole training.

        The trainer's own estimate would open the training loader before a checkpoint can tell it where it stood.
        """
        trainer = self.trainer
        data: EventData = trainer.datamodule  # type: ignore[attr-defined]  # Lightning attaches it, undeclared
        n_batches = data.batches_trained(
            data.plan("train", shuffle=True, particles="particles" in self.net.reads)
        )
        n_steps = math.ceil(n_batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 1)
        return max(1, n_steps if trainer.max_steps < 0 else min(n_steps, trainer.max_steps))

    def _lr_now(self) -> float:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        return float(optimizer.param_groups[0]["lr"])


def net_of(module: pl.LightningModule) -> Net:
    """The net inside a module that a callback was given."""
    assert isinstance(module, Classifier)
    return module.net


def lr_factor(step: int, n_steps: int, warmup: float, schedule: str) -> float:
    """Learning rate at a step over the highest: a linear rise, then constant or half a cosine down to a hundredth."""
    n_warm = warmup * n_steps
    if step < n_warm:
        return (step + 1) / (n_warm + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - n_warm) / max(1.0, n_steps - n_warm))
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2


def _outputs(batch: Batch, logits_BK: Tensor) -> dict[str, Tensor]:
    real = batch.weight > 0
    return {
        "event_id": batch.event_id[real],
        "label": batch.label[real],
        "logits": logits_BK[real].float(),
    }
