"""The options of ``hepflow train``: Lightning's own parser over the data module, the classifier and the trainer."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from hepflow.config.arguments import nearest, read, spelt_out
from hepflow.config.options import spelt
from hepflow.config.shipped import with_shipped
from hepflow.config.stages import RUNS, TrainConfig
from hepflow.data.runs import BEST, CHECKPOINTS, HISTORY, TENSORBOARD
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError, one_line
from hepflow.models.export import read_checkpoint
from hepflow.train import launch, slurm
from hepflow.train.callbacks import LastCheckpoint, PredictionsWriter, Throughput, WholeCheckpoints
from hepflow.train.checks import ONE_BEST, check_fit
from hepflow.train.data import EventData
from hepflow.train.folder import check_replaceable, config_hash, run_state
from hepflow.train.help import ALIASES
from hepflow.train.measures import of_an_epoch
from hepflow.train.module import Classifier
from hepflow.train.progress import FitProgress
from hepflow.train.record import RunRecord
from hepflow.train.table import EpochTable

SWITCHES = {"--overwrite", "--model.torch_compile"}
"""Options that mean true where no value follows."""
MAPPINGS = {"--data.balance", "--spark.conf"}
"""Options within which the user names things."""

HALF = {"16", "16-mixed"}
"""Precisions in whose place Lightning takes another one on a CPU."""

DEFAULTS = {
    "trainer.max_epochs": 50,
    "trainer.gradient_clip_val": 1.0,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_model_summary": False,
    "early_stopping.monitor": "val_loss",
    "early_stopping.patience": 15,
    "checkpoint.monitor": "val_loss",
    **{f"checkpoint.{name}": value for name, value in ONE_BEST.items()},
    "checkpoint.enable_version_counter": False,
}


class TrainCLI(LightningCLI):
    """LightningCLI with one run folder for everything, and errors in one line.

    Parameters
    ----------
    command : str
        ``fit``, ``validate``, ``test`` or ``predict``.
    args : sequence of str
        Its options.
    about : str, optional
        What it does.
    """

    prog = "hepflow train {command}"
    engine = "Lightning"
    progress: type[Callback] = FitProgress
    """How a person sees the training go on."""
    requeues = True
    """Under Slurm the process is a task of a job of its own, which can be put back into the queue."""

    def __init__(self, command: str, args: Sequence[str], about: str | None = None) -> None:
        self.command = command
        self.prog = self.prog.format(command=command)
        super().__init__(
            Classifier,
            EventData,
            save_config_callback=None,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={
                "exit_on_error": False,
                "allow_abbrev": False,
                "prog": self.prog,
                "usage": f"{self.prog} [options]",
                "description": about,
            },
            args=spelt_out(
                with_shipped(args), switches=SWITCHES, mappings=MAPPINGS, aliases=ALIASES
            ),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run folder, the checkpoint, and the two callbacks that people tune."""
        parser.add_class_arguments(TrainConfig)
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.groups["checkpoint"].title = "Which epoch is kept"  # type: ignore[index]  # Lightning's own is longer than a line
        parser.set_defaults(DEFAULTS)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("data.inputs", "model.inputs", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and say in one line what is wrong.

        Raises
        ------
        ConfigError
            An option is unknown or its value is not allowed.
        """
        self.config: Namespace = read(parser, args, self.checked)

    def checked(self, config: Namespace) -> Namespace:
        """Options, each of which is allowed, that go together too."""
        TrainConfig(
            **{field.name: config[field.name] for field in fields(TrainConfig)}
        )  # checks itself
        if not 0 <= (config.seed_everything or 0) < 2**32:
            raise ConfigError(
                f"seed_everything must be from 0 to {2**32 - 1}, got {config.seed_everything}"
            )
        if self.command == "fit":
            check_fit(config)
        return config

    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and find out what is in it."""
        config = self.config
        self.folder = config.output = config.output or RUNS / _name(config.get("config") or [])
        self.overwrite, config.overwrite = config.overwrite, False  # meant for this time
        store = EventStore.open(Path(config.data.store))
        self.provenance = store.spec.provenance
        checkpoint, config.ckpt_path = (
            config.ckpt_path,
            None,
        )  # whoever reads the file later wants the checkpoints of this run
        self.config_text = self.parser.dump(config)  # --config reads it back
        config.ckpt_path = checkpoint
        self.resolved = yaml.safe_load(self.config_text)
        if self.command == "fit" and checkpoint is not None:
            self.resolved["ckpt_path"] = str(checkpoint)
        self.config_hash = config_hash(self.resolved)
        self.state = run_state(self.folder, self.config_hash, self.provenance)
        config.checkpoint.dirpath = str(self.folder / CHECKPOINTS)
        if checkpoint is not None:
            self._check_checkpoint(Path(checkpoint))

    def _check_checkpoint(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(
                f"{path}: no checkpoint here. Name one by --ckpt-path, such as runs/hlf/checkpoints/{BEST}."
            )
        if (
            self.command == "fit"
            and self.state == "fresh"
            and path.resolve().is_relative_to(self.folder.resolve())
        ):
            raise ConfigError(
                f"--ckpt-path {path} lies in {self.folder}, which a training of this configuration would replace: give another --output"
            )

    def instantiate_classes(self) -> None:
        """Nothing is made where there is nothing to do."""
        if self.command != "fit" or self.state != "done":
            if self.config.threads:
                torch.set_num_threads(self.config.threads)
            try:
                super().instantiate_classes()
            except ValueError as error:
                if not str(error).startswith(
                    "Does not validate"
                ):  # jsonargparse's, when a class of the user's choice cannot be made
                    raise
                raise ConfigError(one_line(error)) from error
            self._check_parts()

    def _check_parts(self) -> None:
        """Say what does not go together before anything is written."""
        self._check_monitors()
        if self.config.ckpt_path is not None:
            content = read_checkpoint(Path(self.config.ckpt_path))
            self.model.require_fit(content, training=self.command == "fit")
            if self.command == "fit" and self.state == "fresh":
                self._check_start(content)
        if self.command == "fit":
            for split in ("train", "val"):
                self.datamodule.plan(
                    split, shuffle=split == "train", particles="particles" in self.model.net.reads
                )
            self.check_replaceable()

    def _check_start(self, checkpoint: dict[str, Any]) -> None:
        path, n_most = self.config.ckpt_path, self.config.trainer.max_epochs
        if "loops" not in checkpoint:  # checkpoint.save_weights_only
            raise ConfigError(
                f"{path}: holds the weights alone, without the optimizer that a training needs to go on; give its last.ckpt"
            )
        n_done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        if n_done >= n_most:
            raise ConfigError(
                f"{path}: has {n_done} epochs behind it; to go on from it, trainer.max_epochs must be more, got {n_most}"
            )

    def check_replaceable(self) -> None:
        """Refuse to begin where another training has left what it learnt, unless that is wished."""
        if self.state == "fresh" and not self.overwrite:
            check_replaceable(self.folder, self.resolved, self.provenance)

    def _check_monitors(self) -> None:
        known = of_an_epoch(self.model.net.inputs.classes)
        for callback in ("early_stopping", "checkpoint"):
            name, mode = self.config[callback].monitor, self.config[callback].mode
            if name in known and mode == "min" and not name.endswith("_loss"):
                raise ConfigError(
                    f"{callback}.monitor {name}: this would keep the worst epoch: give {spelt(f'{callback}.mode')} max"
                )
            if (
                name not in known and name is not None and not self.config.trainer.callbacks
            ):  # whose measures nobody knows yet
                raise ConfigError(
                    f"{callback}.monitor {name}: nothing of this name is measured.{nearest(name, known)} There are: {', '.join(known)}."
                )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with our callbacks and loggers; the user's own come on top."""
        source = {"config_hash": self.config_hash, "seed": self.config.seed_everything}
        store = Path(self.config.data.store).resolve()  # which finds it from any folder
        about = {
            **source,
            "store": str(store),
            "engine": self.engine,
            "began_with": self.resolved.get("ckpt_path"),
        }
        self.record = RunRecord(self.folder, self.state, self.config_text, about)
        self.writer = PredictionsWriter(self.folder, source, self.config.data.predict_split)
        config = self.config_init.trainer
        last = LastCheckpoint(self.folder / CHECKPOINTS, self.config.checkpoint_every_steps)
        callbacks = [Throughput(), self.record, self.writer, last, *(config.callbacks or [])]
        if config.enable_progress_bar is not False:
            callbacks.append(self.progress())
        if self.command == "fit" and self.requeues and slurm.in_a_job():
            callbacks.append(slurm.SlurmRequeue(self.folder / CHECKPOINTS))
        ours: dict[str, Any] = {
            "callbacks": callbacks,
            "logger": self._loggers(config.logger),
            "default_root_dir": str(self.folder),
        }
        plugins = config.plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins = [*plugins, WholeCheckpoints()]
        ours["plugins"] = [*plugins, *slurm.environment()]
        try:
            trainer = super().instantiate_trainer(**ours, **kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            chosen = {
                name: config[name]
                for name in ("accelerator", "devices", "num_nodes", "strategy", "precision")
            }
            asked = ", ".join(
                f"trainer.{name} {value}"
                for name, value in chosen.items()
                if value not in (None, "auto", 1)
            )
            raise ConfigError(
                f"{asked}: {one_line(error)} `hepflow doctor` says what this machine has."
                if asked
                else one_line(error)
            ) from error
        if isinstance(trainer.accelerator, CPUAccelerator) and str(config.precision) in HALF:
            raise ConfigError(
                f"trainer.precision {config.precision} is for GPUs; a CPU has 32-true and bf16-mixed"
            )
        launch.prepare(trainer)
        if isinstance(trainer.strategy, DDPStrategy):  # also where `auto` took it
            own = trainer.strategy._ddp_kwargs  # noqa: SLF001 - of a strategy that Lightning made it is the only way
            own.setdefault(
                "broadcast_buffers", False
            )  # they are statistics that never change: not sent before every step
            own.setdefault("gradient_as_bucket_view", True)
        # last.ckpt knows what the best checkpoint is by now: else a resumed run may replace it with a worse one
        trainer.callbacks.sort(key=lambda callback: isinstance(callback, LastCheckpoint))  # type: ignore[attr-defined]  # Lightning sets it
        return trainer

    def _loggers(self, configured: Any) -> list[Logger] | bool:
        if configured is False or self.command != "fit":
            return False
        own: list[Logger] = [EpochTable(self.folder / HISTORY, go_on=self.state == "resume")]
        if configured in (None, True):
            return [
                TensorBoardLogger(str(self.folder), name=TENSORBOARD, version=self.config_hash),
                *own,
            ]
        return [*(configured if isinstance(configured, list) else [configured]), *own]

    @property
    def best(self) -> Path:
        """Checkpoint to validate, test or predict with.

        Raises
        ------
        DataError
            There is none.
        """
        named = (
            self.config.ckpt_path if self.command != "fit" else None
        )  # a training only begins with it
        path: Path = named or self.folder / CHECKPOINTS / BEST
        if not path.is_file():
            raise DataError(
                f"{path}: no checkpoint here. Train one with `hepflow train fit --output {self.folder}`, or name one by --ckpt-path."
            )
        return path


def _name(configs: Sequence[Any]) -> str:
    """Name of the run: of the last configuration file that chooses a net, or else of the net that is trained without one."""
    named = [
        path
        for path in (Path(str(config)) for config in configs if config is not None)
        if _chooses_net(path)
    ]
    return named[-1].stem if named else "hlf"


def _chooses_net(path: Path) -> bool:
    content = yaml.safe_load(path.read_text())
    return isinstance(content, dict) and "net" in (content.get("model") or {})
