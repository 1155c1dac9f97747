"""``hepflow train fit|validate|test|predict``: Lightning's own parser over the data module, the classifier and the trainer."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.tuner.tuning import Tuner
from pytorch_lightning.utilities import rank_zero_only

from hepflow.arguments import read, spelt_out
from hepflow.config import RUNS, TrainConfig
from hepflow.config_tools import ExportConfig
from hepflow.errors import ConfigError, DataError, one_line
from hepflow.models.bundle import run as export
from hepflow.shipped import with_shipped
from hepflow.store import EventStore
from hepflow.train import slurm
from hepflow.train.callbacks import LAST, LastCheckpoint, PredictionsWriter, Throughput
from hepflow.train.data import EventData
from hepflow.train.help import ALIASES
from hepflow.train.module import Classifier
from hepflow.train.progress import FitProgress
from hepflow.train.record import BEST, CHECKPOINTS, METRICS_FILE, TENSORBOARD, RunRecord, config_hash, run_state
from hepflow.train.table import EpochTable

log = logging.getLogger(__name__)

LR_FILE, LR_STEPS = "lr_find.csv", 100

NOT_FOR_USERS = (
    ".*smaller than the logging interval.*",  # metrics.csv has a row an epoch in any case
    ".*`srun` command is available.*",  # trying things out on a login node is fine
    ".*sync_dist=True.*",  # what is logged is the same on every rank, or the first's alone
    ".*exists and is not empty.*",  # where a training goes on
    ".*LeafSpec.*",  # between Lightning and torch
    ".*`broadcast_buffers` is deprecated.*",  # what torch would have instead is not in the oldest one that we allow
)

DEFAULTS = {
    "trainer.max_epochs": 50,
    "trainer.gradient_clip_val": 1.0,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_model_summary": False,
    "early_stopping.monitor": "val_loss",
    "early_stopping.patience": 15,
    "checkpoint.monitor": "val_loss",
    "checkpoint.filename": Path(BEST).stem,
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
    """

    prog = "hepflow train {command}"
    engine = "Lightning"
    progress: type[Callback] = FitProgress
    """How a person sees the training go on."""
    requeues = True
    """Under Slurm the process is a task of a job of its own, which can be put back into the queue."""

    def __init__(self, command: str, args: Sequence[str]) -> None:
        self.command = command
        self.prog = self.prog.format(command=command)
        super().__init__(
            Classifier,
            EventData,
            save_config_callback=None,
            seed_everything_default=1,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, "prog": self.prog, "description": COMMANDS[command].__doc__},
            args=spelt_out(with_shipped(args), aliases=ALIASES),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run folder, the checkpoint, and the two callbacks that people tune."""
        parser.add_class_arguments(TrainConfig)
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
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
        self.config: Namespace = read(parser, args)

    def before_instantiate_classes(self) -> None:
        """Settle the run folder, and find out what is in it."""
        config = self.config
        self.folder = config.output = config.output or RUNS / _name(config.get("config") or [])
        store = EventStore.open(Path(config.data.store))
        self.provenance = store.spec.provenance
        self.config_text = self.parser.dump(config)  # --config reads it back
        self.config_hash = config_hash(yaml.safe_load(self.config_text))
        self.state = run_state(self.folder, self.config_hash, self.provenance)
        config.checkpoint.dirpath = str(self.folder / CHECKPOINTS)
        if config.ckpt_path is not None:
            self._check_checkpoint(Path(config.ckpt_path))

    def _check_checkpoint(self, path: Path) -> None:
        if not path.is_file():
            msg = f"{path}: no checkpoint here. Name one by --ckpt_path, such as runs/hlf/checkpoints/{BEST}."
            raise DataError(msg)
        if self.command == "fit" and self.state == "fresh" and path.resolve().is_relative_to(self.folder.resolve()):
            msg = f"--ckpt_path {path} lies in {self.folder}, which a training of this configuration would replace: give another --output"
            raise ConfigError(msg)

    def instantiate_classes(self) -> None:
        """Nothing is made where there is nothing to do."""
        if self.command != "fit" or self.state != "done":
            if self.config.threads:
                torch.set_num_threads(self.config.threads)
            try:
                super().instantiate_classes()
            except ValueError as error:
                if not str(error).startswith("Does not validate"):  # jsonargparse's, when a class of the user's choice cannot be made
                    raise
                raise ConfigError(one_line(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with our callbacks and loggers; the user's own come on top."""
        source = {"config_hash": self.config_hash, "seed": self.config.seed_everything}
        about = {**source, "store": str(self.config.data.store), "engine": self.engine}
        self.record = RunRecord(self.folder, self.state, self.config_text, about)
        self.writer = PredictionsWriter(self.folder, source, self.config.data.predict_split)
        config = self.config_init.trainer
        last = LastCheckpoint(self.folder / CHECKPOINTS, self.config.checkpoint_every_steps)
        callbacks = [Throughput(), self.record, self.writer, last, *(config.callbacks or [])]
        if config.enable_progress_bar is not False:
            callbacks.append(self.progress())
        if self.command == "fit" and self.requeues and slurm.in_a_job():
            callbacks.append(slurm.SlurmRequeue(self.folder / CHECKPOINTS))
        ours: dict[str, Any] = {"callbacks": callbacks, "logger": self._loggers(config.logger), "default_root_dir": str(self.folder)}
        plugins = config.plugins or []
        ours["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), *slurm.environment()] or None
        trainer = super().instantiate_trainer(**ours, **kwargs)
        if isinstance(trainer.strategy, DDPStrategy):  # also where `auto` took it
            own = trainer.strategy._ddp_kwargs  # noqa: SLF001 - of a strategy that Lightning made it is the only way
            own.setdefault("broadcast_buffers", False)  # they are statistics that never change: not sent before every step
            own.setdefault("gradient_as_bucket_view", True)
        # last.ckpt knows what the best checkpoint is by now: else a resumed run may replace it with a worse one
        trainer.callbacks.sort(key=lambda callback: isinstance(callback, LastCheckpoint))  # type: ignore[attr-defined]  # Lightning sets it
        return trainer

    def _loggers(self, configured: Any) -> list[Logger] | bool:
        if configured is False or self.command != "fit":
            return False
        own: list[Logger] = [EpochTable(self.folder / METRICS_FILE, go_on=self.state == "resume")]
        if configured in (None, True):
            return [TensorBoardLogger(str(self.folder), name=TENSORBOARD, version=self.config_hash), *own]
        return [*(configured if isinstance(configured, list) else [configured]), *own]

    @property
    def best(self) -> Path:
        """Checkpoint to validate, test or predict with.

        Raises
        ------
        DataError
            There is none.
        """
        path: Path = self.config.ckpt_path or self.folder / CHECKPOINTS / BEST
        if not path.is_file():
            msg = f"{path}: no checkpoint here. Train one with `hepflow train fit --output {self.folder}`, or name one by --ckpt_path."
            raise DataError(msg)
        return path


def fit(cli: TrainCLI) -> None:
    """Train a net on the store's training split, then predict its test split and export it to ONNX."""
    if cli.state == "done":
        log.info("up to date: %s (same configuration, same store)", cli.folder)
        return
    last = cli.config.ckpt_path or (cli.folder / CHECKPOINTS / LAST if cli.state == "resume" else None)
    if last:
        log.info("going on from %s", last)
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last, weights_only=True)
    if cli.trainer.interrupted:
        raise KeyboardInterrupt
    (metrics,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=cli.best, verbose=False, weights_only=True)
    if cli.trainer.is_global_zero:
        _export(cli)
    cli.record.write(cli.trainer, cli.model, finished=True, test=metrics)
    log.info("trained %s: test %s; run folder %s", cli.folder.name, _words(metrics), cli.folder)


def _export(cli: TrainCLI) -> None:
    """Write model.onnx; a net of somebody's own that ONNX has no words for goes without."""
    try:
        export(ExportConfig(run=cli.folder, input=Path(cli.config.data.store)))
    except (DataError, RuntimeError) as error:
        log.warning("%s: no model.onnx: %s", cli.folder, one_line(error))


def validate(cli: TrainCLI) -> None:
    """Loss, accuracy and AUC of a checkpoint on the validation split."""
    (metrics,) = cli.trainer.validate(cli.model, cli.datamodule, ckpt_path=cli.best, verbose=False, weights_only=True)
    log.info("%s: %s", cli.best, _words(metrics))


def test(cli: TrainCLI) -> None:
    """Loss, accuracy and AUC of a checkpoint on the test split; its predictions are written."""
    (metrics,) = cli.trainer.test(cli.model, cli.datamodule, ckpt_path=cli.best, verbose=False, weights_only=True)
    log.info("%s: %s; predictions in %s", cli.best, _words(metrics), cli.writer.path)


def predict(cli: TrainCLI) -> None:
    """Write a checkpoint's predictions on a split, see --data.predict_split."""
    cli.trainer.predict(cli.model, cli.datamodule, ckpt_path=cli.best, return_predictions=False, weights_only=True)
    log.info("wrote predictions of %s to %s", cli.best, cli.writer.path)


def find_lr(cli: TrainCLI) -> None:
    """Try learning rates from tiny to huge on a copy of the net, and name the one where the loss falls fastest."""
    ours: dict[str, Any] = {name: cli.config.trainer[name] for name in ("accelerator", "precision", "gradient_clip_val")}
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    tuner = Tuner(pl.Trainer(devices=1, enable_progress_bar=cli.config.trainer.enable_progress_bar, **ours, **quiet))
    found = tuner.lr_find(cli.model, cli.datamodule, min_lr=1e-5, max_lr=1.0, num_training=LR_STEPS, update_attr=False)
    assert found is not None  # only a fast_dev_run finds none
    path = cli.folder / LR_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(found.results["lr"], found.results["loss"], strict=True)
    path.write_text("".join(["lr,loss\n", *(f"{lr:.6g},{loss:.6g}\n" for lr, loss in rows)]))
    suggestion = found.suggestion()
    if suggestion is None:
        msg = f"the loss never fell, see {path}: look at the data, or at --data.batch_size"
        raise DataError(msg)
    log.info("the loss falls fastest near --model.lr %.2g; losses by learning rate in %s", suggestion, path)


COMMANDS: dict[str, Callable[[TrainCLI], None]] = {
    "fit": fit,
    "validate": validate,
    "test": test,
    "predict": predict,
    "find-lr": find_lr,
}


def main(args: Sequence[str]) -> None:
    """Run a command with its options.

    Raises
    ------
    HepflowError
        A mistake of the user's.
    """
    command, *options = args
    with prepared():
        COMMANDS[command](TrainCLI(command, options))


@contextmanager
def prepared() -> Iterator[None]:
    """A process and a thread ready to train: only what a person can act on is said, and arithmetic is fast."""
    for noisy in ("pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for told in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", told)
    if rank_zero_only.rank:  # type: ignore[attr-defined]  # Lightning sets it; the first process speaks for all
        logging.getLogger("hepflow").setLevel(logging.WARNING)
    torch.set_flush_denormal(True)  # gradients fade into denormal numbers, with which a CPU is many times slower
    try:
        yield
    finally:
        torch.set_flush_denormal(False)  # whoever called from Python counts on IEEE arithmetic


def _name(configs: Sequence[Any]) -> str:
    """Name of the run: of the last configuration file that chooses a net, or else of the net that is trained without one."""
    named = [path for path in (Path(str(config)) for config in configs if config is not None) if _chooses_net(path)]
    return named[-1].stem if named else "hlf"


def _chooses_net(path: Path) -> bool:
    content = yaml.safe_load(path.read_text())
    return isinstance(content, dict) and "net" in (content.get("model") or {})


def _words(metrics: Any) -> str:
    return ", ".join(f"{name.split('_', 1)[1]} {value:.4f}" for name, value in metrics.items())
