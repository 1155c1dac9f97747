"""The options of a command, as its configuration declares them: for its help and for completion."""

from argparse import Action, ArgumentParser, HelpFormatter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import shtab
from docstring_parser import parse_from_object

from hepflow.config.limits import FORMER, UNUSED

PATH, PATH_OR_URL, SWITCH = "PATH", "URL|PATH", ""
HELP = ("-h", "--help")
VALUES = {int: "INT", float: "NUMBER", str: "TEXT", bool: "{true,false}", Path: PATH, Any: "..."}
"""Type -> placeholder of its value in the help."""


class Option(NamedTuple):
    """An option by its key in a configuration file, and the parts of its help."""

    name: str
    value: str  # placeholder, such as PATH or {a,b}; empty for a switch
    default: str  # empty if the text gives it, or if the option takes no value
    text: str
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """Spelling on the command line."""
        return spelt(self.name)


Groups = Mapping[str, Iterable[Option]]  # heading -> options below it
_FILE = "YAML file of these options, with underscores for dashes; options after it win."
GENERAL = (
    Option("config", PATH_OR_URL, "", _FILE),
    Option("print_config", SWITCH, "", "Print the resulting configuration as such a file."),
)
"""Options of every command that has a configuration."""
_STORAGE = "Beginning of a URL -> options of its store, such as endpoint_url and profile."
_WORK_DIR = "Folder on this machine for files on their way to a store and of Dask; default: TMPDIR."
STORES = {
    "remote stores": (
        Option("storage", "{URL: {NAME: ...}, ...}", "none", _STORAGE),
        Option("work_dir", PATH, "", _WORK_DIR),
    )
}
"""The same, under a heading of their own."""


def spelt(name: str) -> str:
    """Return the command line option of a key."""
    return "--" + name.replace("_", "-")


def groups_of(
    config: type, prefix: str = "", title: str = "options", general: Iterable[Option] = GENERAL
) -> dict[str, list[Option]]:
    """Return the options of a configuration, those of nested ones under headings of their own."""
    texts: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        texts |= {one.arg_name: one.description or "" for one in parse_from_object(cls).params}
    kinds = get_type_hints(config)
    groups = {title: [] if prefix else [*general]}
    for field in fields(config):
        if field.metadata in (FORMER, UNUSED):
            continue
        kind, text = kinds[field.name], " ".join(texts.get(field.name, "").split())
        if is_dataclass(kind):
            within, heading = f"{prefix}{field.name}.", text.rstrip(".")
            groups |= groups_of(kind, within, heading)  # type: ignore[arg-type]
            continue
        switch = kind is bool and not prefix and field.default is False
        value = SWITCH if switch else value_of(kind, commas=not prefix)
        default = "" if switch or "default:" in text.lower() else _default(field)
        groups[title].append(Option(prefix + field.name, value, default, text))
    return groups


def mappings_of(config: type, prefix: str = "") -> Iterator[str]:
    """Yield the options, nested ones too, whose keys are the user's."""
    for name, kind in get_type_hints(config).items():
        if is_dataclass(kind):
            yield from mappings_of(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif get_origin(kind) is Mapping:
            yield prefix + name


def former_of(config: type, prefix: str = "") -> Iterator[str]:
    """Yield the groups of options, nested ones too, that are accepted under a former name."""
    for one in fields(config):
        kind, name = get_type_hints(config)[one.name], f"{prefix}{one.name}"
        if one.metadata == FORMER:
            yield name
        elif is_dataclass(kind):
            yield from former_of(kind, f"{name}.")  # type: ignore[arg-type]


def value_of(kind: Any, *, commas: bool = False) -> str:
    """Return the placeholder of a type; ``commas`` if a list needs no brackets."""
    inner, origin = get_args(kind), get_origin(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin is tuple:
        return f"{value_of(inner[0])},..." if commas else f"[{value_of(inner[0])},...]"
    if origin in (UnionType, Union):
        url = {str: "URL"} if {str, Path} <= {*inner} else {}
        return "|".join(url.get(one) or value_of(one) for one in inner if one != NoneType)
    return f"{{NAME: {value_of(inner[1])}, ...}}" if inner else VALUES[kind]


def shown(value: object) -> str:
    """Return a value as a user would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        items = []
        for key, one in value.items():
            text = f"[{shown(one)}]" if isinstance(one, (tuple, list)) else shown(one)
            items.append(f"{key}: {text}")
        return "{" + ", ".join(items) + "}"
    if isinstance(value, (tuple, list)):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(field: "Field[Any]") -> str:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return "none; required"
    return "none" if value in (None, (), {}, "") else shown(value)


def add(add_argument: Callable[..., Action], option: Option) -> None:
    """Add an option to a parser, or to a group of one, by its method."""
    text = option.text + (f" (default: {option.default})" if option.default else "")
    flags, text = [option.flag, *option.aliases], text.replace("%", "%%")
    if option.value == SWITCH:
        add_argument(*flags, action="store_true", help=text)
    elif option.value.startswith("{") and option.value.endswith("}") and ":" not in option.value:
        add_argument(*flags, choices=option.value[1:-1].split(","), help=text)
    else:
        action = add_argument(*flags, metavar=option.value, help=text)
        if PATH in option.value:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # read by shtab


def with_urls(groups: Groups, names: Iterable[str]) -> Groups:
    """Return options of which some take URLs of any store, and those of the stores."""

    def shown_as(option: Option) -> Option:
        takes_url = option.value == PATH and option.name in names
        return option._replace(value=PATH_OR_URL) if takes_url else option

    return {title: [shown_as(one) for one in own] for title, own in groups.items()} | STORES


def print_help(usage: str, about: str, groups: Groups, last: str = "") -> None:
    """Print the help of a command, as wide as the terminal."""
    layout: Any = {"formatter_class": partial(HelpFormatter, max_help_position=22)}
    text = about.replace("%", "%%")
    parser = ArgumentParser(usage=usage, description=text, epilog=last, add_help=False, **layout)
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            add(group.add_argument, option)
    parser.print_help()
