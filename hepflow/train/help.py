"""What ``hepflow train COMMAND --help`` prints: the options of a training, read from the sources so that no torch is loaded."""

import ast
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import NamedTuple

from docstring_parser import parse, parse_from_object
from rich.console import Console
from rich.table import Table

from hepflow import config

FULL = "--help_all"
HERE = Path(__file__).parent
CLASSES = {"data": ("data.py", "EventData"), "model": ("module.py", "Classifier")}
LINKED = {"data.seed", "model.seed", "model.inputs"}
"""Options that follow from others."""
OF_LIGHTNING = {
    "seed_everything": "Seed of everything random.",
    "trainer.max_epochs": "Epochs at most.",
    "trainer.accelerator": "auto, cpu or gpu.",
    "trainer.devices": "Processes on this machine: one a GPU, or a share of the cores.",
    "trainer.num_nodes": "Machines; under Slurm as many as the job has.",
    "trainer.precision": "32-true, or bf16-mixed where the hardware is made for it.",
    "trainer.limit_train_batches": "Batches an epoch, or a fraction of them.",
    "early_stopping.patience": "Epochs without a lower val_loss after which to stop.",
    "checkpoint.monitor": "What the best checkpoint is best in.",
}

OF_SPARK = {"trainer.accelerator", "trainer.devices", "trainer.num_nodes"}
"""What Spark decides where it starts the processes."""


class Option(NamedTuple):
    """An option and what it means."""

    name: str
    default: str
    text: str


def print_help(command: str, about: str, *, in_spark: bool = False) -> None:
    """Print usage and options of a command.

    Parameters
    ----------
    command : str
        ``fit``, ``validate``, ``test`` or ``predict``.
    about : str
        What it does.
    in_spark : bool
        It is the command that trains inside Spark.
    """
    console = Console()
    name = "hepflow spark-train" if in_spark else f"hepflow train {command}"
    console.print(f"usage: {name} [--config FILE ...] [options]\n\n{about}.", markup=False, highlight=False)
    for group, options in groups(in_spark=in_spark).items():
        _print_group(console, group, options)
    console.print(f"\nAll options, with every one of Lightning's Trainer: {name} {FULL}", highlight=False)
    console.print(f"What a command would run with: {name} ... --print_config", highlight=False)


def groups(*, in_spark: bool = False) -> dict[str, list[Option]]:
    """What is configured -> its options."""
    configs = "Later files and options win; configs/train/ has one a net."
    return {
        "the run": [Option("config", "", f"YAML file of these options, any number of times. {configs}"), *_of(config.TrainConfig)],
        **({"spark": [*_of(config.SparkTrainConfig, "spark.")]} if in_spark else {}),
        **{group: [*_of_a_class(group, HERE / file, name)] for group, (file, name) in CLASSES.items()},
        "trainer": [Option(name, "", text) for name, text in OF_LIGHTNING.items() if not in_spark or name not in OF_SPARK],
    }


def _print_group(console: Console, title: str, options: Iterable[Option]) -> None:
    console.print(f"\n{title}:", highlight=False)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for name, default, text in options:
        table.add_row(f"  --{name}", text + (f" (default: {default})" if default else ""))
    console.print(table, markup=False, highlight=False)


def _of(own: type, prefix: str = "") -> Iterator[Option]:
    """Fields of a configuration."""
    texts = {param.arg_name: param.description for cls in own.__mro__[:-1] for param in parse_from_object(cls).params}
    for field in fields(own):
        default = "" if field.default in {None, MISSING} else str(field.default)
        yield Option(prefix + field.name, default, texts[field.name] or "")


def _of_a_class(group: str, path: Path, name: str) -> Iterator[Option]:
    """Parameters of a constructor, as its source and the docstring of its class have them."""
    tree = ast.parse(path.read_text())
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    signature = next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == "__init__").args
    texts = {param.arg_name: param.description or "" for param in parse(ast.get_docstring(owner) or "").params}
    with_default = zip(reversed([*signature.posonlyargs, *signature.args]), reversed(signature.defaults), strict=False)
    defaults = {argument.arg: value for argument, value in [*with_default, *zip(signature.kwonlyargs, signature.kw_defaults, strict=True)]}
    for argument in [*signature.args[1:], *signature.kwonlyargs]:
        value = defaults.get(argument.arg)
        if f"{group}.{argument.arg}" not in LINKED:
            yield Option(f"{group}.{argument.arg}", _shown(value), inspect.cleandoc(texts[argument.arg]).replace("\n", " "))


def _shown(default: ast.expr | None) -> str:
    if isinstance(default, ast.Name):
        return str(getattr(config, default.id, default.id))
    return str(ast.literal_eval(default)) if default else ""
