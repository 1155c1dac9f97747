"""Spark's Python workers, of which some die in a task, and some are slow: by a seed, the same ones.

`spark_options` lets Spark's daemon import this module in place of pyspark.worker. Which attempts of
which tasks are chosen depends on their numbers alone, so that it is known beforehand.
"""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from pyspark import worker
from pyspark.taskcontext import TaskContext

PLAN = "HEPFLOW_TEST_DYING_TASKS"
MODULE = "pyspark_dying"  # Spark's daemon takes only names that begin like this
MOMENTS = ("begin", "middle", "end")
LONGEST_S = 0.3
_usual = TaskContext._setTaskContext


def spark_options(folder: Path, *, seed: int, share: float, slow: float, slow_s: float) -> Any:
    """Return Spark's properties. ``share`` of all attempts die, ``slow`` of the first ones wait."""
    (folder / "met").mkdir(parents=True)
    (folder / f"{MODULE}.py").write_text(f"from {__name__} import main\n")
    plan = {"met": f"{folder / 'met'}", "seed": seed, "share": share, "slow": slow}
    return {
        "spark.python.worker.module": MODULE,
        "spark.executorEnv.PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}",
        f"spark.executorEnv.{PLAN}": json.dumps({**plan, "slow_s": slow_s}),
    }


def met(folder: Path) -> dict[str, str]:
    """Return what was planned for the attempts that began: "TASK.ATTEMPT" -> what."""
    return {path.name: path.read_text() for path in (folder / "met").iterdir()}


def main(infile: Any, outfile: Any) -> None:
    """Run a task, as pyspark.worker does."""
    TaskContext._setTaskContext = _changed  # type: ignore[method-assign]
    worker.main(infile, outfile)


def _changed(context: TaskContext | None) -> None:
    _usual(context)
    if context is None:  # the work is done, and Spark does not know it yet
        if _State.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return
    plan = json.loads(os.environ[PLAN])
    name = f"{context.partitionId()}.{context.attemptNumber()}"
    dice = random.Random(f"{plan['seed']} {name}")
    _State.dies = dice.random() < plan["share"]
    if _State.dies:
        moment = dice.choice(MOMENTS)
        (Path(plan["met"]) / name).write_text(moment)
        if moment == "begin":
            os.kill(os.getpid(), signal.SIGKILL)
        elif moment == "middle":
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.001, LONGEST_S))  # SIGALRM kills
    elif context.attemptNumber() == 0 and dice.random() < plan["slow"]:
        (Path(plan["met"]) / name).write_text("slow")
        time.sleep(plan["slow_s"])


class _State:
    dies = False
