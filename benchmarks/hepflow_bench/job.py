"""`hepflow bench`: measure every case several times, and keep the results, so that a rerun resumes.

Repeats are interleaved: every case runs once before any runs twice, in alternating order, so that
other load on the machine affects all of them.
"""

import json
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hepflow.config.tools import BenchConfig
from hepflow.data.output import MARKER
from hepflow.data.provenance import code_hash, digest
from hepflow.errors import ConfigError
from hepflow.system import locks
from hepflow.system.files import read_json, write_json
from hepflow.system.processes import cores, versions
from hepflow.system.terminal import RESULTS, bar, counted
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
NOT_MEASURED = ("evaluate/",)
"""Sources of the package that do not affect a measurement."""
NOT_MEASURING = ("job", "plots", "report", "scaling")
"""Modules of this folder that do not."""


def run(config: BenchConfig) -> None:
    """Measure the missing cases; write bench.json, bench.csv and plots; print the tables.

    Raises
    ------
    ConfigError
        This machine cannot measure any of the stages.
    HepflowError
        A command failed; earlier measurements are kept.
    """
    gpus = _gpus()
    if not list(cases(config, len(gpus))):
        raise ConfigError(
            f"stages {', '.join(config.stages)}: not possible with {counted(len(gpus), 'GPU')}"
        )
    with locks.exclusive(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
        code = digest(_code(), config.copies)
        scored = config.nets if "score" in config.stages else ()
        inputs = {
            size: prepare(config.output / "input", size, config.copies, scored, code)
            for size in config.sizes
        }
        started = time.perf_counter()
        rows, n_kept = _measured(config, inputs)
        minutes = (time.perf_counter() - started) / 60
        _report(config, rows, inputs[max(config.sizes)])
    measured = f"{counted(len(rows), 'run')} ({n_kept} of them earlier) in {minutes:.1f} min"
    files = f"{JSON_FILE}, {CSV_FILE} and four plots"
    log.info("measured %s; wrote %s to %s", measured, files, config.output)


def _code() -> str:
    here = code_hash(Path(__file__).parent, leave_out=NOT_MEASURING)
    return digest(code_hash(leave_out=NOT_MEASURED), here)


def _measured(config: BenchConfig, inputs: dict[int, Path]) -> tuple[list[Measured], int]:
    """Return the measurements, and how many are from an earlier run of the same code here."""
    path = config.output / JSON_FILE
    machine = _machine()
    settings = digest(_code(), machine, config.epochs, config.copies)
    old = read_json(path) if path.is_file() else {}
    kept = old.get("measurements", []) if old.get("settings") == settings else []
    found = list(cases(config, len(machine["gpus"])))
    wanted = [
        (repeat, case)
        for repeat in range(config.repeats)
        for case in (reversed(found) if repeat % 2 else found)
    ]
    known = {(row.repeat, row.case): row for row in (Measured(**data) for data in kept)}
    missing = [key for key in wanted if key not in known]
    n_kept = len(wanted) - len(missing)
    with bar("bench", len(wanted)) as progress:
        progress.update(n_kept)
        for number, (repeat, case) in enumerate(missing, start=n_kept + 1):
            row = measure(case, repeat, inputs[case.size], config.output / "scratch", config.epochs)
            known[repeat, case] = row
            rows = [asdict(row) for row in known.values()]
            write_json(path, {"settings": settings, "machine": machine, "measurements": rows})
            name = case.stage if case.way == OURS else f"{case.stage} by {case.way}"
            shape = f"{case.size:,} per class, {case.workers} x {case.cores}"
            place, speed = f"{number}/{len(wanted)}", f"{row.events_per_s:.0f} events/s"
            log.info("[%s] %s, %s: %.1f s, %s", place, name, shape, row.seconds, speed)
            progress.advance()
    return [known[repeat, case] for repeat in range(config.repeats) for case in found], n_kept


def _report(config: BenchConfig, rows: Sequence[Measured], inputs: Path) -> None:
    record = read_json(config.output / JSON_FILE)
    dates = _dates(rows)
    machine = _words(record["machine"])
    loads = [row.load for row in rows]
    load = f"load before a run: median {median(loads):.1f}, highest {max(loads):.1f}"
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
    compared = report.with_published(report.per_core(summaries, shares["features"]), dates, unknown)
    largest = report.largest(summaries)
    report.write_csv(config.output / CSV_FILE, rows, machine)
    plots.throughput(
        config.output / "throughput.png", largest, report.largest(summaries, way="rivals"), caption
    )
    plots.scaling(config.output / "scaling.png", largest, caption)
    plots.share(config.output / "share.png", list(costs.values()), shares, caption)
    plots.per_core(config.output / "per_core.png", compared, caption)
    for name, values in (
        ("summary", summaries),
        ("costs", costs.values()),
        ("rivals", ratios),
        ("per_core", compared),
    ):
        record[name] = [asdict(value) for value in values]
    record["dates"] = dates
    extrapolated = (
        scaling.extrapolate(ours, shares, config.extrapolate, config.extrapolate_cores)
        if config.extrapolate
        else []
    )
    record["extrapolation"] = [asdict(row) for row in extrapolated]  # JSON: cores are strings
    write_json(config.output / JSON_FILE, record)
    if config.json:
        print(json.dumps(read_json(config.output / JSON_FILE), indent=1, sort_keys=True))
        return
    report.print_summary(summaries)
    report.print_rivals(ratios)
    report.print_per_core(compared)
    report.print_costs(costs.values())
    if extrapolated:
        report.print_extrapolation(
            extrapolated, config.extrapolate, config.extrapolate_cores, scaling.measured_range(ours)
        )
    notes = [caption]
    if GPU in config.stages and not record["machine"]["gpus"]:
        notes.insert(0, f"{GPU}: skipped, no GPU found")
    if unknown:
        reason = "start-up unknown with one size, and included (≥, ?); use two --sizes"
        notes.insert(0, f"{', '.join(unknown)}: {reason}")
    for note in notes:
        RESULTS.print(note, highlight=False, markup=False)


def _shares(inputs: Path) -> dict[str, float]:
    """Return kind of stage -> fraction of the ingested events that reach it."""
    ledger = read_json(inputs / "events" / MARKER)["ledger"]
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
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(number) for number in range(n_gpus)]


def _dates(rows: Sequence[Measured]) -> str:
    days = sorted({row.began[:10] for row in rows})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _words(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    gpus = ", ".join(machine["gpus"]) or "no GPU"
    return f"{machine['cpu']}, {machine['cores']} cores, {gpus}, {machine['system']}; {versions}"
