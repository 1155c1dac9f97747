"""The training of `hepflow train fit` inside Spark: one barrier job, one DDP process per task.

The driver reads the options, checks that there is something to do, and shows the output of the
first process. Every process reads the same options again and trains with the same code as anywhere
else (gloo, CPU); Spark only gives it its rank. A barrier job ends as a whole when one of its tasks
does; the same command then resumes from the last checkpoint.
"""

import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.ml.torch import distributor
from pyspark.ml.torch.distributor import TorchDistributor
from pytorch_lightning.cli import LightningArgumentParser

from hepflow.config.arguments import add_fields
from hepflow.config.engines import SparkConfig
from hepflow.config.stages import RUNS, SparkTrainConfig
from hepflow.data.runs import CHECKPOINTS, read_record
from hepflow.engines import spark as engine
from hepflow.engines.spark_jobs import interruptible
from hepflow.errors import HepflowError
from hepflow.system.processes import LAUNCHER, cores, end_with
from hepflow.system.terminal import start_messages
from hepflow.train.cli import fit, prepared
from hepflow.train.folder import next_start
from hepflow.train.parser import TrainCLI
from hepflow.train.progress import EpochLines
from hepflow.train.ranks import SIZE
from hepflow.train.spark.task import connected, launch, met, train
from hepflow.train.spark.terminal import Terminal

log = logging.getLogger(__name__)

WAIT_S = 120  # for as many free cores as the job needs at once


class SparkCLI(TrainCLI):
    """The options of `hepflow train fit`, and those of Spark."""

    prog = "hepflow spark-train"
    engine = "Spark"
    progress = EpochLines
    requeues = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of Spark."""
        super().add_arguments_to_parser(parser)
        add_fields(parser, SparkTrainConfig, "spark")

    def checked(self, config: Namespace) -> Namespace:
        """Check the options of Spark too."""
        SparkTrainConfig(**vars(config.spark))
        return super().checked(config)

    def before_instantiate_classes(self) -> None:
        """Keep Spark out of the run's configuration: it is that of any other training."""
        self.spark = SparkTrainConfig(**vars(self.config.pop("spark")))
        super().before_instantiate_classes()
        trainer = self.config.trainer
        trainer.accelerator, trainer.strategy, trainer.devices = "cpu", "ddp", 1
        trainer.num_nodes = self.spark.num_processes
        self.config.threads = self.config.threads or self.spark.cpus_per_process


class _Driver(SparkCLI):
    """Reads the options only."""

    def before_instantiate_classes(self) -> None:
        """Check the paths before anything is opened."""
        config = self.config
        paths = {"output": config.output or RUNS, "data.store": config.data.store}
        engine.prepare(SparkTrainConfig(**vars(config.spark)), paths)
        super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        """Leave it to the processes, but refuse to replace another training."""
        self.run.check_replaceable()


class _Distributor(TorchDistributor):
    """Shows each line of the first process once, and starts the processes without torchrun."""

    def _run_distributed_training(
        self, run: Callable[..., Any], train: Callable[..., Any], _: Any, *arguments: Any
    ) -> Any:
        password = secrets.token_hex(SIZE)  # a second secret, as it crosses the network
        own = partial(connected, partial(met, run, secrets.token_hex(SIZE)), password)
        # PySpark has no way to give it another server.
        distributor.LogStreamingServer = partial(Terminal, password)
        return super()._run_distributed_training(own, train, launch, *arguments)


def spark_train(args: Sequence[str]) -> None:
    """Train a net inside Spark, by the options of `hepflow train fit` and those of Spark."""
    with prepared():
        driver = _Driver("fit", args)
    run, name = driver.run, f"hepflow spark-train {driver.run.folder.name}"
    if run.state == "done":
        engine.nothing_to_do(driver.spark, name)
        log.info("%s is up to date: same configuration, same store", run.folder)
        return
    start = time.perf_counter()
    with engine.spark_session(_for_the_job(driver.spark), name) as session:
        if mistake := interruptible(session.sparkContext, lambda: _run(driver, args)):
            raise HepflowError(mistake)
    total, training = time.perf_counter() - start, read_record(run.folder)["wall_s"]
    text = "%.1f s in total: %.1f s of training, %.1f s to start, test and end"
    log.info(text, total, training, total - training)


def _run(driver: SparkCLI, args: Sequence[str]) -> str | None:
    ours = _Distributor(driver.spark.num_processes, local_mode=False, use_gpu=False)
    logging.getLogger(_Distributor.__name__).setLevel(logging.WARNING)
    folder = None if engine.in_cluster_mode() else str(Path.cwd())
    try:
        return ours.run(train, list(args), folder)
    except (PySparkException, Py4JError) as error:
        run, why = driver.run.folder, _reason(error, driver.spark.num_processes)
        advice = f"Run the same command to {next_start(run / CHECKPOINTS)}."
        ended = f"the Spark job of {run.name} ended before its training did"
        raise HepflowError(f"{ended} ({why}). {advice}") from error


def _for_the_job(config: SparkTrainConfig) -> SparkConfig:
    """Return a session that runs exactly these processes at once; the user's properties win."""
    processes, cpus = config.num_processes, config.cpus_per_process
    properties: dict[str, str | None] = {
        "spark.task.cpus": str(cpus),
        "spark.executor.cores": str(cpus),
        "spark.executor.instances": str(processes),
        "spark.cores.max": str(processes * cpus),
        "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "2s",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures": str(WAIT_S // 2),
    }
    local = engine.is_local(config.master) and not engine.started_by_submit()
    master = f"local[{processes * cpus}]" if local else config.master
    if local and processes * cpus > (n := cores()):
        text = "%d processes of %d cores share the %d cores of this machine"
        log.warning(text, processes, cpus, n)
    fixed = {"spark.dynamicAllocation.enabled": "false"}  # a barrier job would not start
    conf = properties | dict(config.conf) | fixed
    return replace(SparkConfig(driver_memory=config.driver_memory), master=master, conf=conf)


def _reason(error: Exception, processes: int) -> str:
    """Return the reason in Spark's error, without its stack traces."""
    text = str(error)
    if rank := re.search(r"barrier task ResultTask\(\d+, (\d+)\)", text):
        lost = re.search(r"ExecutorLostFailure.*", text)
        why = f": {lost[0]}" if lost else ", see above"
        return f"process {int(rank[1]) + 1} of {processes} ended{why}"
    if "SPARK-24819" in text:
        return f"the cluster never had the cores for {processes} processes free at the same time"
    found = re.search(r"(?:SparkException|^: [\w.$]+): (.*)", text, re.MULTILINE)
    return found[1] if found else text.strip().split("\n", maxsplit=1)[0]


def process(args: list[str], folder: str | None) -> str | None:
    """Train as one process of the job, see `hepflow.train.spark.task.train`."""
    end_with(int(os.environ[LAUNCHER]))
    rank = int(os.environ["RANK"])
    start_messages()
    logging.getLogger("hepflow").setLevel(logging.WARNING if rank else logging.INFO)
    try:
        os.chdir(folder or ".")
    except OSError as error:
        advice = "Put store, configurations and runs where every node can read them."
        return f"a Spark task cannot enter {folder} ({error.strerror}). {advice}"
    try:
        with prepared():
            fit(SparkCLI("fit", args))
    except HepflowError as error:
        return str(error)
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        log.error("process %d lost the others", rank + 1)
        sys.exit()  # without a result: Spark counts it as failed
    return None
