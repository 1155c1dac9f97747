"""Training on CPUs inside Spark against plain DDP: same net, events, seed, steps, processes.

Both run in turn. ``spark_vs_ddp`` compares events per second within the epochs, without the first
one, which compiles the kernels. The rest of a command, from starting the processes to the
predictions, is reported separately, and so is the ratio of whole commands
(``spark_vs_ddp_command``), which approaches the other for long trainings.
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

from train import CONFIGS, generate

from hepflow.system.files import read_json
from hepflow.system.terminal import MESSAGES, show, table


class Run(NamedTuple):
    rates: list[float]
    """Events per second of each epoch except the first."""
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
        events = 400 if quick else 1500
        store = arguments.store or generate(scratch / "jagged.zarr", events, mean_particles=400)
        runs = measure(
            store.absolute(),
            scratch,
            arguments.net,
            arguments.processes,
            epochs=4,
            repeats=2 if quick else 5,
        )
    print(json.dumps(summary(runs)))


def measure(
    store: Path, scratch: Path, net: str, processes: int, *, epochs: int, repeats: int
) -> dict[str, list[Run]]:
    """Run both in turn, in alternating order."""
    ways = {
        "plain DDP": "train fit --trainer.accelerator cpu --trainer.strategy ddp "
        f"--trainer.devices {processes}",
        "inside Spark": f"spark-train --spark.num_processes {processes} --spark.driver_memory 1g",
    }
    common = f"--threads 1 --trainer.max_epochs {epochs} --data.batch_size 128"
    common += " --trainer.enable_progress_bar false"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in sorted(ways, reverse=bool(repeat % 2)):
            output = scratch / f"{name}-{repeat}"
            command = [sys.executable, "-m", "hepflow", *ways[name].split(), *common.split()]
            command += ["--config", str(CONFIGS / f"{net}.yaml"), "--data.store", str(store)]
            command += ["--output", str(output)]
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds = time.perf_counter() - start
            record = read_json(output / "run.json")
            rates = [row["events_per_s"] for row in record["history"]][1:]
            runs[name].append(Run(rates, seconds, record["wall_s"]))
    return runs


def summary(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Print the table, and return the ratios."""
    rows, rates, commands, starts = [], {}, {}, {}
    for name, own in runs.items():
        every = [rate for run in own for rate in run.rates]
        rates[name] = statistics.median(every)
        commands[name] = statistics.median(run.seconds for run in own)
        starts[name] = statistics.median(run.seconds - run.training_s for run in own)
        spread = f"{rates[name]:,.0f} ({min(every):,.0f} to {max(every):,.0f})"
        training = statistics.median(run.training_s for run in own)
        rows.append((name, spread, f"{training:.1f}", f"{starts[name]:.1f}"))
    columns = ("", "events/s", "training, s", "start, test and end, s")
    title = "training by as many processes, median (lowest to highest)"
    show(table(columns, rows, title), console=MESSAGES)
    plain, spark = runs
    return {
        "spark_vs_ddp": round(rates[spark] / rates[plain], 3),
        "spark_vs_ddp_command": round(commands[plain] / commands[spark], 3),
        "start_s_ddp": round(starts[plain], 1),
        "start_s_spark": round(starts[spark], 1),
    }


if __name__ == "__main__":
    main()
