"""One process of a training inside Spark: the options of the driver, read again, and the training of `hepflow train fit`."""

import logging
import os
import sys

from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from hepflow.config.stages import SparkTrainConfig
from hepflow.errors import HepflowError
from hepflow.train.cli import fit, prepared
from hepflow.train.parser import TrainCLI
from hepflow.train.progress import EpochLines

log = logging.getLogger(__name__)


class SparkCLI(TrainCLI):
    """The options of `hepflow train fit`, with those of Spark; the process's place comes from the task that started it."""

    prog = "hepflow spark-train"
    engine = "Spark"
    progress = EpochLines
    requeues = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The same, and Spark."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(SparkTrainConfig, "spark")

    def checked(self, config: Namespace) -> Namespace:
        """Those of Spark too."""
        SparkTrainConfig(**vars(config.spark))
        return super().checked(config)

    def before_instantiate_classes(self) -> None:
        """Keep what concerns Spark out of the run's configuration, so that it is the one of any other training of this net."""
        self.spark = SparkTrainConfig(**vars(self.config.pop("spark")))
        super().before_instantiate_classes()
        trainer = self.config.trainer
        trainer.accelerator, trainer.strategy, trainer.devices, trainer.num_nodes = (
            "cpu",
            "ddp",
            1,
            self.spark.num_processes,
        )
        self.config.threads = self.config.threads or self.spark.cpus_per_process


def process(args: list[str], folder: str | None) -> str | None:
    """Train as one process of the job, see `spark_task.train`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hepflow").setLevel(
        logging.INFO if os.environ["RANK"] == "0" else logging.WARNING
    )
    try:
        os.chdir(folder or ".")
    except OSError as error:
        return f"a Spark task cannot enter {folder} ({error.strerror}): store, configurations and runs must lie where every node sees them"
    try:
        with prepared():
            fit(SparkCLI("fit", args))
    except HepflowError as error:
        return str(error)
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        log.error("process %d lost the others", int(os.environ["RANK"]) + 1)
        sys.exit()  # without a result, by which Spark knows that it failed
    return None
