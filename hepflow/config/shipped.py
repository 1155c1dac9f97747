"""The configuration files that come with hepflow, by the name that they have in a checkout: ``configs/train/hlf.yaml``."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path


def shipped(name: str) -> Path:
    """A configuration file that comes with hepflow, such as ``train/hlf.yaml``: from the package, or from a checkout."""
    package = Path(__file__).parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return folder / name


def with_shipped(arguments: Sequence[str]) -> list[str]:
    """Command line in which ``--config configs/NAME`` means the shipped file where there is no such file here."""
    found = []
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = (
            argument.partition("=") if argument.startswith("--config=") else (before, "", argument)
        )
        name = value.removeprefix("configs/")
        if (
            option == "--config"
            and name != value
            and not Path(value).exists()
            and shipped(name).is_file()
        ):
            value = str(shipped(name))
        found.append(f"{option}={value}" if equals else value)
    return found
