"""Configuration files that come with hepflow, named as in a checkout; and copies of remote ones."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hepflow.errors import ConfigError
from hepflow.system.places import place
from hepflow.system.publishing import new_folder
from hepflow.system.remote import is_remote
from hepflow.system.storage import read_bytes

_COPIES: dict[str, str] = {}
"""Path of a copy on this disk -> the URL that was given."""


def shipped(name: str) -> Path:
    """Return the path of a shipped configuration file, such as ``train/hlf.yaml``."""
    package = Path(__file__).parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return folder / name


def net_file(net: str) -> Path:
    """Return the configuration of a net: a file, or the shipped one of that name."""
    path = Path(net) if Path(net).is_file() else shipped(f"train/{net}.yaml")
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in shipped("train").glob("*.yaml")))
        raise ConfigError(f"net {net!r} is neither a file nor one of {known}")
    return path


def with_shipped(arguments: Sequence[str]) -> list[str]:
    """Replace ``--config configs/NAME`` by the shipped file, unless the named file exists.

    A URL is replaced by a copy on this disk, which the process removes at its end.
    """
    found = []
    for before, argument in pairwise(["", *arguments]):
        option, value = ("", argument)
        if argument.startswith("--config="):
            option, value = "--config=", argument.removeprefix("--config=")
        name = value.removeprefix("configs/")
        if (option or before == "--config") and name != value and not Path(value).exists():
            value = str(shipped(name)) if shipped(name).is_file() else value
        elif (option or before == "--config") and is_remote(value):
            value = _copied(value)
        found.append(option + value)
    return found


def as_given(text: str) -> str:
    """Return a text with the URLs of configuration files in place of their copies."""
    for copy, url in _COPIES.items():
        text = text.replace(copy, url)
    return text


def _copied(url: str) -> str:
    copy = new_folder() / url.rpartition("/")[2]
    if not place(url).is_file():
        raise ConfigError(f"--config: no file {url}.")
    copy.write_bytes(read_bytes(place(url)))
    _COPIES[str(copy)] = url
    return str(copy)
