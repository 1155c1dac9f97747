"""The training of `hepflow train fit` inside Spark: TorchDistributor runs it as one barrier job, a DDP process a task (gloo, CPU).

The driver reads the options, makes sure that there is something to do, and shows what the first process says. Every process reads the
same options again and trains by the same code as anywhere else; Spark only gives it its place among the others. A barrier job ends
as a whole when one of its tasks does; the same command then goes on from the last checkpoint.
"""

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.ml.torch.distributor import TorchDistributor

from hepflow.config.engines import SparkConfig
from hepflow.config.stages import RUNS, SparkTrainConfig
from hepflow.data.runs import CHECKPOINTS, LAST, RECORD
from hepflow.engines.spark import (
    check_paths,
    in_cluster_mode,
    interruptible,
    is_local,
    nothing_to_do,
    session,
    started_by_submit,
)
from hepflow.errors import HepflowError
from hepflow.system.files import read_json
from hepflow.system.processes import cores
from hepflow.train.cli import prepared
from hepflow.train.spark.process import SparkCLI
from hepflow.train.spark.task import connected, train

log = logging.getLogger(__name__)

WAIT_S = 120
"""How long to wait for as many free cores as the job needs all at once."""


class _Driver(SparkCLI):
    """Reads the options and makes nothing."""

    def before_instantiate_classes(self) -> None:
        """Look at the paths before anything is opened."""
        check_paths({"output": self.config.output or RUNS, "data.store": self.config.data.store})
        super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        """The processes do; what they would refuse to replace is known without them."""
        self.check_replaceable()


class _Distributor(TorchDistributor):
    """Shows each line of the first process once."""

    def _run_distributed_training(self, run: Callable[..., Any], *arguments: Any) -> Any:
        return super()._run_distributed_training(partial(connected, run), *arguments)


def main(args: Sequence[str]) -> None:
    """Train a net inside Spark.

    Parameters
    ----------
    args : sequence of str
        Options of `hepflow train fit`, and those of Spark.

    Raises
    ------
    HepflowError
        A mistake of the user's, or the job did not come to its end.
    """
    with prepared():
        driver = _Driver("fit", args)
    name = f"hepflow spark-train {driver.folder.name}"
    if driver.state == "done":
        nothing_to_do(driver.spark, name)
        log.info("%s is up to date: same configuration, same store", driver.folder)
        return
    start = time.perf_counter()
    with session(_for_the_job(driver.spark), name) as spark:
        mistake = interruptible(spark.sparkContext, lambda: _run(driver, args))
        if mistake:
            raise HepflowError(mistake)
    total, training = time.perf_counter() - start, read_json(driver.folder / RECORD)["wall_s"]
    log.info(
        "%.1f s in all: %.1f s of training, %.1f s to start, to test and to end",
        total,
        training,
        total - training,
    )


def _run(driver: SparkCLI, args: Sequence[str]) -> str | None:
    distributor = _Distributor(driver.spark.num_processes, local_mode=False, use_gpu=False)
    logging.getLogger(_Distributor.__name__).setLevel(logging.WARNING)
    try:
        return distributor.run(train, list(args), None if in_cluster_mode() else str(Path.cwd()))
    except (PySparkException, Py4JError) as error:
        last = driver.folder / CHECKPOINTS / LAST
        onward = (
            f"the same command goes on from {last}"
            if last.is_file()
            else "there is no checkpoint yet"
        )
        reason = _reason(error, driver.spark.num_processes)
        raise HepflowError(
            f"the Spark job of {driver.folder.name} ended before its training did ({reason}); {onward}."
        ) from error


def _for_the_job(config: SparkTrainConfig) -> SparkConfig:
    """A session in which exactly these processes run at once; properties of the user's win."""
    processes, cpus = config.num_processes, config.cpus_per_process
    properties = {
        "spark.task.cpus": str(cpus),
        "spark.executor.cores": str(cpus),
        "spark.executor.instances": str(processes),
        "spark.cores.max": str(processes * cpus),
        "spark.scheduler.barrier.maxConcurrentTasksCheck.interval": "2s",
        "spark.scheduler.barrier.maxConcurrentTasksCheck.maxFailures": str(WAIT_S // 2),
    }
    local = is_local(config.master) and not started_by_submit()
    master = f"local[{processes * cpus}]" if local else config.master
    if local and processes * cpus > (available := cores()):
        log.warning(
            "%d processes of %d cores share the %d cores of this machine",
            processes,
            cpus,
            available,
        )
    fixed = {"spark.dynamicAllocation.enabled": "false"}  # a barrier job does not start with it
    return replace(
        SparkConfig(driver_memory=config.driver_memory),
        master=master,
        conf=properties | dict(config.conf) | fixed,
    )


def _reason(error: Exception, processes: int) -> str:
    """What Spark says of it, without its stack traces."""
    text = str(error)
    if rank := re.search(r"barrier task ResultTask\(\d+, (\d+)\)", text):
        lost = re.search(r"ExecutorLostFailure.*", text)
        return f"process {int(rank[1]) + 1} of {processes} ended{f': {lost[0]}' if lost else ', see above'}"
    if "SPARK-24819" in text:
        return f"the cluster never had the cores for {processes} processes free at the same time"
    told = re.search(r"(?:SparkException|^: [\w.$]+): (.*)", text, re.MULTILINE)
    return told[1] if told else text.strip().split("\n", maxsplit=1)[0]
