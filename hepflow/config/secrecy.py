"""Secrets in the options of a command, before any of them is parsed.

The values are found by their names in the arguments and in the files that these name. So they are
in no message of the parser either.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import ArgumentParser, Namespace

from hepflow.config.options import spelt
from hepflow.errors import ConfigError
from hepflow.system.places import place
from hepflow.system.secret import ADVICE, IN_URL, in_text, is_reference, is_secret, remember

log = logging.getLogger(__name__)

PASSED_ON = ("kafka.properties", "kafka.options", "properties", "spark.conf", "cluster.spark.conf")
"""Mappings of properties for a client, of which several files and the command line may each give
some keys. They go into no copy, so the secrets in them may also be given as such."""
REFERRED = ("storage", "trainer")
"""Options whose secrets may be given by reference: configurations with them are copied."""
_NO_SECRETS = ("model", "config", "cluster.tls")
"""Options that have none: arguments of a net are in its checkpoint, keys of Dask are paths."""
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
_FILES = {".yaml", ".yml", ".json"}
_DEEPEST = 30
_MOST_VALUES = 100_000
"""Values in a configuration, as often as they are repeated."""


class Given(NamedTuple):
    """A text among the options."""

    option: str  # full name, such as kafka.properties.sasl.password
    name: str  # end of the full name that tells a secret, such as sasl.password
    text: str
    file: str  # configuration file, or empty for the command line


class WithoutSecrets(ArgumentParser):
    """A parser that leaves secrets out of the configurations that it writes."""

    def dump(self, namespace: Namespace, *arguments: Any, **options: Any) -> str:
        """Return a configuration as YAML."""
        shown, left_out = namespace.clone(), []
        for option in PASSED_ON:
            if isinstance(values := shown.get(option), Mapping):
                names = {name for name, value in values.items() if _is_plain(name, value)}
                shown[option] = {name: values[name] for name in values if name not in names}
                left_out += [f"# {option}.{name}: left out, a secret\n" for name in sorted(names)]
        return "".join([super().dump(shown, *arguments, **options), *left_out])


def check_secrets(arguments: Sequence[str]) -> None:
    """Remember the secrets among the options, and refuse them where they would be written.

    Warnings tell which of them other users of the machine can read.
    """
    warnings = dict.fromkeys(_warning(one) for one in given(arguments))
    if all(os.environ.get(name, "0") == "0" for name in _RANKS):
        for text in filter(None, warnings):
            log.warning("%s", text)


def _warning(one: Given) -> str:
    """Return how others can read a secret, or nothing; one that may not stand here is an error."""
    where = f"{one.file}: {one.option}" if one.file else spelt(one.option)
    if _is_in(one.option, _NO_SECRETS) or not is_secret(one.name):
        if values := in_text(one.text):
            remember(values)
            in_line = "a line with a password or a token. Let it be read, such as by $(cat FILE)."
            raise ConfigError(f"{where}: {IN_URL if '://' in one.text else in_line}")
        return ""
    if is_reference(one.text):
        if not _is_in(one.option, PASSED_ON + REFERRED):
            raise ConfigError(f"{where}: a secret, which nothing here reads. Remove it.")
        return _readable(one.text.removeprefix("file:")) if one.text.startswith("file:") else ""
    remember([one.text])
    if not _is_in(one.option, PASSED_ON):
        what = f"{where}: this is a secret, and a configuration is copied into records"
        raise ConfigError(f"{what}. Give {ADVICE}.")
    by_ps = f"{where}: `ps` shows it to other users. Give {ADVICE}."
    return _readable(one.file) if one.file else by_ps


def given(arguments: Sequence[str]) -> Iterator[Given]:
    """Yield all texts among the options."""
    for word, after in pairwise([*arguments, "--"]):
        name, equals, value = word.partition("=")
        if word.startswith("-c"):  # Lightning's short name of --config
            yield from _in_config(word[2:].removeprefix("=") or after)
        elif name.startswith("--"):
            option, text = name[2:], value if equals else "" if after.startswith("--") else after
            mapping = next((one for one in PASSED_ON if option.startswith(f"{one}.")), "")
            if option == "config":
                yield from _in_config(text)
            else:
                known = option.removeprefix(f"{mapping}.")
                yield from _within(option, known, text, "", Path())


def _in_config(text: str) -> Iterator[Given]:
    with suppress(OSError, UnicodeDecodeError):
        content, folder = place(text).read_text(), Path(text).parent
        yield from _within("", "", parsed(content, text), text, folder)
        return
    yield from _within("", "", parsed(text), "", Path())


def _within(
    option: str, name: str, value: Any, file: str, folder: Path, depth: int = 0
) -> Iterator[Given]:
    """Yield the texts in a value; a text may name a file with the options below it."""
    below, at = value, (file, folder, depth + 1)
    if isinstance(value, str) and not is_secret(name):
        path = folder / value
        if path.suffix in _FILES and path.is_file():
            below, at = parsed(path.read_text()), (str(path), path.parent, depth + 1)
        elif not file:
            below = parsed(value)
    if depth > _DEEPEST:  # a YAML file may hold itself
        return
    if isinstance(below, Mapping):
        for key, inner in below.items():
            yield from _within(f"{option}.{key}" if option else str(key), str(key), inner, *at)
    elif isinstance(below, list):
        for inner in below:
            yield from _within(option, name, inner, *at)
    elif isinstance(value, str) or (isinstance(value, (int, float)) and _is_in(option, PASSED_ON)):
        yield Given(option, name, str(value), file)


def parsed(text: str, file: str = "") -> Any:
    """Return the content of a YAML text; the text itself if it is none.

    Texts whose aliases repeat values so often that no memory could hold them are a ConfigError.
    """
    try:
        found = yaml.safe_load(text)
    except Exception:  # noqa: BLE001 - PyYAML has errors of its own, and others at wrong dates
        return text
    if _n_values(found, {}) > _MOST_VALUES:
        where = file or "a configuration"
        raise ConfigError(f"{where}: aliases of aliases. Write the values instead.")
    return found


def _n_values(value: Any, known: dict[int, int]) -> int:
    """Return the number of values in a value, as often as aliases repeat them."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES + 1  # if it holds itself
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_n_values(one, known) for one in inner)
    return known[id(value)]


def _is_in(option: str, groups: Sequence[str]) -> bool:
    return any(f"{option}.".startswith(f"{one}.") for one in groups)


def _is_plain(name: str, value: object) -> bool:
    return value is not None and is_secret(name) and not is_reference(value)


def _readable(path: str) -> str:
    """Return a warning if other users of the machine may read a file, or nothing."""
    with suppress(OSError, RuntimeError):
        if (where := Path(path).expanduser()).stat().st_mode & 0o044:
            return f"{path}: other users can read the secret in it. Run: chmod 600 {where}"
    return ""
