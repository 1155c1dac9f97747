"""`hepflow bench`: measure every case in turn, again and again, and keep what was measured, so that a rerun goes on.

Repeats are interleaved: every case is run once before any is run twice, back and forth, so that what else the machine does falls on all.
"""

import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hepflow.config.tools import BenchConfig
from hepflow.data.provenance import code_hash, digest
from hepflow.errors import ConfigError
from hepflow.system import locks
from hepflow.system.files import read_json, write_json
from hepflow.system.processes import cores, versions
from hepflow.system.terminal import MESSAGES, counted
from hepflow_bench import plots, report, scaling
from hepflow_bench.cases import GPU, OURS, Measured, cases, measure, prepare

log = logging.getLogger(__name__)

PACKAGES = (
    "hepflow",
    "torch",
    "pytorch-lightning",
    "pyspark",
    "dask",
    "awkward",
    "uproot",
    "numpy",
)
JSON_FILE, CSV_FILE = "bench.json", "bench.csv"
NOT_MEASURED = (
    "bench/job",
    "bench/plots",
    "bench/report",
    "bench/scaling",
    "evaluate/",
    "published",
)
"""Sources that have no part in what a measurement gives."""


def run(config: BenchConfig) -> None:
    """Measure what is missing, then write bench.json, bench.csv and the plots, and print the tables (``json``: bench.json).

    Raises
    ------
    ConfigError
        Nothing is left to measure here.
    HepflowError
        A command failed; what was measured before it is kept.
    """
    gpus = _gpus()
    if not list(cases(config, len(gpus))):
        raise ConfigError(
            f"stages {', '.join(config.stages)}: nothing that can be measured here, with {counted(len(gpus), 'GPU')}"
        )
    with locks.exclusive(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
        code = digest(code_hash(leave_out=NOT_MEASURED), config.copies)
        scored = config.nets if "score" in config.stages else ()
        inputs = {
            size: prepare(config.output / "input", size, config.copies, scored, code)
            for size in config.sizes
        }
        started = time.perf_counter()
        rows, n_kept = _measured(config, inputs)
        minutes = (time.perf_counter() - started) / 60
        _report(config, rows, inputs[max(config.sizes)])
    said = f"{counted(len(rows), 'run')}, {n_kept} of them from before, in {minutes:.1f} min"
    log.info(
        "measured %s; wrote %s, %s and four plots to %s", said, JSON_FILE, CSV_FILE, config.output
    )


def _measured(config: BenchConfig, inputs: dict[int, Path]) -> tuple[list[Measured], int]:
    """Every case as often as asked for; those of an earlier run of the same code on this machine count, and their number is told."""
    path = config.output / JSON_FILE
    machine = _machine()
    settings = digest(code_hash(leave_out=NOT_MEASURED), machine, config.epochs, config.copies)
    old = read_json(path) if path.is_file() else {}
    kept = (
        [Measured(**row) for row in old.get("measurements", [])]
        if old.get("settings") == settings
        else []
    )
    found = list(cases(config, len(machine["gpus"])))
    wanted = [
        (repeat, case)
        for repeat in range(config.repeats)
        for case in (reversed(found) if repeat % 2 else found)
    ]
    known = {(row.repeat, row.case): row for row in kept}
    missing = [key for key in wanted if key not in known]
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=MESSAGES) as progress:
        bar = progress.add_task("bench", total=len(wanted), completed=len(wanted) - len(missing))
        for number, (repeat, case) in enumerate(missing, start=len(wanted) - len(missing) + 1):
            progress.update(bar, description=case.stage)
            row = measure(case, repeat, inputs[case.size], config.output / "scratch", config.epochs)
            known[repeat, case] = row
            write_json(
                path,
                {
                    "settings": settings,
                    "machine": machine,
                    "measurements": [asdict(row) for row in known.values()],
                },
            )
            name = case.stage if case.way == OURS else f"{case.stage} by {case.way}"
            shape = f"{case.size:,} a class, {case.workers} x {case.cores}"
            log.info(
                "[%d/%d] %s, %s: %.1f s, %.0f events/s",
                number,
                len(wanted),
                name,
                shape,
                row.seconds,
                row.events_per_s,
            )
            progress.update(bar, advance=1)
    return [known[repeat, case] for repeat in range(config.repeats) for case in found], len(
        wanted
    ) - len(missing)


def _report(config: BenchConfig, rows: Sequence[Measured], inputs: Path) -> None:
    record = read_json(config.output / JSON_FILE)
    dates = _dates(rows)
    machine = _words(record["machine"])
    load = f"load before a run: median {median(row.load for row in rows):.1f}, highest {max(row.load for row in rows):.1f}"
    caption = f"{machine}; {dates}; {load}"
    shares = _shares(inputs)
    ours = [row for row in rows if row.way == OURS]
    costs = {
        stage: scaling.fit([row for row in ours if row.stage == stage])
        for stage in dict.fromkeys(row.stage for row in ours)
    }
    summaries = report.summarise(rows, costs)
    ratios = scaling.against_rivals(rows, costs)
    unknown = [stage for stage, cost in costs.items() if not cost.start_known]
    beside = report.beside_published(report.per_core(summaries, shares["features"]), dates, unknown)
    largest = report.largest(summaries)
    report.write_csv(config.output / CSV_FILE, rows, machine)
    plots.throughput(
        config.output / "throughput.png", largest, report.largest(summaries, way="rivals"), caption
    )
    plots.scaling(config.output / "scaling.png", largest, caption)
    plots.share(config.output / "share.png", list(costs.values()), shares, caption)
    plots.per_core(config.output / "per_core.png", beside, caption)
    for name, values in (
        ("summary", summaries),
        ("costs", costs.values()),
        ("rivals", ratios),
        ("per_core", beside),
    ):
        record[name] = [asdict(value) for value in values]
    record["dates"] = dates
    extrapolated = (
        scaling.extrapolate(ours, shares, config.extrapolate, config.extrapolate_cores)
        if config.extrapolate
        else []
    )
    record["extrapolation"] = [
        asdict(row) for row in extrapolated
    ]  # JSON makes its numbers of cores to strings
    write_json(config.output / JSON_FILE, record)
    if config.json:
        print((config.output / JSON_FILE).read_text(), end="")
        return
    report.print_summary(summaries)
    report.print_rivals(ratios)
    report.print_per_core(beside)
    report.print_costs(costs.values())
    if extrapolated:
        report.print_extrapolation(
            extrapolated, config.extrapolate, config.extrapolate_cores, scaling.measured_range(ours)
        )
    console = Console(highlight=False)
    if unknown:
        console.print(
            f"{', '.join(unknown)}: start unknown with one size (≥, ?; it counts with the events): give two --sizes"
        )
    if GPU in config.stages and not record["machine"]["gpus"]:
        console.print(f"{GPU}: not measured, no GPU here")
    console.print(caption)


def _shares(inputs: Path) -> dict[str, float]:
    """Kind of stage -> share of the events read by ingest that reach it."""
    ledger = read_json(inputs / "events" / "_hepflow.json")["ledger"]
    counts = read_json(inputs / "features.zarr" / "zarr.json")["attributes"]["hepflow"]["counts"]
    training = sum(counts["train"].values()) / ledger["n_in"]
    trainings = dict.fromkeys(("train", "spark-train", GPU), training)
    return {
        "simulate": 1.0,
        "ingest": 1.0,
        "features": ledger["n_out"] / ledger["n_in"],
        "score": 1.0,
    } | trainings


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return {
        "cpu": next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
            platform.processor(),
        ),
        "cores": cores(),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(PACKAGES),
    }


def _gpus() -> list[str]:
    return (
        [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )


def _dates(rows: Sequence[Measured]) -> str:
    days = sorted({row.began[:10] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _words(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    return f"{machine['cpu']}, {machine['cores']} cores, {gpus}, {machine['system']}; {versions}"
