"""``hepflow completion SHELL``: a script that completes commands, options and values."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence

import shtab

from hepflow.config.options import Groups, add

Entry = tuple[str, Groups, Sequence[str]]
"""Summary, options and words without an option of a command."""
SHELLS = {shell: f'eval "$(hepflow completion {shell})"' for shell in ("bash", "zsh")}
"""Shell -> line for its start-up file."""


def script(shell: str, commands: Mapping[str, Entry]) -> str:
    """Return the completion script; groups, without options, come before their commands."""
    top = ArgumentParser("hepflow")
    levels = {"": top.add_subparsers()}
    for name, (summary, groups, words) in commands.items():
        group, _, last = name.rpartition(" ")
        parser = levels[group].add_parser(last, help=summary)
        if not groups:
            levels[name] = parser.add_subparsers()
        for word in words:
            place = parser.add_argument(word, nargs="?")
            place.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab
        for options in groups.values():
            for option in options:
                text = option.text.split(". ", maxsplit=1)[0]
                add(parser.add_argument, option._replace(text=text, default=""))
    own = levels[""].add_parser("completion", help="Print a shell completion script")
    own.add_argument("shell", choices=list(SHELLS))
    return str(shtab.complete(top, shell))
