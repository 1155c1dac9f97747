"""Arguments -> values, by a parser of jsonargparse; and its complaints in one line: what, in which file, what is allowed or was meant."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from hepflow.config.options import spelt
from hepflow.errors import ConfigError, one_line

T = TypeVar("T")
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "str": "text",
}
KINDS |= dict.fromkeys(("collections.abc.Iterable", "collections.abc.Sequence"), "a list")
KINDS |= {
    "dict": "of the form {name: value}",
    "collections.abc.Mapping": "of the form {name: value}",
}
"""Python's types, in the words of a user."""
SENTENCES = {
    r"argument (--\S+): expected one argument": "{0} needs a value.",
    r"the following arguments are required: (.+)": "these options must be given: {0}.",
    r'Parser key "config": File does not exist: (.+)': "--config: no file {0}.",
    r"Unexpected config: .*": "{file}: options and their values are missing, such as `output: a/folder`.",
    r'Problems parsing config: .*"<unicode string>", (line \d+).*?': "{file}: not YAML near {0}.",
    r'Parser key "(.+?)":.*(?:instantiatable class|class_path|import path).*NestedArg\(key=\'(.+?)\'.*': (
        "{option}.{1}: {option} has options once it is a class, such as {option} package.module.Class."
    ),
    r'Parser key "(.+?)": Expected .*NestedArg\(key=\'(.+?)\'.*': "{option} has no options, so no {option}.{1}.",
    r'Parser key "(.+?)":.* callable class: (?:Option \'|unrecognized arguments: --)(.+?)[\'=].*class_path=\'(.+?)\'.*': (
        "{option}.{1}: {2} has no such option."
    ),
    r'Parser key "(.+?)":.* callable class: (?!Parser key)(.+?)\. Got value.*': "{option}: {1}.",
    r'Parser key "(.+?)":.* dot import path string: (\S+).*': "{option} must be a class, such as hepflow.models.hlf.HLFNet; got {1}.",
}
"""What jsonargparse says -> what a user reads; ``option`` is the key, as it stands in the file or on the command line."""
WITHIN = r'Parser key "(.+?)":.* callable class: Parser key "(.+)\. Got value: Namespace\(.*'
"""A complaint about an argument of a class."""


def spelt_out(
    arguments: Sequence[str],
    *,
    switches: Collection[str] = (),
    lists: Collection[str] = (),
    mappings: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> list[str]:
    """Arguments as jsonargparse takes them: underscores for dashes, a value for a lone switch, brackets around a list.

    Parameters
    ----------
    arguments : sequence of str
    switches, lists, mappings : collection of str
        Options with underscores; the names within a mapping are the user's own, and keep their dashes.
    aliases : mapping
        Option -> what it stands for.
    """
    result: list[str] = []
    awaits = False
    for argument, after in pairwise([*arguments, "--"]):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = _underscored(name, mappings)
            name = (aliases or {}).get(name, name)
            listed = _bracketed(value) if equals and name in lists else value
            alone = name in switches and not equals and after.startswith("-")
            result.append(f"{name}=true" if alone else name + equals + listed)
        else:
            result.append(_bracketed(argument) if awaits else argument)
        awaits = name in lists and not equals
    return result


def _underscored(name: str, mappings: Collection[str]) -> str:
    known = "--" + name[2:].replace("-", "_")
    end = next((len(mapping) for mapping in mappings if known.startswith(f"{mapping}.")), len(name))
    return known[:end] + name[end:]


def _bracketed(value: str) -> str:
    return value if value.startswith("[") else f"[{value}]"


def read(parser: ArgumentParser, arguments: Sequence[str], make: Callable[[Namespace], T]) -> T:
    """What is made of the arguments, and of the files that they name.

    Parameters
    ----------
    parser : ArgumentParser
    arguments : sequence of str
    make : callable
        What to make of the values; it may refuse them by a ConfigError.

    Raises
    ------
    ConfigError
        An option is unknown or its value is not allowed, or a file has none; where a file says so by itself, the message begins with it.
    """
    for path in _configs(arguments):
        _require_text(Path(path))
    try:
        return make(parser.parse_args(arguments))
    except (ArgumentError, ConfigError) as error:
        complaint = one_line(error)
        file = next(
            (
                path
                for path in _configs(arguments)
                if _complaint_of(parser, path, make) == complaint
            ),
            None,
        )
        if isinstance(error, ArgumentError):
            msg = f"{_explained(complaint, parser, file)} See `{parser.prog} --help`."
        else:
            msg = f"{file}: {complaint}" if file else complaint
        raise ConfigError(msg) from error


def nearest(word: str, known: Iterable[str]) -> str:
    """A question after what may have been meant, or nothing: what begins or ends with the word, or else is spelt like it."""
    names = list(dict.fromkeys(known))
    last = {re.split("[. ]", name)[-1]: name for name in names}
    begin = [name for name in names if name.startswith(word)]
    end = [
        name
        for name in names
        if re.split("[. ]", name)[-1] == re.split("[. ]", word)[-1].lstrip("-")
    ]
    close = get_close_matches(word, names, n=1) or [
        last[one] for one in get_close_matches(word, last, n=1)
    ]
    found = (end or begin or close)[:3] if word else []
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _configs(arguments: Sequence[str]) -> Iterator[str]:
    """The files that the arguments name."""
    for before, argument in pairwise(["", *arguments]):
        if before == "--config":
            yield argument
        elif argument.startswith("--config="):
            yield argument.removeprefix("--config=")


def _require_text(path: Path) -> None:
    try:
        text = path.read_text()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML file, but something else than text.") from error
    except OSError:  # which the parser tells of
        return
    if not text.strip():
        raise ConfigError(
            f"{path}: the file is empty; it has options and their values, such as `output: a/folder`."
        )


def _complaint_of(parser: ArgumentParser, path: str, make: Callable[[Namespace], object]) -> str:
    """What there is to say against a file alone."""
    try:
        make(parser.parse_path(path))
    except (ArgumentError, ConfigError) as error:
        return one_line(error)
    except (OSError, TypeError):
        return ""
    return ""


def _explained(complaint: str, parser: ArgumentParser, file: str | None) -> str:
    """A complaint of jsonargparse in a sentence for users; one that is not known is left as it is."""
    names = [name for name in parser.get_defaults().keys() if not name.startswith("__")]  # noqa: SIM118  a Namespace
    complaint = re.sub(WITHIN, r'Parser key "\1.\2', complaint)
    for pattern, sentence in SENTENCES.items():
        if found := re.fullmatch(pattern, complaint):
            key = (*found.groups(), "")[0]
            option = f"{file}: {key}" if file else spelt(key)
            return sentence.format(*found.groups(), file=file or "--config", option=option)
    if found := re.match(r"unrecognized arguments: ([^\s=]+)", complaint):
        return _unknown_argument(found[1], names)
    if found := re.match(
        r"(?:Option|Group) '(.+?)' (?:is not accepted|does not accept option '(.+)')", complaint
    ):
        key = ".".join(filter(None, found.groups()))
        return (
            f"{file}: no option {key}.{nearest(key, names)}"
            if file
            else _unknown_argument(spelt(key), names)
        )
    if found := re.match(r'Parser key "(.+?)": (.+)', complaint):
        return (f"{file}: {found[1]}" if file else spelt(found[1])) + _wrong_value(found[2])
    return f"{file}: {complaint}." if file else f"{complaint}."


def _unknown_argument(argument: str, names: Iterable[str]) -> str:
    if not argument.startswith("--"):
        return f"{argument!r} is neither an option nor the value of one; a list has commas and no blanks."
    flag = spelt(argument[2:])
    return f"no option {flag}.{nearest(flag, map(spelt, names))}"


def _wrong_value(complaint: str) -> str:
    """What is allowed, and what is there, from the types that jsonargparse expected."""
    expected = re.findall(r"Expected an? (typing\.Literal\[.+?\]|<class '.+?'>)", complaint)
    value = re.search(r"(?:Got|Given) value: ?(.*?)(?: Given value type.*)?$", complaint)
    if not expected or not value:
        return f": {complaint}."
    allowed = [_allowed(kind) for kind in expected if "NoneType" not in kind]
    choices = [
        choice for kind in expected if "Literal" in kind for choice in re.findall(r"'(.*?)'", kind)
    ]
    return (
        f" must be {' or '.join(allowed)}; got {value[1] or 'nothing'}.{nearest(value[1], choices)}"
    )


def _allowed(kind: str) -> str:
    if "Literal" in kind:
        *others, last = re.findall(r"'(.*?)'", kind)
        return f"{', '.join(others)} or {last}" if others else last
    name = re.sub(r"<class '(.+)'>", r"\1", kind)
    return KINDS.get(name, name)
