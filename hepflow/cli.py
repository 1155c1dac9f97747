"""Commands, exit codes and logging. A stage is imported when its command is called."""

import os
import select
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn, get_origin

from jsonargparse import Namespace
from rich.table import Table
from rich.text import Text

from hepflow.config.arguments import (
    Parser,
    add_fields,
    add_stores,
    configure_stores,
    named,
    read,
    spelt_out,
)
from hepflow.config.commands import COMMANDS, GROUPS, URLS
from hepflow.config.messages import nearest
from hepflow.config.options import (
    HELP,
    Groups,
    former_of,
    groups_of,
    mappings_of,
    print_help,
    spelt,
    with_urls,
)
from hepflow.config.shipped import with_shipped
from hepflow.errors import ConfigError, HepflowError, MissingDependency, one_line
from hepflow.system.files import OUTPUT_ERRORS
from hepflow.system.places import is_url
from hepflow.system.processes import imported
from hepflow.system.remote import is_of_a_store
from hepflow.system.secret import hidden
from hepflow.system.terminal import MESSAGES, RESULTS, show, start_messages, visible

USER_ERROR, INTERRUPTED = 2, 130
RANKS = ("LOCAL_RANK", "SLURM_PROCID")
"""Variables with the rank of a process: only rank 0 reports that Ctrl-C interrupted them all."""
VERSION = ("-V", "--version")
_JAVA = ("hepflow.engines.spark:start_java", "ingest")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit.

    The status is 0 on success, 1 if a limit that the user has set is exceeded and 2 after an error
    of the user (both in one line), 130 after Ctrl-C, and 1 after a bug (with its traceback).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        start_messages()
        with _as_interrupt(), _with_threads():
            _dispatch(arguments)
        sys.stdout.flush()
    except HepflowError as error:
        _print(f"error: {error}")
        sys.exit(error.status)
    except BrokenPipeError:
        if not _is_closed(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if (message := _of_a_place(error)) is None:
            raise
        _print(f"error: {message}.")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # turned into a failure by rich
            sys.exit(0)
        raise
    sys.exit(0)


@contextmanager
def _as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt for an error after one: of Lightning, or of a library's clean-up."""
    try:
        yield
    except (Exception, SystemExit) as error:
        before = error.__context__
        while before is not None and not isinstance(before, KeyboardInterrupt):
            before = before.__context__
        if before is not None:
            raise KeyboardInterrupt from error
        raise


@contextmanager
def _with_threads() -> Iterator[None]:
    """Raise an error of a place at the end if it ended a thread, which would print a traceback.

    The thread of a writer, such as TensorBoard's, often finds a full disk before anything else.
    """
    found: list[BaseException] = []
    before = threading.excepthook

    def note(ended: threading.ExceptHookArgs) -> None:
        if isinstance(ended.exc_value, Exception) and _of_a_place(ended.exc_value):
            found.append(ended.exc_value)
        else:
            before(ended)

    threading.excepthook = note
    try:
        yield
    finally:
        threading.excepthook = before
    if found:
        raise found[0]


def _of_a_place(error: Exception) -> str | None:
    """Return a line on an error of an output's place or of a remote store; None for a bug."""
    if isinstance(error, OSError) and error.errno in OUTPUT_ERRORS:
        where = f"{error.filename or 'the output'}: {os.strerror(error.errno or 0)}"
        advice = "Choose another --output, or fix the permissions (or free some space), and rerun"
        return f"{where}. {advice}"
    if is_of_a_store(error):
        advice = "Check address, credentials and permissions, and run the same command again"
        return f"a remote store failed ({one_line(error)}). {advice}"
    return None


def _is_closed(descriptor: int) -> bool:
    """Return whether the reader of a pipe, such as `head`, has closed it."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))


def _interrupted() -> NoReturn:
    if all(os.environ.get(name, "0") == "0" for name in RANKS):
        _print("interrupted. Run the same command to continue; finished work is kept.")
    sys.exit(INTERRUPTED)


def _print(message: str) -> None:
    one_line = not MESSAGES.is_terminal  # rich would wrap it within words
    MESSAGES.print(f"hepflow: {visible(hidden(message))}", highlight=False, soft_wrap=one_line)


def _dispatch(arguments: list[str]) -> None:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], HELP[0]]
    first, *rest = arguments or HELP
    if first in HELP:
        note = "All commands take --help; all except completion take --config and --print-config."
        _print_commands("hepflow COMMAND [options]", _overview(), note)
    elif first in VERSION:
        print(f"hepflow {version('hepflow')}")
    elif first in GROUPS and (not rest or rest[0] in HELP):
        note = f"Options of a command: hepflow {first} COMMAND --help"
        _print_commands(f"hepflow {first} COMMAND [options]", _commands_of(first), note)
    else:
        in_group = first in GROUPS
        word = rest.pop(0) if in_group else first
        name = f"{first} {word}" if in_group else first
        if name not in COMMANDS:
            known = [*_commands_of(first)] if in_group else [*_overview(), *COMMANDS]
            where = f"There are: {', '.join(known)}" if in_group else "See `hepflow --help`"
            raise ConfigError(f"no command {name!r}.{nearest(word, known)} {where}.")
        _run(name, rest)


def _commands_of(group: str) -> dict[str, str]:
    names = [name for name in COMMANDS if name.startswith(f"{group} ")]
    return {name.partition(" ")[2]: COMMANDS[name].summary for name in names}


def _overview() -> dict[str, str]:
    """Return all commands with their summaries, groups instead of their commands."""
    rows = {}
    for name, command in COMMANDS.items():
        first = name.partition(" ")[0]
        rows[first] = command.summary
        if first in GROUPS:
            rows[first] = f"{GROUPS[first]} ({', '.join(_commands_of(first))})"
    return rows


def _run(name: str, arguments: list[str]) -> None:
    command = COMMANDS[name]
    if name == "completion":
        _print_completion(arguments)
    elif set(HELP) & set(arguments):
        last = "" if command.config else f"All options of the Trainer: hepflow {name} --help-all"
        words = "".join(f"{word.upper()} " for word in command.words)
        usage = f"hepflow {name} {words}[options]"
        print_help(usage, f"{command.text}.", _groups(name), last)
    elif command.config:
        config = parse(name, arguments)
        from_topic = command.topic and config.reads_topic
        if from_topic:
            _load(*_JAVA)(config.spark)
        function = _load(command.topic, "kafka") if from_topic else _load(*command[1:3])
        function(config)
    else:
        group, _, subcommand = name.rpartition(" ")
        _load(*command[1:3])([subcommand, *arguments] if group else arguments)


def parse(name: str, arguments: Sequence[str]) -> Any:
    """Return the configuration of a command from its arguments and the files that they name."""
    stage: Any = COMMANDS[name].config
    parser = Parser(prog=f"hepflow {name}", exit_on_error=False, allow_abbrev=False)
    parser.former = [*former_of(stage)]
    parser.add_argument("--config", action="config")
    add_stores(parser)
    add_fields(parser, stage)

    def make(namespace: Namespace) -> Any:
        values = dict(vars(parser.instantiate(namespace)))
        values.pop("config", None)
        configure_stores(values)
        for option, value in values.items():
            if is_url(value) and option not in URLS.get(name, ()):
                allowed = ", ".join(map(spelt, URLS.get(name, ()))) or "no option"
                rule = f"of `hepflow {name}`, {allowed} may be a URL"
                raise ConfigError(f"{spelt(option)} {value} must be a local path; {rule}")
        return stage(**values)

    switches = {f"--{field.name}" for field in fields(stage) if field.type is bool}
    words = spelt_out(
        named(with_shipped(arguments), COMMANDS[name].words, switches),
        switches=switches,
        lists={f"--{field.name}" for field in fields(stage) if get_origin(field.type) is tuple},
        mappings={"--storage", *(f"--{name}" for name in mappings_of(stage))},
    )
    return read(parser, words, make)


def _groups(name: str) -> Groups:
    if config := COMMANDS[name].config:
        return with_urls(groups_of(config), URLS.get(name, ()))
    groups: Groups = _load("hepflow.train.help:groups", "train")(in_spark=name == "spark-train")
    return groups


def _print_completion(arguments: list[str]) -> None:
    completion = import_module("hepflow.tools.completion")
    if len(arguments) == 1 and arguments[0] in completion.SHELLS:
        commands: dict[str, Any] = {name: (GROUPS[name], {}, ()) for name in GROUPS}
        for name in [name for name in COMMANDS if name != "completion"]:
            commands[name] = (COMMANDS[name].summary, _groups(name), COMMANDS[name].words)
        print(completion.script(arguments[0], commands))
    elif not arguments or set(HELP) & set(arguments):
        lines = {one: f"put into ~/.{one}rc: {line}" for one, line in completion.SHELLS.items()}
        _print_commands("hepflow completion SHELL", lines)
    else:
        shells, given = ", ".join(completion.SHELLS), " ".join(arguments)
        raise ConfigError(f"no shell {given!r}. There are: {shells}.")


def _load(target: str, extra: str) -> Any:
    module, function = target.split(":")
    try:
        return getattr(imported(module), function)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hepflow"):
            raise
        needed = f"this command needs the package {error.name!r}"
        raise MissingDependency(f"{needed}. Run: pip install 'hepflow[{extra}]'") from error


def _print_commands(usage: str, rows: dict[str, str], note: str = "") -> None:
    grid = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        grid.add_row(Text(f"  {name}"), Text(text))
    RESULTS.print(f"usage: {usage}\n", highlight=False)
    show(grid)
    if note:
        RESULTS.print(f"\n{note}", highlight=False)
