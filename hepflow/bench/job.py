"""`hepflow bench`: measure every case in turn, again and again, and keep what was measured, so that a rerun goes on.

Repeats are interleaved: every case is run once before any is run twice, so that what else the machine does falls on all of them.
"""

import datetime as dt
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hepflow import locks
from hepflow.bench import plots, report, scaling
from hepflow.bench.cases import Measured, cases, measure, prepare
from hepflow.config_tools import BenchConfig
from hepflow.ledger import code_hash, digest, read_json, write_json

log = logging.getLogger(__name__)

PACKAGES = ("hepflow", "torch", "pyspark", "dask", "awkward", "numpy")
JSON_FILE, CSV_FILE = "bench.json", "bench.csv"


def run(config: BenchConfig) -> None:
    """Measure what is missing, then write bench.json, bench.csv and the plots, and print the tables."""
    with locks.exclusive(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
        inputs = {}
        for size in config.sizes:
            log.info("making the input: %s selected events a class", f"{size:,}")
            inputs[size] = prepare(config.output / "input", size)
        rows = _measured(config, inputs)
        _report(config, rows, inputs[max(config.sizes)])


def _measured(config: BenchConfig, inputs: dict[int, Path]) -> list[Measured]:
    """Every case as often as asked for; those of an earlier run of the same code on this machine count."""
    path = config.output / JSON_FILE
    machine = _machine()
    settings = digest(code_hash(), machine, config.epochs)
    old = read_json(path) if path.is_file() else {}
    kept = [Measured(**row) for row in old.get("measurements", [])] if old.get("settings") == settings else []
    wanted = [(repeat, case) for repeat in range(config.repeats) for case in cases(config)]
    known = {(row.repeat, row.case): row for row in kept}
    for number, (repeat, case) in enumerate(wanted, start=1):
        if (repeat, case) in known:
            continue
        row = measure(case, repeat, inputs[case.size], config.output / "scratch", config.epochs)
        known[repeat, case] = row
        shape = f"{case.size:,} a class, {case.workers} x {case.cores}"
        log.info("[%d/%d] %s, %s: %.1f s, %.0f events/s", number, len(wanted), case.stage, shape, row.seconds, row.events_per_s)
        about = {"settings": settings, "machine": machine, "date": dt.datetime.now(dt.UTC).date().isoformat()}
        write_json(path, {**about, "measurements": [asdict(row) for row in known.values()]})
    return [known[key] for key in wanted]


def _report(config: BenchConfig, rows: Sequence[Measured], inputs: Path) -> None:
    record = read_json(config.output / JSON_FILE)
    caption = _words(record["machine"], record["date"])
    summaries = report.summarise(rows)
    shares = _shares(inputs)
    stages = list(dict.fromkeys(row.stage for row in rows))
    costs = [scaling.fit([row for row in rows if row.stage == stage]) for stage in stages]
    rates = report.per_core(summaries, shares["features"])
    largest = report.largest(summaries)
    report.write_csv(config.output / CSV_FILE, rows)
    plots.throughput(config.output / "throughput.png", largest, caption)
    plots.scaling(config.output / "scaling.png", largest, caption)
    plots.share(config.output / "share.png", costs, shares, caption)
    plots.per_core(config.output / "per_core.png", rates, caption)
    report.print_summary(summaries, caption)
    report.print_per_core(rates, caption)
    report.print_costs(costs, caption)
    record |= {"summary": [asdict(summary) for summary in summaries], "costs": [asdict(cost) for cost in costs]}
    if config.extrapolate:
        found = scaling.extrapolate(costs, shares, config.extrapolate, config.extrapolate_cores)
        report.print_extrapolation(found, config.extrapolate, caption)
        record["extrapolation"] = [asdict(row) for row in found]  # JSON makes its numbers of cores to strings
    write_json(config.output / JSON_FILE, record)
    log.info("wrote %s, %s and four plots to %s", JSON_FILE, CSV_FILE, config.output)


def _shares(inputs: Path) -> dict[str, float]:
    """Kind of stage -> share of the events read by ingest that reach it."""
    ledger = read_json(inputs / "events" / "_hepflow.json")["ledger"]
    counts = read_json(inputs / "features.zarr" / "zarr.json")["attributes"]["hepflow"]["counts"]
    training = sum(counts["train"].values()) / ledger["n_in"]
    return {"simulate": 1.0, "ingest": 1.0, "features": ledger["n_out"] / ledger["n_in"], "train": training, "spark-train": training}


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return {
        "cpu": next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {name: known for name in PACKAGES if (known := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _words(machine: dict[str, Any], date: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {versions}; {date}"
