"""The options of ``hepflow train``: Lightning's parser over the data, the net and the trainer."""

import os
from collections.abc import Sequence
from dataclasses import fields
from functools import reduce
from operator import or_
from pathlib import Path
from pydoc import locate
from typing import Any, get_args

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from hepflow.config.arguments import add_fields, add_stores, configure_stores, read, spelt_out
from hepflow.config.secrecy import WithoutSecrets
from hepflow.config.shipped import with_shipped
from hepflow.config.stages import RUNS, TrainConfig
from hepflow.config.train import MAX_EPOCHS
from hepflow.data.runs import BEST, CHECKPOINTS, HISTORY, TENSORBOARD
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError, one_line
from hepflow.models.export import read_checkpoint
from hepflow.system import processes
from hepflow.system.places import place
from hepflow.system.remote import is_remote
from hepflow.system.secret import resolved
from hepflow.system.store_options import apply_to_all
from hepflow.train import callbacks, slurm
from hepflow.train.checks import ONE_BEST, check_fit, check_monitors, check_start
from hepflow.train.data import EventData
from hepflow.train.folder import RunPlan
from hepflow.train.help import ALIASES, SWITCHES
from hepflow.train.module import Classifier
from hepflow.train.progress import FitProgress
from hepflow.train.ranks import keep_to_themselves
from hepflow.train.record import EpochTable, RunRecord
from hepflow.train.tensorboard import CopiedTensorBoard

MAPPINGS = {"--data.balance", "--spark.conf", "--storage"}  # options with names of the user's
_TYPE = "_typehint"  # of jsonargparse's options
DEFAULTS = {
    "trainer.max_epochs": MAX_EPOCHS,
    "trainer.gradient_clip_val": 1.0,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_model_summary": False,
    "early_stopping.monitor": "val_loss",
    "early_stopping.patience": 15,
    "checkpoint.monitor": "val_loss",
    **{f"checkpoint.{name}": value for name, value in ONE_BEST.items()},
    "checkpoint.enable_version_counter": False,
}


class _Parser(WithoutSecrets, LightningArgumentParser):
    pass


def _whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Let a 1 be a number of batches, and not 1.0, a fraction.

    jsonargparse tries the types of a union in their order. `typing` keeps one object for
    ``Union[int, float]`` and ``Union[float, int]``, so the order is that of whichever library came
    first; ``int | float`` is always a new object.
    """
    for action in parser._actions:  # noqa: SLF001 - the types are nowhere else
        kinds = get_args(getattr(action, _TYPE, None))
        if int in kinds and float in kinds:
            others = (kind for kind in kinds if kind is not int)
            setattr(action, _TYPE, reduce(or_, others, int))


class TrainCLI(LightningCLI):
    """Parses the options of a command, and makes the net, the data and the trainer from them.

    ``config`` holds the options, ``run`` the settled facts of the training. If a ``fit`` is done
    already, there are no ``model``, ``datamodule``, ``trainer``, ``record`` and ``writer``.
    """

    prog = "hepflow train {command}"
    engine = "Lightning"
    progress: type[Callback] = FitProgress
    requeues = True  # under Slurm the process is a task of its own job, which can be requeued

    def __init__(self, command: str, args: Sequence[str], about: str | None = None) -> None:
        self.command = command
        self.prog = self.prog.format(command=command)
        words: Any = {"switches": SWITCHES, "mappings": MAPPINGS, "aliases": ALIASES}
        shown: Any = {"prog": self.prog, "usage": f"{self.prog} [options]", "description": about}
        shown |= {"exit_on_error": False, "allow_abbrev": False}
        how: Any = {"save_config_callback": None, "seed_everything_default": 1, "run": False}
        how |= {"auto_configure_optimizers": False, "load_from_checkpoint_support": False}
        how["args"] = spelt_out(with_shipped(args), **words)
        how |= {"parser_class": _Parser}
        super().__init__(Classifier, EventData, parser_kwargs=shown, **how)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, the checkpoint, and the two callbacks that people tune."""
        add_stores(parser)
        add_fields(parser, TrainConfig)
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(callbacks.BestCheckpoint, "checkpoint")
        group = parser.groups["checkpoint"]  # type: ignore[index]
        group.title = "The epoch to keep"  # Lightning's title is longer than a line
        parser.set_defaults(DEFAULTS)
        _whole_numbers_first(parser)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("data.inputs", "model.inputs", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with mistakes in one line."""
        self.config: Namespace = read(parser, args, self.checked)

    def checked(self, config: Namespace) -> Namespace:
        """Return the options if they are allowed together."""
        TrainConfig(**{field.name: config[field.name] for field in fields(TrainConfig)})
        if not 0 <= (seed := config.seed_everything or 0) < 2**32:
            raise ConfigError(f"seed_everything must be from 0 to {2**32 - 1}, got {seed}")
        if self.command == "fit":
            check_fit(config)
        return config

    def before_instantiate_classes(self) -> None:
        """Settle the facts of the run, and read what its folder holds."""
        config = self.config
        configure_stores(config)
        start, overwrite = config.ckpt_path, config.overwrite
        if start is not None and not place(start).is_file():
            advice = f"Give one to --ckpt-path, such as runs/hlf/checkpoints/{BEST}."
            raise DataError(f"{start}: no checkpoint here. {advice}")
        config.output = config.output or RUNS / _name(config.get("config") or [])
        apply_to_all(str(config.output))
        provenance = EventStore.open(place(config.data.store)).spec.provenance
        # `--config config.yaml` later means this run: with its own checkpoints, not to be replaced.
        config.ckpt_path, config.overwrite = None, False
        text = self.parser.dump(config)
        net = config.model.net
        if isinstance(net, Namespace) and net.class_path.startswith("hepflow."):
            # jsonargparse writes the shortest path, through the public API. Files and hashes keep
            # the path of the module.
            own: Any = locate(net.class_path)
            full = f"class_path: {own.__module__}.{own.__qualname__}"
            text = text.replace(f"class_path: {net.class_path}\n", f"{full}\n")
        config.ckpt_path = start
        resolved = yaml.safe_load(text)
        if self.command == "fit" and start is not None:
            resolved["ckpt_path"] = str(start)
        self.run = RunPlan(config.output, resolved, provenance, text, overwrite)
        config.checkpoint.dirpath = str(config.output / CHECKPOINTS)

    def instantiate_classes(self) -> None:
        """Make net, data and trainer, unless there is nothing to do, and check them together."""
        if self.command == "fit" and self.run.state == "done":
            return
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        written = self.config  # into config.yaml
        self.config = written.clone()
        self.config.trainer = _with_secrets(written.trainer, "trainer")
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse's, if a class of the user's choice cannot be made
            if not str(error).startswith("Does not validate"):
                raise
            raise ConfigError(one_line(error)) from error
        finally:
            self.config = written
        model, start = self.model, self.config.ckpt_path
        check_monitors(self.config, model.net.inputs.classes)
        if start is not None:
            content = read_checkpoint(place(start))
            model.require_fit(content, training=self.command == "fit")
            if self.command == "fit" and self.run.state == "fresh":
                check_start(place(start), content, self.run, self.config.trainer.max_epochs)
        if self.command == "fit":
            particles = "particles" in model.net.reads
            for split in ("train", "val"):  # which refuses a batch size or a balance
                self.datamodule.plan(split, shuffle=split == "train", particles=particles)
            self.run.check_replaceable()

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        """Make the trainer with our callbacks and loggers; the user's own come on top."""
        config, folder = self.config_init.trainer, self.run.folder
        seed = self.config.seed_everything
        about = {"seed": seed, "store": str(place(self.config.data.store).resolve())}
        about |= {"engine": self.engine, "began_with": self.run.resolved.get("ckpt_path")}
        self.record = RunRecord(self.run, about)
        source = {"config_hash": self.run.config_hash, "seed": seed}
        self.writer = callbacks.PredictionsWriter(folder, source, self.config.data.predict_split)
        last = callbacks.LastCheckpoint(folder / CHECKPOINTS, self.config.checkpoint_every_steps)
        called = [callbacks.Throughput(), self.record, self.writer, last, *(config.callbacks or [])]
        if config.enable_progress_bar is not False:
            called.append(self.progress())
        if self.command == "fit" and self.requeues and slurm.in_a_job():
            called.append(slurm.SlurmRequeue(folder / CHECKPOINTS))
        plugins = config.plugins or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), *slurm.environment()]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(callbacks.WholeCheckpoints())
        options |= {"callbacks": called, "plugins": plugins, "default_root_dir": str(folder)}
        options["logger"] = self._loggers(config.logger)
        try:
            trainer = super().instantiate_trainer(**options)
        except (MisconfigurationException, ValueError, TypeError) as error:
            names = ("accelerator", "devices", "num_nodes", "strategy", "precision")
            given = [name for name in names if config[name] not in (None, "auto", 1)]
            if not given:
                raise ConfigError(one_line(error)) from error
            asked = ", ".join(f"trainer.{name} {config[name]}" for name in given)
            hint = "`hepflow doctor` shows what this machine has."
            raise ConfigError(f"{asked}: {one_line(error)} {hint}") from error
        _fit_to_machine(trainer, str(config.precision))
        keep_to_themselves(trainer)
        if isinstance(trainer.strategy, DDPStrategy):  # also one that `auto` chose
            # Lightning has no public way to change a strategy that it chose itself.
            own = trainer.strategy._ddp_kwargs  # noqa: SLF001
            # Buffers are statistics that never change: do not send them before every step.
            own.setdefault("broadcast_buffers", False)
            own.setdefault("gradient_as_bucket_view", True)
        # last.ckpt must contain the best score so far, or a resumed run may keep a worse epoch: so
        # it is written after the other callbacks.
        ordered: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        ordered.sort(key=lambda callback: isinstance(callback, callbacks.LastCheckpoint))
        return trainer

    def _loggers(self, configured: Any) -> list[Logger] | bool:
        if configured is False or self.command != "fit":
            return False
        run = self.run
        if configured in (None, True):
            if is_remote(run.folder):
                configured = CopiedTensorBoard(run.folder, run.config_hash)
            else:
                configured = TensorBoardLogger(str(run.folder), TENSORBOARD, run.config_hash)
        own = EpochTable(run.folder / HISTORY, go_on=run.state == "resume")
        return [*(configured if isinstance(configured, list) else [configured]), own]

    @property
    def best(self) -> Path:
        """Checkpoint to validate, test or predict with."""
        named = self.config.ckpt_path if self.command != "fit" else None  # else it is the start
        path: Path = named or self.run.folder / CHECKPOINTS / BEST
        if not path.is_file():
            advice = f"Train one with `hepflow train fit --output {self.run.folder}`"
            raise DataError(f"{path}: no checkpoint here. {advice}, or give one to --ckpt-path.")
        return path


def _with_secrets(value: Any, where: str) -> Any:
    """Return options in which loggers and callbacks get secrets, and not references to them."""
    if isinstance(value, list):
        return [_with_secrets(one, where) for one in value]
    if not isinstance(value, Namespace):
        return value
    found = value.clone()
    for name, one in resolved(vars(value), where).items():
        found[name] = _with_secrets(one, f"{where}.{name}")
    return found


def _fit_to_machine(trainer: pl.Trainer, precision: str) -> None:
    """Refuse what a CPU lacks, and name this process to the ones that it starts."""
    on_cpu = isinstance(trainer.accelerator, CPUAccelerator)
    cores, devices = processes.cores(), trainer.num_devices
    if on_cpu and precision in {"16", "16-mixed"}:  # Lightning would take another one
        why = "is for GPUs; a CPU has 32-true and bf16-mixed"
        raise ConfigError(f"trainer.precision {precision} {why}")
    if trainer.strategy.launcher is None:  # a single process
        return
    if on_cpu and devices > cores:
        why = f"asks for more processes than the {cores} cores that hepflow may use here"
        raise ConfigError(f"trainer.devices {devices} {why}")
    os.environ[processes.LAUNCHER] = str(os.getpid())


def _name(configs: Sequence[Any]) -> str:
    """Return the name of the last configuration file that chooses a net, or ``hlf``."""
    name = "hlf"
    for path in (Path(str(config)) for config in configs if config is not None):
        content = yaml.safe_load(path.read_text())
        if isinstance(content, dict) and "net" in (content.get("model") or {}):
            name = path.stem
    return name
