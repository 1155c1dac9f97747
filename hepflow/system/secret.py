"""Secrets among the values of options: their names, where they are kept, and texts without them.

A secret is given by a reference: ``file:PATH``, ``env:NAME`` or ``keyring:SERVICE/USER``, the first
two as in OpenSSL. Configurations, records and variables keep the reference; the process that needs
the value reads it. Every value that this process knows is left out of its messages.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hepflow.errors import ConfigError, MissingDependency, one_line

NAMES = (
    r"(?i)^(?!.*(?:file|path|location|provider|enabled|class|ur[il])$).*(?:"
    r"secret|passw|passphrase|\bpwd$|token|credential|signature|jaas|\bauthorization$"
    r"|^(?:sig|authz|auth)$"
    r"|(?:access|account|api|private|shared)[._-]?key|\bkey$|key[.]pem|oauthbearer[.]config"
    r"|connection[._-]?string)"
)
"""Pattern of the names of secrets, for Python and Java. A path to one is no secret."""
KINDS = ("file:", "env:", "keyring:")
IN_URL = (
    "a URL with a password or a token. "
    "Put it where the store's own tools look for it (docs/storage.md)."
)
ADVICE = "file:PATH, env:NAME or keyring:SERVICE/USER"
_SECRET = re.compile(NAMES)
_USER = re.compile(r"https?://([^\s/?#@]+)@|://([^\s/?#@]*:[^\s/?#]*)@")
_QUERY = re.compile(r"[?&]([\w.%-]+)=([^\s&#]+)")
_ASSIGNED = re.compile(r"(?:^|[\s;,'\"])-*([A-Za-z_][\w.-]*)=(?=([^\s;,]+))")
_READ_THERE = ("$", '"$', "`", '"`', *KINDS)
"""Beginnings of values that a shell reads elsewhere."""
_SHORTEST, _ANY_VALUE = 4, {"true", "false", "none", "null"}
_KNOWN: set[str] = set()
"""Secret values of this process, in the spellings of JSON, of Python and of URLs."""


def is_secret(name: str) -> bool:
    """Return whether the value of a name, such as ``sasl.password``, is a secret."""
    return _SECRET.search(name) is not None


def is_reference(value: object) -> bool:
    """Return whether a value names the place of a secret."""
    return isinstance(value, str) and value.startswith(KINDS)


def in_text(text: str) -> list[str]:
    """Return the secrets within a text: of URLs, and of assignments such as ``TOKEN=...``."""
    found = [one for pair in _USER.findall(text) for one in pair if one]
    found = [one.rpartition(":")[2] for one in found]
    pairs = _QUERY.findall(text) if "://" in text else []
    assigned = [pair for pair in _ASSIGNED.findall(text) if not pair[1].startswith(_READ_THERE)]
    pairs += [pair for pair in assigned if len(pair[0]) > len("key")]  # folders have key=1
    return found + [value.strip("'\"") for name, value in pairs if is_secret(name)]


def require_none(url: str) -> None:
    """Refuse a URL with a password or a token, which would be in records and messages."""
    if values := in_text(url):
        remember(values)
        protocol, _, rest = url.partition("://")
        user, at, server = re.split("[/?]", rest)[0].rpartition("@")
        shown = f"{protocol}://{'...' if user else ''}{at}{server}"
        raise ConfigError(f"{shown}: {IN_URL}")


def absolute(reference: str) -> str:
    """Return a reference that holds in other folders too."""
    path = reference.removeprefix("file:")
    return reference if path == reference else f"file:{Path(path).expanduser().absolute()}"


def remember(values: Iterable[str]) -> None:
    """Leave these values out of all texts that are shown from now on."""
    for value in values:
        for text in (value, *value.splitlines()):
            if len(text) >= _SHORTEST and text.lower() not in _ANY_VALUE:
                spelt = (text, json.dumps(text)[1:-1], repr(text)[1:-1], quote(text, safe=""))
                _KNOWN.update(spelt, (" ".join(text.split()),))


def hidden(text: str) -> str:
    """Return a text without the known secrets."""
    for value in sorted(_KNOWN, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def resolved(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options with the values of secrets in place of their references, at any depth.

    ``where`` is the option that holds them, for messages. The values are remembered.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        found[name] = value
        if isinstance(value, Mapping):
            found[name] = resolved(value, f"{where}.{name}")
        elif isinstance(value, str) and is_secret(name):
            found[name] = _value_of(value, f"{where}.{name}") if is_reference(value) else value
            remember([found[name]])
    return found


def _value_of(reference: str, where: str) -> str:
    kind, _, name = reference.partition(":")
    if kind == "file":
        try:
            found = Path(name).expanduser().read_text().removesuffix("\n")
        except (OSError, UnicodeDecodeError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or one_line(error)
            what = f"cannot read the secret in {name} ({why})"
            raise ConfigError(f"{where}: {what}. Give the path of a text file.") from error
    elif kind == "env":
        found = os.environ.get(name, "")
    else:
        found = _in_keyring(name, where)
    if not found:
        kept = {"file": "the file {} is empty", "env": "no variable {}"}
        what = kept.get(kind, "no entry {} in the keyring").format(name)
        advice = {"file": "Write the secret into it", "env": "Set and export it"}
        raise ConfigError(f"{where}: {what}. {advice.get(kind, 'Run: keyring set SERVICE USER')}.")
    return found


@cache
def _in_keyring(name: str, where: str) -> str:
    service, slash, user = name.rpartition("/")
    if not slash:
        raise ConfigError(f"{where}: keyring:{name} names no user. Give keyring:SERVICE/USER.")
    try:
        keyring, errors = import_module("keyring"), import_module("keyring.errors")
    except ModuleNotFoundError as error:
        what = f"{where}: the package {error.name!r} is not installed"
        raise MissingDependency(f"{what}. Run: pip install 'hepflow[keyring]'") from error
    try:
        return str(keyring.get_password(service, user) or "")
    except errors.KeyringError as error:
        what = f"{where}: the keyring cannot be read ({one_line(error)})"
        raise ConfigError(f"{what}. Unlock it, or give file:PATH or env:NAME.") from error
