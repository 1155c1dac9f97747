"""The options of a training for its help and for completion, without loading torch."""

from hepflow.config import stages
from hepflow.config.options import GENERAL, SWITCH, Groups, Option, groups_of, with_urls
from hepflow.config.train import DataConfig, ModelConfig, of_an_epoch

FULL = "--help_all"
ALIASES = {"--input": "--data.store", "--seed": "--seed_everything", FULL: "--help"}
SWITCHES = {"--overwrite", "--model.torch_compile"}  # options that mean true if no value follows
_CONFIG = (
    "YAML file of these options, any number of times. Later files and options win; "
    "configs/train/ has one per net."
)
_NET = (
    "Class of the net, such as hepflow.models.inclusive.InclusiveNet, made from the store's "
    "description of its inputs; its own arguments are model.net.NAME."
)
_PATIENCE = "Epochs without a lower val_loss to stop after."
_MONITOR = (
    f"Measure whose lowest value makes the best epoch: {', '.join(of_an_epoch(['CLASS']))}; "
    "with --checkpoint.mode max, the highest."
)
LIGHTNING = [
    Option("seed_everything", "INT", "1", "Seed of everything random."),
    Option("trainer.max_epochs", "INT", "50", "Maximum number of epochs."),
    Option("trainer.accelerator", "{auto,cpu,gpu}", "auto", "Device to train on."),
    Option("trainer.devices", "INT|auto", "auto", "Processes on this machine, one per GPU."),
    Option("trainer.num_nodes", "INT", "1", "Machines; under Slurm as many as the job has."),
    Option("trainer.precision", "TEXT", "32-true", "32-true, or bf16-mixed on suitable hardware."),
    Option("trainer.limit_train_batches", "NUMBER", "all", "Batches per epoch, or a fraction."),
    Option("early_stopping.patience", "INT", "15", _PATIENCE),
    Option("checkpoint.monitor", "TEXT", "val_loss", _MONITOR),
]
URLS = {"output", "ckpt_path", "data.store"}
"""Options that may be URLs of any store."""
SET_BY_SPARK = {"trainer.accelerator", "trainer.devices", "trainer.num_nodes"}


def groups(*, in_spark: bool = False) -> Groups:
    """Return the options under their headings."""
    config_file, *others = GENERAL
    general = [config_file._replace(text=_CONFIG), *others]
    found = groups_of(stages.TrainConfig, title="the run", general=general)
    if in_spark:
        found |= groups_of(stages.SparkTrainConfig, "spark.", "Spark")
    found |= groups_of(DataConfig, "data.", "data") | groups_of(ModelConfig, "model.", "model")
    found["model"].insert(0, Option("model.net", "CLASS", "HLFNet", _NET))
    found["trainer"] = [o for o in LIGHTNING if not in_spark or o.name not in SET_BY_SPARK]
    spelt = {title: [_spelt(option) for option in options] for title, options in found.items()}
    return with_urls(spelt, URLS)


def _spelt(option: Option) -> Option:
    """Return an option with its short names, and without a value if it is a switch."""
    flag = f"--{option.name}"
    aliases = tuple(alias for alias, name in ALIASES.items() if name == flag)
    if flag in SWITCHES:
        option = option._replace(value=SWITCH, default="")
    return option._replace(aliases=aliases)
