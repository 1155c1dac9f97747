"""``hepflow completion SHELL``: a script by which a shell completes commands, options and values, made of what their help is made of."""

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

import shtab

from hepflow.config.options import Groups, add

SHELLS = {
    "bash": 'eval "$(hepflow completion bash)"',
    "zsh": 'eval "$(hepflow completion zsh)"',
}
"""Shell -> the line for the file that it reads at its start."""


def script(shell: str, commands: Mapping[str, tuple[str, Groups]]) -> str:
    """The script of a shell.

    Parameters
    ----------
    shell : str
        Of `SHELLS`.
    commands : mapping
        Command -> what it does, and its options; of two words, the first one stands before it with its own text.
    """
    tree = _Tree(ArgumentParser("hepflow"))
    for name, (about, groups) in commands.items():
        parser = tree.add(name, about)
        for options in groups.values():
            for one in options:
                add(
                    parser.add_argument,
                    one._replace(text=one.text.split(". ", maxsplit=1)[0], default=""),
                )
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
