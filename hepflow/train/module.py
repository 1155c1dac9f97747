"""The Lightning module of any net: nets differ only in what they read and in their forward."""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from hepflow.config.train import ModelConfig, measures
from hepflow.errors import ConfigError, DataError
from hepflow.models.hlf import HLFNet
from hepflow.models.inputs import Inputs
from hepflow.models.net import Net
from hepflow.train.data import EventData
from hepflow.train.loading.batches import Batch

# B events, K classes

NetOf = Callable[[Inputs], Net]


class Classifier(pl.LightningModule):
    """Cross-entropy on the logits of a net, minimised by AdamW.

    Further ``options`` are fields of `hepflow.config.train.ModelConfig`.

    Parameters
    ----------
    net
        Class of the net, called with ``inputs``; its own arguments are model.net.NAME.
    seed
        Decides the dropout of each step.
    """

    def __init__(
        self, inputs: Inputs, net: NetOf = HLFNet, *, seed: int = 1, **options: Any
    ) -> None:
        super().__init__()
        self.options = ModelConfig(**options)
        self.seed = seed
        self.net = net(inputs)
        n_classes = len(inputs.classes)
        self.loss = MeanMetric()
        # Each class counts the same, as in a report.
        self.accuracy = MulticlassAccuracy(n_classes, average="macro")
        self.auc = MulticlassAUROC(n_classes, average="none")
        # Cross-entropy, correct and events of the epoch so far. It is not a buffer, since DDP would
        # overwrite those of the other ranks.
        self.sums = torch.zeros(3)

    def setup(self, stage: str) -> None:
        """Compile the net in place, so that the names in checkpoints stay."""
        if self.options.torch_compile and stage == "fit":
            self.net.compile()

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits (B, K)."""
        logits_BK: Tensor = self.net(**{name: getattr(batch, name) for name in self.net.reads})
        return logits_BK

    def on_train_start(self) -> None:
        """Reset the sums, unless an epoch is resumed."""
        self.sums = self.sums.to(self.device)
        if not self.trainer.fit_loop.restarting:
            self.sums.zero_()

    def on_train_batch_start(self, _: Any, batch_index: int) -> None:
        """Seed the dropout by seed, batch and rank, so that a resumed run draws the same masks."""
        per_step = self.trainer.accumulate_grad_batches
        batch = self.global_step * per_step + batch_index % per_step
        # torch.manual_seed would seed every device, which takes longer than a step of a small net.
        generator = torch.default_generator
        if self.device.type == "cuda":
            generator = torch.cuda.default_generators[self.device.index or 0]
        generator.manual_seed((self.seed * 1_000_003 + batch) * 4099 + self.global_rank)

    def training_step(self, batch: Batch) -> Tensor:
        """Return the loss; its average over the ranks is the mean over the global batch."""
        logits_BK = self(batch)
        loss_B = functional.cross_entropy(logits_BK, batch.label, reduction="none") * batch.weight
        with torch.no_grad():
            correct_B = (logits_BK.argmax(dim=1) == batch.label) * batch.weight
            self.sums += torch.stack([loss_B.sum(), correct_B.sum(), batch.weight.sum()])
        return loss_B.sum() * (self.trainer.world_size / batch.n_global)

    def on_train_epoch_end(self) -> None:
        """Log the mean loss and accuracy of the epoch; the weights changed meanwhile."""
        sums = self.trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")
        loss, correct, n_events = sums.tolist()
        self.sums.zero_()
        values = dict(zip(measures("train"), (loss / n_events, correct / n_events), strict=True))
        lr = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log_dict({**values, "lr": lr}, rank_zero_only=True)

    def predict_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the logits of the events, for `PredictionsWriter`."""
        logits_BK, real = self(batch), batch.weight > 0
        own = {"event_id": batch.event_id, "label": batch.label, "logits": logits_BK.float()}
        return {name: values[real] for name, values in own.items()}

    def test_step(self, batch: Batch) -> dict[str, Tensor]:
        """Collect loss, accuracy and AUC, and return the logits."""
        outputs = self.predict_step(batch)
        logits_BK, label_B = outputs["logits"], outputs["label"]
        self.loss.update(functional.cross_entropy(logits_BK, label_B, reduction="none"))
        self.accuracy.update(logits_BK, label_B)
        self.auc.update(logits_BK.softmax(dim=1), label_B)
        return outputs

    validation_step = test_step

    def on_test_epoch_end(self) -> None:
        """Log them; every rank has computed the same from the events of all ranks."""
        names = measures("test" if self.trainer.testing else "val", self.net.inputs.classes)
        values = (self.loss.compute(), self.accuracy.compute(), *self.auc.compute())
        for metric in (self.loss, self.accuracy, self.auc):
            metric.reset()
        measured = dict(zip(names, values, strict=True))
        self.log_dict(measured, sync_dist=False, rank_zero_only=False)

    on_validation_epoch_end = on_test_epoch_end

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW, with a learning rate that follows the schedule step by step."""
        own, trainer = self.options, self.trainer
        # The trainer's own estimate of the number of steps would open the training loader before a
        # checkpoint can set its position.
        data: EventData = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        plan = data.plan("train", shuffle=True, particles="particles" in self.net.reads)
        n_steps = max(1, steps(trainer, data.batches_trained(plan)))
        # Lightning's mixed precision cannot clip the gradients of a fused optimizer.
        fused = "mixed" not in str(trainer.precision)
        optimizer = AdamW(self.parameters(), lr=own.lr, weight_decay=own.weight_decay, fused=fused)
        course = own.warmup, own.schedule
        schedule = LambdaLR(optimizer, lambda step: lr_factor(step, n_steps, *course))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the net without a configuration, and the sums of the epoch so far."""
        checkpoint["hepflow"] = self.net.describe()
        checkpoint["epoch_sums"] = self.trainer.strategy.reduce(self.sums.clone(), reduce_op="sum")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits, and continue its sums."""
        self.require_fit(checkpoint, training=self.trainer.training)
        if self.trainer.training and self.global_rank == 0:
            self.sums = checkpoint["epoch_sums"].clone()

    def require_fit(self, checkpoint: dict[str, Any], *, training: bool) -> None:
        """Refuse a checkpoint of another net, for other features or, to train it, other events."""
        theirs, mine = checkpoint["hepflow"], self.net.describe()
        for key in ("net", "arguments"):
            if theirs[key] != mine[key]:
                why = f"{key} {theirs[key]}, the configuration asks for {mine[key]}"
                raise ConfigError(f"the checkpoint holds a net with {why}. Give its config.yaml.")
        Inputs.from_dict(theirs["inputs"]).require_same_features(self.net.inputs, "the checkpoint")
        if training and theirs["inputs"]["statistics"] != mine["inputs"]["statistics"]:
            why = "trained with another normalisation (other training events)"
            advice = "Start a new training in another --output."
            raise DataError(f"the checkpoint was {why}. {advice}")


def steps(trainer: pl.Trainer, n_batches: float) -> int:
    """Return the optimizer steps of a training with so many batches per epoch."""
    per_epoch = math.ceil(n_batches / trainer.accumulate_grad_batches)
    n_steps = per_epoch * (trainer.max_epochs or 1)
    return n_steps if trainer.max_steps < 0 else min(n_steps, trainer.max_steps)


def lr_factor(step: int, n_steps: int, warmup: float, schedule: str) -> float:
    """Return the learning rate at a step, as a fraction of the highest.

    It rises linearly, then stays, or falls to a hundredth along half a cosine.
    """
    n_warm = warmup * n_steps
    if step < n_warm:
        return (step + 1) / (n_warm + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - n_warm) / max(1.0, n_steps - n_warm))
    return 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
