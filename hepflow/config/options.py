"""The options of a command, as its configuration declares them: what the help prints, and what a shell completes."""

from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import shtab
from docstring_parser import parse_from_object

PATH, SWITCH = "PATH", ""
HELP = ("-h", "--help")
VALUES = {int: "INT", float: "NUMBER", str: "TEXT", bool: "{true,false}", Path: PATH, Any: "..."}
"""Type -> what a user is told to give."""


class Option(NamedTuple):
    """An option, and what its help says."""

    name: str
    """As a configuration file has it, with a dot before what lies within another option."""
    value: str
    """What it takes, such as PATH or {a,b}; nothing for a switch."""
    default: str
    """Nothing where the text says it, or where there is no value."""
    text: str
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """As the command line has it."""
        return spelt(self.name)


Groups = Mapping[str, Iterable[Option]]
"""Heading -> the options below it."""
GENERAL = (
    Option(
        "config",
        PATH,
        "",
        "YAML file of these options, with underscores for dashes; options after it win.",
    ),
    Option("print_config", SWITCH, "", "Print, as such a file, what the command would run with."),
)
"""Of every command that has a configuration."""


def spelt(name: str) -> str:
    """The option of a key."""
    return "--" + name.replace("_", "-")


def groups_of(
    config: type, prefix: str = "", title: str = "options", general: Iterable[Option] = GENERAL
) -> dict[str, list[Option]]:
    """Options of a configuration, and under headings of their own those of configurations within."""
    texts = {
        param.arg_name: param.description or ""
        for cls in reversed(config.__mro__[:-1])
        for param in parse_from_object(cls).params
    }
    kinds = get_type_hints(config)
    own = [] if prefix else [*general]
    groups = {title: own}
    for field in fields(config):
        kind, text = kinds[field.name], " ".join(texts.get(field.name, "").split())
        if is_dataclass(kind):
            groups |= groups_of(kind, f"{prefix}{field.name}.", text.rstrip("."))  # type: ignore[arg-type]  # a class, as a configuration is
        else:
            switch = kind is bool and not prefix and field.default is False
            value = SWITCH if switch else value_of(kind, commas=not prefix)
            default = "" if switch or "default:" in text.lower() else _default(field)
            own.append(Option(prefix + field.name, value, default, text))
    return groups


def mappings_of(config: type, prefix: str = "") -> Iterator[str]:
    """Options of a configuration, and of those within, under which the user names things."""
    for name, kind in get_type_hints(config).items():
        if is_dataclass(kind):
            yield from mappings_of(kind, f"{prefix}{name}.")  # type: ignore[arg-type]  # a class, as a configuration is
        elif get_origin(kind) is Mapping:
            yield prefix + name


def value_of(kind: Any, *, commas: bool = False) -> str:
    """What a user gives for a type.

    Parameters
    ----------
    kind : type
    commas : bool
        A list needs no brackets.
    """
    inner = get_args(kind)
    origin = get_origin(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin is tuple:
        return f"{value_of(inner[0])},..." if commas else f"[{value_of(inner[0])},...]"
    if origin is UnionType:
        values = dict.fromkeys(
            "URL" if one is str and Path in inner else value_of(one)
            for one in inner
            if one is not NoneType
        )
        return "|".join(values)
    if inner:
        return f"{{NAME: {value_of(inner[1])}, ...}}"
    return VALUES[kind]


def shown(value: object) -> str:
    """A value as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        items = {
            key: f"[{shown(one)}]" if isinstance(one, (tuple, list)) else shown(one)
            for key, one in value.items()
        }
        return "{" + ", ".join(f"{key}: {one}" for key, one in items.items()) + "}"
    if isinstance(value, (tuple, list)):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(field: "Field[Any]") -> str:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return "none; required"
    return "none" if value in (None, (), {}, "") else shown(value)


def add(add_argument: Callable[..., Action], option: Option) -> None:
    """Make a parser, or a group of one, know an option, by its method."""
    text = (option.text + (f" (default: {option.default})" if option.default else "")).replace(
        "%", "%%"
    )
    flags = [option.flag, *option.aliases]
    if option.value == SWITCH:
        add_argument(*flags, action="store_true", help=text)
        return
    is_choice = (
        option.value.startswith("{") and option.value.endswith("}") and ":" not in option.value
    )
    choices = option.value[1:-1].split(",") if is_choice else None
    action = add_argument(
        *flags, choices=choices, metavar=None if is_choice else option.value, help=text
    )
    if PATH in option.value:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it


def print_help(usage: str, about: str, groups: Groups, last: str = "") -> None:
    """Print the help of a command, as wide as the terminal.

    Parameters
    ----------
    usage : str
        How it is called.
    about : str
        What it does.
    groups : mapping
        Its options.
    last : str
        Further remarks.
    """
    formatter = partial(HelpFormatter, max_help_position=22)
    parser = ArgumentParser(
        usage=usage,
        description=about.replace("%", "%%"),
        epilog=last,
        formatter_class=formatter,
        add_help=False,
    )
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            add(group.add_argument, option)
    parser.print_help()
