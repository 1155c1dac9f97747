"""Parse command lines and configuration files; an error is one line that names its file."""

import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import register_type

from hepflow.config.messages import EXAMPLE, explained
from hepflow.config.secrecy import PASSED_ON, WithoutSecrets, check_secrets, parsed
from hepflow.config.shipped import as_given
from hepflow.errors import ConfigError, DataError, one_line
from hepflow.system import seal
from hepflow.system.places import expanded, is_url, place
from hepflow.system.store_options import WORK_DIR, configure

log = logging.getLogger(__name__)
T = TypeVar("T")


class Parser(WithoutSecrets):
    """Parser of a command that shows options under a former name only if they are given."""

    former: Collection[str] = ()
    """Groups of such options."""

    def dump(self, namespace: Namespace, *arguments: Any, **options: Any) -> str:
        """Return a configuration as YAML."""
        shown = namespace.clone()
        for group in self.former:
            if not any(value is not None for value in vars(shown[group]).values()):
                shown.pop(group)
        return super().dump(shown, *arguments, **options)


def _is_path(value: object, _: type) -> bool:
    return isinstance(value, Path) or is_url(value)


def _to_path(value: Any) -> Path:
    if not isinstance(value, str) and not _is_path(value, Path):
        raise TypeError(f"a path is a text, got {value!r}")
    return place(expanded(value) if isinstance(value, str) else value)


register_type(Path, str, _to_path, type_check=_is_path)


def add_fields(parser: ArgumentParser, config: type, *group: str) -> None:
    """Add the fields of a configuration as options; their help is the docstring under each.

    jsonargparse looks for such docstrings in the sources of all base classes. In Lightning's they
    cost a second and find nothing, so it looks for ours only.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_class_arguments(config, *group)
    set_parsing_settings(docstring_parse_attribute_docstrings=False)


def add_stores(parser: ArgumentParser) -> None:
    """Add the options of remote stores, which every command has and `configure_stores` takes out.

    They say how stores are reached, and never change a result.
    """
    parser.add_argument("--storage", type=dict[str, dict[str, Any]], default={})
    parser.add_argument("--work_dir", type=Path | None, default=None)


def configure_stores(config: Namespace | dict[str, Any]) -> None:
    """Take the options of remote stores out of a command's, and set them for all processes."""
    configure(config.pop("storage", {}))
    if (folder := config.pop("work_dir", None)) is not None:
        if is_url(folder):
            raise ConfigError(f"--work-dir {folder} must be a local path")
        os.environ[WORK_DIR] = str(folder.absolute())


def named(arguments: Sequence[str], names: Sequence[str], switches: Collection[str]) -> list[str]:
    """Return the arguments with an option in front of each word that has none, in this order."""
    result, left, before = [], list(names), ""
    for word in arguments:
        is_value = before.startswith("--") and "=" not in before
        if before.replace("-", "_").replace("__", "--", 1) in switches:
            is_value = word in {"true", "false"}
        free = left and not word.startswith("-") and not is_value
        result.append(f"--{left.pop(0)}={word}" if free else word)
        before = word
    return result


def spelt_out(
    arguments: Sequence[str],
    *,
    switches: Collection[str] = (),
    lists: Collection[str] = (),
    mappings: Collection[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the arguments with underscores for dashes, values for switches, brackets for lists.

    The keys below a mapping are the user's, and keep their dashes. ``aliases`` maps an option to
    the one that it stands for.
    """
    result: list[str] = []
    in_list = False  # the previous argument is an option whose value is a list
    for argument, after in pairwise([*arguments, "--"]):
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            name, equals, value = "", "", argument
        else:
            known = "--" + name[2:].replace("-", "_")
            end = next((len(one) for one in mappings if known.startswith(f"{one}.")), len(name))
            name = known[:end] + name[end:]
            name = (aliases or {}).get(name, name)
            if name in switches and not equals and after.startswith("-"):
                equals, value = "=", "true"
            in_list = name in lists
        is_value = equals or not name
        if in_list and is_value and not value.startswith("["):
            value = f"[{value}]"
        in_list = in_list and not is_value
        result.append(name + equals + value)
    return result


def read(parser: ArgumentParser, arguments: Sequence[str], make: Callable[[Namespace], T]) -> T:
    """Return what ``make`` creates from the values; wrong ones give a ConfigError in one line.

    The message starts with a configuration file if that file alone gives the same error.
    """
    files = []
    for before, word in pairwise(["", *arguments]):
        if before == "--config" or word.startswith("--config="):
            files.append(word.removeprefix("--config="))
    for path in map(Path, files):
        with suppress(OSError):  # the parser reports it
            _check_text(path)
    _check_secrets(arguments)
    try:
        return make(_parsed(parser, _merged(arguments, parser)))
    except (ArgumentError, ConfigError) as error:
        text = one_line(error)
        file = next((path for path in files if _error_in(path, parser, make) == text), None)
        if isinstance(error, ArgumentError):
            text = f"{explained(text, parser, file)} See `{parser.prog} --help`."
        elif file:
            text = f"{file}: {text}"
        raise ConfigError(as_given(text)) from error


def _check_text(path: Path) -> None:
    """Refuse a configuration file without text; warn of one that is not as hepflow wrote it."""
    content = path.read_bytes() if path.is_file() else None
    try:
        if content is not None and not content.decode().strip():
            raise ConfigError(as_given(f"{path}: the file is empty. Write {EXAMPLE}."))
    except UnicodeDecodeError as error:
        raise ConfigError(as_given(f"{path}: not a YAML file (it is not text)")) from error
    try:
        seal.check(content or b"", path, "If you edited it, remove its last line, a checksum.")
    except DataError as error:
        log.warning("%s", as_given(str(error)))


def _check_secrets(arguments: Sequence[str]) -> None:
    try:
        check_secrets(arguments)
    except ConfigError as error:  # also of a text that the parser must not see
        raise ConfigError(as_given(one_line(error))) from error


def _parsed(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    try:
        return parser.parse_args(arguments)
    except (AttributeError, OverflowError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        # PyYAML raises them at numbers of 5,000 digits, wrong dates, and at depth
        raise ConfigError(f"a value cannot be read ({one_line(error)[:200]})") from error


def _merged(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """Return the arguments with one option per mapping of `PASSED_ON`, of all files and words.

    The parser would take the last mapping as a whole, and a key with dots as several keys.
    """
    known = parser.get_defaults()
    for option in PASSED_ON:
        if option in known:
            arguments = _merged_option(option, arguments)
    return list(arguments)


def _merged_option(option: str, arguments: Sequence[str]) -> Sequence[str]:
    rest, values, words = [], list[Any](), iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith(f"--{option}.") and name not in {"--config", f"--{option}"}:
            rest.append(word)
            continue
        text = value if equals else next(words, "")
        if name == "--config":
            rest.append(f"{name}={text}")
            values.append(_mapping_in(text, option))
        else:
            given = parsed(text)
            key = name.removeprefix(f"--{option}").removeprefix(".")
            # without a key it is a mapping; with one, the clients take 4 and true as text
            values.append({key: text if given is not None else None} if key else given)
    found = [value for value in values if value]
    if not found or not all(isinstance(value, Mapping) for value in found):
        return arguments  # of whose mistakes the parser says more
    together = {key: value for mapping in found for key, value in mapping.items()}
    return [*rest, f"--{option}={json.dumps(together, default=str)}"]


def _mapping_in(path: str, option: str) -> Any:
    """Return a mapping in a configuration file; None if it has none, or is damaged."""
    found: Any = None
    with suppress(OSError, UnicodeDecodeError):
        found = parsed(place(path).read_text())
    for key in option.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _error_in(path: str, parser: ArgumentParser, make: Callable[[Namespace], object]) -> str:
    try:
        make(parser.parse_path(path))
    except (ArgumentError, ConfigError) as error:
        return one_line(error)
    except Exception:  # noqa: BLE001 - not the same error, then
        return ""
    return ""
