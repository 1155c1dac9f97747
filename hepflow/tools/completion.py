"""``hepflow completion SHELL``: a script that completes commands, options and values."""

from argparse import ArgumentParser
from collections.abc import Mapping

import shtab

from hepflow.config.options import Groups, add

SHELLS = {shell: f'eval "$(hepflow completion {shell})"' for shell in ("bash", "zsh")}
"""Shell -> line for its start-up file."""


def script(shell: str, commands: Mapping[str, tuple[str, Groups]]) -> str:
    """Return the completion script; groups, without options, come before their commands."""
    top = ArgumentParser("hepflow")
    levels = {"": top.add_subparsers()}
    for name, (summary, groups) in commands.items():
        group, _, last = name.rpartition(" ")
        parser = levels[group].add_parser(last, help=summary)
        if not groups:
            levels[name] = parser.add_subparsers()
        for options in groups.values():
            for option in options:
                text = option.text.split(". ", maxsplit=1)[0]
                add(parser.add_argument, option._replace(text=text, default=""))
    own = levels[""].add_parser("completion", help="Print a shell completion script")
    own.add_argument("shell", choices=list(SHELLS))
    return str(shtab.complete(top, shell))
