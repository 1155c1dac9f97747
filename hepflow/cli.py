"""The command table: which command runs which stage. The only place with lazy imports, exit codes and logging set-up."""

import logging
import os
import re
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, get_origin

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from rich.console import Console
from rich.table import Table

from hepflow.config import score as config_score
from hepflow.config import stages as config
from hepflow.config import tools as config_tools
from hepflow.config.arguments import nearest, read, spelt_out
from hepflow.config.options import HELP, Groups, groups_of, mappings_of, print_help, spelt
from hepflow.config.shipped import with_shipped
from hepflow.errors import ConfigError, HepflowError, MissingDependency
from hepflow.system.files import OF_THE_DISK
from hepflow.system.terminal import MESSAGES, Messages

USER_ERROR, INTERRUPTED = 2, 130
RANKS = ("LOCAL_RANK", "SLURM_PROCID")
"""By which a process of several that Ctrl-C reaches knows whether it is the first one, which speaks for all."""
URL = re.compile(r"[A-Za-z][\w+.-]+:/")
"""As a path has it: with one of its slashes."""


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
    "features": Command(config.FeaturesConfig, "hepflow.features.job:run", "features"),
    "evaluate": Command(config.EvaluateConfig, "hepflow.evaluate.job:run", "evaluate"),
    "tune": Command(config_tools.TuneConfig, "hepflow.train.tune.job:run", "tune"),
    "trees": Command(config_tools.TreesConfig, "hepflow.train.trees.boosted:run", "evaluate"),
    "forest": Command(
        config_tools.ForestConfig, "hepflow.train.trees.forest:run", "evaluate,ingest"
    ),
    "export": Command(config_tools.ExportConfig, "hepflow.models.export:run", "train"),
    "score": Command(
        config_score.ScoreConfig,
        "hepflow.score.job:run",
        "score",
        topic="hepflow.score.kafka.job:run",
    ),
    "replay": Command(config_score.ReplayConfig, "hepflow.score.kafka.replay:run", "kafka"),
    "store check": Command(
        config_tools.StoreConfig,
        "hepflow.tools.store:check",
        "features",
        "Verify every part of a feature store",
    ),
    "store info": Command(
        config_tools.StoreConfig,
        "hepflow.tools.store:info",
        "features",
        "Show what a feature store holds",
    ),
    "import-cern": Command(
        config_tools.ImportConfig, "hepflow.features.import_cern:run", "features"
    ),
    "bench": Command(config_tools.BenchConfig, "hepflow_bench.job:run", "bench"),
    "demo": Command(config_tools.DemoConfig, "hepflow.tools.demo:run", "all"),
    "doctor": Command(config_tools.DoctorConfig, "hepflow.tools.doctor:run", "all"),
}
TRAIN_SUBCOMMANDS = {
    "fit": "Train a net on the store's training split, then predict its test split",
    "validate": "Loss, accuracy and AUC of a checkpoint on the validation split",
    "test": "The same on the test split",
    "predict": "Write a checkpoint's predictions on the test split",
    "find-lr": "Try learning rates on a copy of the net, and name a good one",
}
TRAININGS = {f"train {name}": about for name, about in TRAIN_SUBCOMMANDS.items()} | {
    "spark-train": "The training of `train fit` on CPU inside Spark, as one barrier job"
}
GROUPS = {"train": "Train classifiers with PyTorch Lightning", "store": "Look into a feature store"}
"""First words of commands of two."""
FIRST = ("simulate", "ingest", "features", *TRAININGS)
_SUMMARIES = {name: command.summary for name, command in COMMANDS.items()} | TRAININGS
SUMMARIES = {name: _SUMMARIES[name] for name in (*FIRST, *_SUMMARIES)} | {
    "completion": "Print a script by which bash or zsh completes commands, options and values"
}
"""Every command, in the order in which one runs them."""
VERSION = ("-V", "--version")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 a mistake of the user's in one line, 130 interrupted, 1 a bug with its traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _set_up_logging()
        _dispatch(arguments)
        sys.stdout.flush()
    except HepflowError as error:
        _say(f"error: {error}")
        sys.exit(USER_ERROR)
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        what = f"{error.filename or 'the output'}: {os.strerror(error.errno)}"
        _say(
            f"error: {what}. Give another --output, or mend the permissions or the space there, and run it again."
        )
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning makes a failure of it
            _interrupted()
        if isinstance(end.__context__, BrokenPipeError):  # rich makes a failure of it
            sys.exit(0)
        raise
    sys.exit(0)


def _nobody_reads(descriptor: int) -> bool:
    """Whether the other end of a pipe is closed: `head`, or whatever read along, has seen enough."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _interrupted() -> NoReturn:
    if all(os.environ.get(name, "0") == "0" for name in RANKS):
        _say("interrupted; run the same command again: what is finished is not done twice")
    sys.exit(INTERRUPTED)


def _dispatch(arguments: list[str]) -> None:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], HELP[0]]
    if not arguments or arguments[0] in HELP:
        note = (
            "Every command takes --help, and each but completion --config FILE and --print-config."
        )
        _print_commands("hepflow COMMAND [options]", _overview(), note)
        return
    if arguments[0] in VERSION:
        print(f"hepflow {version('hepflow')}")
        return
    name, rest = _command_of(arguments)
    if name in GROUPS:
        _print_commands(
            f"hepflow {name} COMMAND [options]",
            _commands_of(name),
            f"The options of one: hepflow {name} COMMAND --help",
        )
    elif name == "completion":
        _completion(rest)
    elif set(HELP) & set(rest):
        _print_options(name)
    elif name == "spark-train":
        _load("hepflow.train.spark.job:main", "train,ingest")(rest)
    elif name in TRAININGS:
        _load("hepflow.train.cli:main", "train")([name.removeprefix("train "), *rest])
    else:
        command = COMMANDS[name]
        stage_config = parse(name, rest)
        if command.topic and stage_config.reads_topic:
            _load(command.topic, "kafka")(stage_config)
        else:
            _load(command.run, command.extra)(stage_config)


def _command_of(arguments: list[str]) -> tuple[str, list[str]]:
    """The command, or the group of commands, that the first words name; and the words after it.

    Raises
    ------
    ConfigError
        There is none.
    """
    first, *rest = arguments
    if first in GROUPS:
        if not rest or rest[0] in HELP:
            return first, []
        if rest[0] not in _commands_of(first):
            raise ConfigError(
                f"no command {f'{first} {rest[0]}'!r}.{nearest(rest[0], _commands_of(first))} There are: {', '.join(_commands_of(first))}."
            )
        first, *rest = f"{first} {rest[0]}", *rest[1:]
    if first not in SUMMARIES:
        raise ConfigError(
            f"no command {first!r}.{nearest(first, [*_overview(), *SUMMARIES])} See `hepflow --help`."
        )
    return first, rest


def _commands_of(group: str) -> dict[str, str]:
    return {
        name.removeprefix(f"{group} "): about
        for name, about in SUMMARIES.items()
        if name.startswith(f"{group} ")
    }


def _overview() -> dict[str, str]:
    """Every command, and in place of those of a group the group."""
    firsts = dict.fromkeys(
        name if name in SUMMARIES and " " not in name else name.partition(" ")[0]
        for name in SUMMARIES
    )
    return {
        name: f"{GROUPS[name]} ({', '.join(_commands_of(name))})"
        if name in GROUPS
        else SUMMARIES[name]
        for name in firsts
    }


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The configuration of a command from its arguments and the files they name.

    Raises
    ------
    ConfigError
        An option is unknown or its value is not allowed.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    stage = COMMANDS[name].config
    parser = ArgumentParser(prog=f"hepflow {name}", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(stage)
    switches = {f"--{field.name}" for field in fields(stage) if field.type is bool}
    lists = {f"--{field.name}" for field in fields(stage) if get_origin(field.type) is tuple}
    words = spelt_out(
        with_shipped(arguments),
        switches=switches,
        lists=lists,
        mappings={f"--{name}" for name in mappings_of(stage)},
    )

    def configured(namespace: Namespace) -> Any:
        values = dict(vars(parser.instantiate(namespace)))
        values.pop("config", None)
        for option, value in values.items():
            if isinstance(value, Path) and URL.match(str(value)):
                raise ConfigError(
                    f"{spelt(option)} {value} is no path of a mounted file system: only ingest, score and replay take URLs, as input"
                )
        return stage(**values)

    return read(parser, words, configured)


def _groups(name: str) -> Groups:
    """The options of a command."""
    if name in COMMANDS:
        return groups_of(COMMANDS[name].config)
    groups: Groups = _load("hepflow.train.help:groups", "train")(in_spark=name == "spark-train")
    return groups


def _print_options(name: str) -> None:
    about = (
        (COMMANDS[name].about or COMMANDS[name].config.__doc__ or "").rstrip(".")
        if name in COMMANDS
        else TRAININGS[name]
    )
    last = (
        f"With every option of Lightning's Trainer: hepflow {name} --help-all"
        if name in TRAININGS
        else ""
    )
    print_help(f"hepflow {name} [options]", f"{about}.", _groups(name), last)


def _completion(arguments: list[str]) -> None:
    completion = import_module("hepflow.tools.completion")
    if len(arguments) == 1 and arguments[0] in completion.SHELLS:
        commands: dict[str, tuple[str, Groups]] = {
            name: (about, {}) for name, about in GROUPS.items()
        }
        commands |= {name: (SUMMARIES[name], _groups(name)) for name in (*COMMANDS, *TRAININGS)}
        print(completion.script(arguments[0], commands))
    elif not arguments or set(HELP) & set(arguments):
        lines = {
            shell: f"put into ~/.{shell}rc: {line}" for shell, line in completion.SHELLS.items()
        }
        _print_commands("hepflow completion SHELL", lines)
    else:
        raise ConfigError(
            f"no shell {' '.join(arguments)!r}. There are: {', '.join(completion.SHELLS)}. See `hepflow completion --help`."
        )


def _load(target: str, extra: str) -> Any:
    module, function = target.split(":")
    try:
        return getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hepflow"):
            raise
        raise MissingDependency(
            f"this command needs the package {error.name!r}: pip install 'hepflow[{extra}]'"
        ) from error


def _print_commands(usage: str, rows: dict[str, str], note: str = "") -> None:
    console = Console(highlight=False, markup=False)
    console.print(f"usage: {usage}\n")
    table = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        table.add_row(f"  {name}", text)
    console.print(table)
    if note:
        console.print(f"\n{note}")


def _set_up_logging() -> None:
    """Messages of hepflow at INFO, of everything else at WARNING; plain lines where nobody watches."""
    handler: logging.Handler = logging.StreamHandler()
    if MESSAGES.is_terminal:
        handler = Messages()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("hepflow").setLevel(logging.INFO)


def _say(message: str) -> None:
    in_a_line = not MESSAGES.is_terminal  # which would break it within words
    MESSAGES.print(f"hepflow: {message}", markup=False, highlight=False, soft_wrap=in_a_line)
