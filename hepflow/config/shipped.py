"""Configuration files that come with hepflow, named as in a checkout (configs/...)."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path


def shipped(name: str) -> Path:
    """Return the path of a shipped configuration file, such as ``train/hlf.yaml``."""
    package = Path(__file__).parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return folder / name


def with_shipped(arguments: Sequence[str]) -> list[str]:
    """Replace ``--config configs/NAME`` by the shipped file, unless the named file exists."""
    found = []
    for before, argument in pairwise(["", *arguments]):
        option, value = ("", argument)
        if argument.startswith("--config="):
            option, value = "--config=", argument.removeprefix("--config=")
        name = value.removeprefix("configs/")
        if (option or before == "--config") and name != value and not Path(value).exists():
            value = str(shipped(name)) if shipped(name).is_file() else value
        found.append(option + value)
    return found
