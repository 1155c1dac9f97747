"""``hepflow completion SHELL``: a script by which a shell completes commands, options and values, made of what their help is made of."""

from argparse import Action, ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import shtab
from docstring_parser import parse_from_object

from hepflow.train.help import groups

SHELLS = {
    "bash": 'eval "$(hepflow completion bash)"',
    "zsh": 'eval "$(hepflow completion zsh)"',
}
"""Shell -> the line for the file that it reads at its start."""
PATHS = {"config", "output", "ckpt_path", "data.store"}
"""Options of a training that name a file or a folder."""


def script(shell: str, stages: Mapping[str, tuple[type, str]], trainings: Mapping[str, str]) -> str:
    """The script of a shell.

    Parameters
    ----------
    shell : str
        Of `SHELLS`.
    stages : mapping
        Command -> its configuration, and what it does; a command may be of two words.
    trainings : mapping
        Command with the options of a training -> what it does.
    """
    tree = _Tree(ArgumentParser("hepflow"))
    for name, (config, about) in stages.items():
        parser = tree.add(name, about)
        for option, kind, text in _options(config):
            _add(parser, option, kind, text)
    for name, about in trainings.items():
        parser = tree.add(name, about)
        for options in groups(in_spark=name == "spark-train").values():
            for one in options:
                _add(parser, one.name, Path if one.name in PATHS else str, one.text)
    completion = tree.add("completion", "Print a script by which a shell completes all this")
    completion.add_argument("shell", choices=list(SHELLS))
    return str(shtab.complete(tree.parser, shell))


class _Tree:
    """Parsers within parsers, a level a word of a command."""

    def __init__(self, parser: ArgumentParser) -> None:
        self.parser = parser
        self._below: dict[str, _Tree] = {}
        self._commands: Any = None

    def add(self, name: str, about: str) -> ArgumentParser:
        """The parser of a command."""
        first, _, rest = name.partition(" ")
        if self._commands is None:
            self._commands = self.parser.add_subparsers()
        if first not in self._below:
            self._below[first] = _Tree(self._commands.add_parser(first, help=about))
        return self._below[first].add(rest, about) if rest else self._below[first].parser


def _options(config: type, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Name, type and help text of every option; those of a configuration within another with dots."""
    if not prefix:
        yield "config", Path, "YAML file of these options; options after it win."
        yield "print_config", None, "Print what the command would run with."
    texts = {param.arg_name: param.description or "" for cls in config.__mro__[:-1] for param in parse_from_object(cls).params}
    kinds = get_type_hints(config)
    for field in fields(config):
        kind = kinds[field.name]
        if is_dataclass(kind):
            yield from _options(kind, f"{prefix}{field.name}.")  # type: ignore[arg-type]  # a class, as a configuration is
        else:
            yield prefix + field.name, kind, texts.get(field.name, "")


def _add(parser: ArgumentParser, name: str, kind: Any, text: str) -> None:
    text = text.split(". ", maxsplit=1)[0].splitlines()[0].replace("%", "%%") if text else ""
    if kind in {None, bool}:
        parser.add_argument(f"--{name}", action="store_true", help=text)
        return
    choices = get_args(kind) if get_origin(kind) is Literal else None
    action: Action = parser.add_argument(f"--{name}", choices=choices, help=text)
    if Path in {kind, *get_args(kind)}:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
