"""The options of a training, for its help and for completion: read from the sources, so that no torch is loaded."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from docstring_parser import parse

from hepflow.config import stages
from hepflow.config.options import GENERAL, PATH, SWITCH, Option, groups_of, shown
from hepflow.train.measures import of_an_epoch

FULL = "--help_all"
ALIASES = {"--input": "--data.store", "--seed": "--seed_everything", FULL: "--help"}
HERE = Path(__file__).parent
CLASSES = {"data": ("data.py", "EventData"), "model": ("module.py", "Classifier")}
LINKED = {"data.seed", "model.seed", "model.inputs"}
"""Options that follow from others."""
VALUES = {
    "Path": PATH,
    "int": "INT",
    "float": "NUMBER",
    "bool": SWITCH,
    "Balance": "equal|natural|{CLASS: NUMBER, ...}",
    "Order": "{delta_r,stored}",
    "NetOf": "CLASS",
}
"""Type, as the sources have it -> what a user is told to give."""
OF_LIGHTNING = (
    Option("seed_everything", "INT", "1", "Seed of everything random."),
    Option("trainer.max_epochs", "INT", "50", "Epochs at most."),
    Option("trainer.accelerator", "{auto,cpu,gpu}", "auto", "What the nets are trained on."),
    Option(
        "trainer.devices",
        "INT|auto",
        "auto",
        "Processes on this machine: one a GPU, or a share of the cores.",
    ),
    Option("trainer.num_nodes", "INT", "1", "Machines; under Slurm as many as the job has."),
    Option(
        "trainer.precision",
        "TEXT",
        "32-true",
        "32-true, or bf16-mixed where the hardware is made for it.",
    ),
    Option(
        "trainer.limit_train_batches", "NUMBER", "all", "Batches an epoch, or a fraction of them."
    ),
    Option(
        "early_stopping.patience",
        "INT",
        "15",
        "Epochs without a lower val_loss after which to stop.",
    ),
    Option(
        "checkpoint.monitor",
        "TEXT",
        "val_loss",
        f"What the best epoch has least of: {', '.join(of_an_epoch(['CLASS']))}; with --checkpoint.mode max, most of.",
    ),
)
OF_SPARK = {"trainer.accelerator", "trainer.devices", "trainer.num_nodes"}
"""Options that Spark decides."""


def groups(*, in_spark: bool = False) -> dict[str, list[Option]]:
    """What is configured -> its options."""
    config_file, *others = GENERAL
    text = "YAML file of these options, any number of times. Later files and options win; configs/train/ has one a net."
    return {
        **groups_of(
            stages.TrainConfig, title="the run", general=[config_file._replace(text=text), *others]
        ),
        **(groups_of(stages.SparkTrainConfig, "spark.", "Spark") if in_spark else {}),
        **{
            group: [*_of_a_class(group, HERE / file, name)]
            for group, (file, name) in CLASSES.items()
        },
        "trainer": [
            _named(option) for option in OF_LIGHTNING if not in_spark or option.name not in OF_SPARK
        ],
    }


def _of_a_class(group: str, path: Path, name: str) -> Iterator[Option]:
    """Parameters of a constructor, as its source and the docstring of its class have them."""
    tree = ast.parse(path.read_text())
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    signature = next(
        node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ).args
    texts = {
        param.arg_name: param.description or ""
        for param in parse(ast.get_docstring(owner) or "").params
    }
    with_default = zip(
        reversed([*signature.posonlyargs, *signature.args]),
        reversed(signature.defaults),
        strict=False,
    )
    defaults = {
        argument.arg: value
        for argument, value in [
            *with_default,
            *zip(signature.kwonlyargs, signature.kw_defaults, strict=True),
        ]
    }
    for argument in [*signature.args[1:], *signature.kwonlyargs]:
        option = f"{group}.{argument.arg}"
        if option not in LINKED:
            text = inspect.cleandoc(texts[argument.arg]).replace("\n", " ")
            value = _value(argument.annotation)
            yield _named(
                Option(
                    option,
                    value,
                    "" if value == SWITCH else _default(defaults.get(argument.arg)),
                    text,
                )
            )


def _named(option: Option) -> Option:
    """With the short name that some have."""
    return option._replace(
        aliases=tuple(alias for alias, name in ALIASES.items() if name == f"--{option.name}")
    )


def _value(annotation: ast.expr | None) -> str:
    source = ast.unparse(annotation) if annotation else ""
    if source.startswith("Literal["):
        return "{" + ",".join(ast.literal_eval(source.removeprefix("Literal"))) + "}"
    return VALUES[source]


def _default(default: ast.expr | None) -> str:
    if isinstance(default, ast.Name):
        return str(getattr(stages, default.id, default.id))
    return shown(ast.literal_eval(default)) if default else ""
