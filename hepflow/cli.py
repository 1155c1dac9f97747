"""The command table: which command runs which stage. The only place with lazy imports, exit codes and logging set-up."""

import errno
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from hepflow import config, config_score, config_tools
from hepflow.errors import ConfigError, HepflowError, MissingDependency, one_line
from hepflow.terminal import MESSAGES

USER_ERROR, INTERRUPTED = 2, 130
URL = re.compile(r"[A-Za-z][\w+.-]+:/")
"""As a path has it: with one of its slashes."""
OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EEXIST, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}


@dataclass(frozen=True)
class Command:
    """A stage: its configuration, where it runs, and what it needs."""

    config: type
    run: str
    """``module:function``, imported when the command is called."""
    extra: str
    """The extra of the package that installs what it imports."""
    about: str = ""
    """What it does; default: the configuration's docstring."""
    topic: str = ""
    """Where it runs, with the extra ``kafka``, if its input is a topic."""

    @property
    def summary(self) -> str:
        """One sentence."""
        return (self.about or self.config.__doc__ or "").split(". ")[0].splitlines()[0].rstrip(".")


COMMANDS = {
    "simulate": Command(config.SimulateConfig, "hepflow.simulate.job:run", "simulate"),
    "ingest": Command(config.IngestConfig, "hepflow.ingest.job:run", "ingest"),
    "features": Command(config.FeaturesConfig, "hepflow.features:run", "features"),
    "evaluate": Command(config.EvaluateConfig, "hepflow.evaluate.job:run", "evaluate"),
    "tune": Command(config_tools.TuneConfig, "hepflow.train.tune:run", "tune"),
    "trees": Command(config_tools.TreesConfig, "hepflow.evaluate.trees:run", "evaluate"),
    "forest": Command(config_tools.ForestConfig, "hepflow.evaluate.forest:run", "evaluate,ingest"),
    "export": Command(config_tools.ExportConfig, "hepflow.models.bundle:run", "train"),
    "score": Command(config_score.ScoreConfig, "hepflow.score.job:run", "score", topic="hepflow.score.structured:run"),
    "replay": Command(config_score.ReplayConfig, "hepflow.score.replay:run", "kafka"),
    "store check": Command(config_tools.StoreConfig, "hepflow.store_tools:check", "features", "Verify every part of a feature store"),
    "store info": Command(config_tools.StoreConfig, "hepflow.store_tools:info", "features", "Show what a feature store holds"),
    "import-cern": Command(config_tools.ImportConfig, "hepflow.import_cern:run", "features"),
    "bench": Command(config_tools.BenchConfig, "hepflow.bench.job:run", "bench"),
    "demo": Command(config_tools.DemoConfig, "hepflow.demo:run", "all"),
    "doctor": Command(config_tools.DoctorConfig, "hepflow.doctor:run", "all"),
}
TRAIN_SUBCOMMANDS = {
    "fit": "Train a net on the store's training split, then predict its test split",
    "validate": "Loss, accuracy and AUC of a checkpoint on the validation split",
    "test": "The same on the test split",
    "predict": "Write a checkpoint's predictions on the test split",
    "find-lr": "Try learning rates on a copy of the net, and name a good one",
}
SPARK_TRAIN = "The training of `train fit` on CPU inside Spark, as one barrier job"
COMPLETION = "Print a script by which bash or zsh completes commands, options and values"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 a mistake of the user's in one line, 130 interrupted, 1 a bug with its traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _set_up_logging()
    try:
        _dispatch(arguments)
    except HepflowError as error:
        _say(f"error: {error}")
        sys.exit(USER_ERROR)
    except BrokenPipeError:  # whoever read along, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        where = error.filename or "the output"
        _say(f"error: {where}: {error.strerror}. Give another --output, or mend the permissions or the space there, and run it again.")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning makes a failure of it
            _interrupted()
        raise
    sys.exit(0)


def _interrupted() -> NoReturn:
    _say("interrupted; run the same command again: what is finished is not done twice")
    sys.exit(INTERRUPTED)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        _print_help()
        return
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name == "--version":
        Console().print(f"hepflow {version('hepflow')}")
    elif name == "train":
        _train(rest)
    elif name == "spark-train":
        _spark_train(rest)
    elif name == "completion":
        _completion(rest)
    elif name in COMMANDS:
        command = COMMANDS[name]
        stage_config = parse(name, rest)
        if command.topic and stage_config.reads_topic:
            _load(command.topic, "kafka")(stage_config)
        else:
            _load(command.run, command.extra)(stage_config)
    else:
        msg = f"no command {name!r}. There are: {', '.join([*COMMANDS, 'train', 'spark-train', 'completion'])}. See `hepflow --help`."
        raise ConfigError(msg)


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The configuration of a command from its arguments and the files they name.

    Raises
    ------
    ConfigError
        An option is unknown or its value is not allowed.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    command = COMMANDS[name]
    parser = ArgumentParser(prog=f"hepflow {name}", description=command.about or command.config.__doc__, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of these options; options after it win.")
    parser.add_class_arguments(command.config)
    try:
        namespace = parser.instantiate(parser.parse_args(_spelt_out(command.config, config.with_shipped(arguments))))
    except ArgumentError as error:
        msg = f"{one_line(error)}. See `hepflow {name} --help`."
        raise ConfigError(msg) from error
    values = dict(vars(namespace))
    values.pop("config", None)
    for option, value in values.items():
        if isinstance(value, Path) and URL.match(str(value)):
            msg = f"--{option} {value} is no path of a mounted file system: URLs are for the input of ingest, score and replay alone"
            raise ConfigError(msg)
    return command.config(**values)


def _spelt_out(stage: type, arguments: Sequence[str]) -> list[str]:
    """``--some-flag`` as ``--some_flag=true``: dashes are as good as underscores, and a switch needs no value."""
    switches = {f"--{field.name}" for field in fields(stage) if field.type is bool}
    spelt = []
    for argument, after in pairwise([*arguments, "--"]):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        alone = name in switches and not equals and after.startswith("-")
        spelt.append(f"{name}=true" if alone else name + equals + value)
    return spelt


def _train(arguments: list[str]) -> None:
    if not arguments or arguments[0] in {"-h", "--help"}:
        _print_commands("hepflow train COMMAND [options]", TRAIN_SUBCOMMANDS)
    elif arguments[0] not in TRAIN_SUBCOMMANDS:
        msg = f"no command 'train {arguments[0]}'. There are: {', '.join(TRAIN_SUBCOMMANDS)}."
        raise ConfigError(msg)
    elif {"-h", "--help"} & set(arguments):
        _load("hepflow.train.help:print_help", "train")(arguments[0], TRAIN_SUBCOMMANDS[arguments[0]])
    else:
        _load("hepflow.train.cli:main", "train")(arguments)


def _spark_train(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        _load("hepflow.train.help:print_help", "train")("fit", SPARK_TRAIN, in_spark=True)
    else:
        _load("hepflow.train.spark_run:main", "train,ingest")(arguments)


def _completion(arguments: list[str]) -> None:
    completion = import_module("hepflow.completion")
    if len(arguments) == 1 and arguments[0] in completion.SHELLS:
        trainings = {f"train {name}": about for name, about in TRAIN_SUBCOMMANDS.items()} | {"spark-train": SPARK_TRAIN}
        print(completion.script(arguments[0], {name: (command.config, command.summary) for name, command in COMMANDS.items()}, trainings))
    elif not arguments or {"-h", "--help"} & set(arguments):
        lines = {shell: f"put into ~/.{shell}rc: {line}" for shell, line in completion.SHELLS.items()}
        _print_commands("hepflow completion SHELL", lines)
    else:
        msg = f"no shell {' '.join(arguments)!r}. There are: {', '.join(completion.SHELLS)}. See `hepflow completion --help`."
        raise ConfigError(msg)


def _load(target: str, extra: str) -> Any:
    module, function = target.split(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hepflow"):
            raise
        msg = f"this command needs the package {error.name!r}: pip install 'hepflow[{extra}]'"
        raise MissingDependency(msg) from error


def _print_help() -> None:
    rows = {name: command.summary for name, command in COMMANDS.items()}
    rows["train"] = f"Train classifiers with PyTorch Lightning ({', '.join(TRAIN_SUBCOMMANDS)})"
    rows |= {"spark-train": SPARK_TRAIN, "completion": COMPLETION}
    order = ["simulate", "ingest", "features", "train"]
    _print_commands("hepflow COMMAND [options]", {name: rows[name] for name in [*order, *rows]})


def _print_commands(usage: str, rows: dict[str, str]) -> None:
    console = Console()
    console.print(f"usage: {usage}\n", markup=False, highlight=False)
    table = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        table.add_row(f"  {name}", text)
    console.print(table)
    console.print("\nEvery command takes --help, --config FILE and --print_config.", highlight=False)


def _set_up_logging() -> None:
    """Messages of hepflow at INFO, of everything else at WARNING; plain lines where nobody watches."""
    handler: logging.Handler = logging.StreamHandler()
    if MESSAGES.is_terminal:
        handler = RichHandler(console=MESSAGES, show_time=False, show_level=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("hepflow").setLevel(logging.INFO)


def _say(message: str) -> None:
    print(f"hepflow: {message}", file=sys.stderr)
