"""Training on CPU inside Spark, against plain DDP of as many processes: the same net, events, seed and steps, run in turn.

``spark_vs_ddp`` compares events a second within the epochs, the first left out (it compiles the kernels). What a command takes beside
its training, from starting the processes to the predictions, is reported apart, and so is the ratio of whole commands
(``spark_vs_ddp_command``), which nears the other with the length of the training.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from train import CONFIGS, generate

from hepflow.system.files import read_json


class Run(NamedTuple):
    rates: list[float]
    """Events a second of each epoch but the first."""
    seconds: float
    training_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few events and epochs, in about two minutes on a quiet machine",
    )
    parser.add_argument(
        "--store",
        type=Path,
        help="a store of `hepflow features`; default: generated events of its size",
    )
    parser.add_argument("--net", default="inclusive", help="overlay in configs/train")
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that train together, one thread each"
    )
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        store = (
            arguments.store
            or generate(
                scratch / "jagged.zarr", n_events=400 if quick else 1500, mean_particles=400
            ).path
        )
        runs = measure(
            store.absolute(),
            scratch,
            arguments.net,
            arguments.processes,
            epochs=4,
            repeats=2 if quick else 5,
        )
    print(json.dumps(show(runs)))


def measure(
    store: Path, scratch: Path, net: str, processes: int, *, epochs: int, repeats: int
) -> dict[str, list[Run]]:
    """Both in turn, the order changing from one repeat to the next."""
    ways = {
        "plain DDP": (
            "train",
            "fit",
            "--trainer.accelerator",
            "cpu",
            "--trainer.strategy",
            "ddp",
            "--trainer.devices",
            str(processes),
        ),
        "inside Spark": (
            "spark-train",
            "--spark.num_processes",
            str(processes),
            "--spark.driver_memory",
            "1g",
        ),
    }
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in sorted(ways, reverse=bool(repeat % 2)):
            output = scratch / f"{name}-{repeat}"
            own = (
                "--config",
                str(CONFIGS / f"{net}.yaml"),
                "--data.store",
                str(store),
                "--output",
                str(output),
                "--threads",
                "1",
            )
            length = (
                "--trainer.max_epochs",
                str(epochs),
                "--data.batch_size",
                "128",
                "--trainer.enable_progress_bar",
                "false",
            )
            environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "hepflow", *ways[name], *own, *length],
                check=True,
                capture_output=True,
                env=environment,
            )
            seconds = time.perf_counter() - start
            record = read_json(output / "run.json")
            runs[name].append(
                Run(
                    [row["events_per_s"] for row in record["history"]][1:],
                    seconds,
                    record["wall_s"],
                )
            )
    return runs


def show(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Table, and the ratios."""
    table = Table(title="training by as many processes, median (lowest to highest)")
    for column in ("", "events/s", "training, s", "start, test and end, s"):
        table.add_column(column, justify="right" if column else "left")
    rates, commands, starts = {}, {}, {}
    for name, own in runs.items():
        every = [rate for run in own for rate in run.rates]
        rates[name] = statistics.median(every)
        commands[name] = statistics.median(run.seconds for run in own)
        starts[name] = statistics.median(run.seconds - run.training_s for run in own)
        spread = f"{rates[name]:,.0f} ({min(every):,.0f} to {max(every):,.0f})"
        table.add_row(
            name,
            spread,
            f"{statistics.median(run.training_s for run in own):.1f}",
            f"{starts[name]:.1f}",
        )
    Console(stderr=True).print(table)
    plain, spark = runs
    return {
        "spark_vs_ddp": round(rates[spark] / rates[plain], 3),
        "spark_vs_ddp_command": round(commands[plain] / commands[spark], 3),
        "start_s_ddp": round(starts[plain], 1),
        "start_s_spark": round(starts[spark], 1),
    }


if __name__ == "__main__":
    main()
