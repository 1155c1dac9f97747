"""The whole pipeline in one command: every stage as its own process, on simulated events, then what each took.

What each stage took, also before it was interrupted, is kept beside its output: a second run skips what is up to date, and shows it.
"""

import logging
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hepflow.config.shipped import shipped
from hepflow.config.tools import DemoConfig
from hepflow.data.output import refuse_to_replace
from hepflow.data.runs import RECORD
from hepflow.errors import HepflowError
from hepflow.system import processes
from hepflow.system.files import makeable, read_json, require_folder, write_json
from hepflow.system.terminal import TO_PASTE

log = logging.getLogger(__name__)
NETS = ("hlf", "sequence", "inclusive")
EVENTS = {"small": 2000, "medium": 20_000, "large": 200_000}
"""Selected events a class."""
EPOCHS = {
    "medium": {"hlf": 20, "sequence": 10, "inclusive": 10},
    "large": {"hlf": 10, "sequence": 5, "inclusive": 5},
}
"""Epochs at most; small trains for as many as the net's own configuration says. Ten times the events want fewer passes over them."""


@dataclass(frozen=True)
class Step:
    """One command of the pipeline."""

    name: str
    arguments: tuple[str, ...]
    made: tuple[Path, str]
    """Folder and pattern of the files that the stage writes last: untouched, the stage was up to date."""
    events: Callable[[], int]
    """How many events went through it, read from what it wrote."""


def run(config: DemoConfig) -> None:
    """Run every stage and print what came of it."""
    require_folder(config.output)
    settings_file, settings = (
        config.output / "settings.json",
        {"size": config.size, "events": _n_events(config), "seed": config.seed},
    )
    made = read_json(settings_file) if settings_file.is_file() else {}
    if not config.overwrite:
        refuse_to_replace(config.output, "a demo", made, settings)
    with makeable(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
    if settings != made:
        write_json(settings_file, settings)
    timings_file = config.output / "timings.json"
    timings: dict[str, Any] = (
        read_json(timings_file) if settings == made and timings_file.is_file() else {}
    )
    for number, step in enumerate(steps := _steps(config), start=1):
        log.info(
            "[%d/%d] hepflow %s", number, len(steps), shlex.join(step.arguments), extra=TO_PASTE
        )
        before, known = _last_change(step), timings.get(step.name, {})
        start = time.perf_counter() - known.get("unfinished", 0.0)
        try:
            _run_command(step)
        except BaseException:
            timings[step.name] = {"unfinished": time.perf_counter() - start}
            write_json(timings_file, timings)
            raise
        if _last_change(step) != before or "seconds" not in known:
            timings[step.name] = {"events": step.events(), "seconds": time.perf_counter() - start}
            write_json(timings_file, timings)
    _print_timings({step.name: timings[step.name] for step in steps})
    log.info("report: %s", config.output / "report" / "report.html")


def _n_events(config: DemoConfig) -> int:
    return config.events or EVENTS[config.size]


def _steps(config: DemoConfig) -> list[Step]:
    raw, events, store, runs, report = (
        config.output / name for name in ("raw", "events", "features.zarr", "runs", "report")
    )
    seed = str(config.seed)
    n_events = str(_n_events(config))

    def generated() -> int:
        return sum(int(read_json(path)["written"]) for path in raw.glob("*/*.json"))

    def entered() -> int:
        return int(read_json(events / "_hepflow.json")["ledger"]["n_in"])

    def selected() -> int:
        return int(read_json(store / "zarr.json")["attributes"]["hepflow"]["ledger"]["n_in"])

    def trained(net: str) -> Callable[[], int]:
        return lambda: int(read_json(runs / net / RECORD)["events_trained"])

    def predicted() -> int:
        return int(read_json(report / "metrics.json")["n_events"])

    replacing = _replacing(config)
    simulate = ("simulate", "--output", str(raw), "--events", n_events, "--seed", seed, *replacing)
    ingest = ("ingest", "--input", str(raw), "--output", str(events), *replacing)
    features = ("features", "--input", str(events), "--output", str(store), *replacing)
    return [
        Step("simulate", simulate, (raw, "*/*.json"), generated),
        Step("ingest", ingest, (events, "_hepflow.json"), entered),
        Step("features", features, (store, "zarr.json"), selected),
        *(
            Step(
                f"train {net}",
                _train(config, net, store, runs / net),
                (runs / net, RECORD),
                trained(net),
            )
            for net in NETS
        ),
        Step(
            "evaluate",
            ("evaluate", "--input", str(runs), "--output", str(report)),
            (report, "metrics.json"),
            predicted,
        ),
    ]


def _train(config: DemoConfig, net: str, store: Path, output: Path) -> tuple[str, ...]:
    epochs = EPOCHS.get(config.size, {}).get(net)
    length = ("--trainer.max_epochs", str(epochs)) if epochs else ()
    where = ("--data.store", str(store), "--output", str(output))
    seed = ("--seed", str(config.seed))
    return (
        "train",
        "fit",
        "--config",
        str(shipped(f"train/{net}.yaml")),
        *length,
        *where,
        *seed,
        *_replacing(config),
    )


def _replacing(config: DemoConfig) -> tuple[str, ...]:
    return ("--overwrite",) if config.overwrite else ()


def _run_command(step: Step) -> None:
    code = processes.run([sys.executable, "-m", "hepflow", *step.arguments]).returncode
    if code:
        raise HepflowError(
            f"demo: `hepflow {step.arguments[0]}` ended with {code}, see above. The same command goes on from here."
        )


def _last_change(step: Step) -> int:
    folder, pattern = step.made
    return max((path.stat().st_mtime_ns for path in folder.glob(pattern)), default=0)


def _print_timings(timings: dict[str, Any]) -> None:
    note = "Whole commands, start included; a stage's own bar and summary count its work alone."
    table = Table(title="what each stage took", caption=note, caption_justify="left")
    for column in ("stage", "events", "seconds", "events/s"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, row in timings.items():
        table.add_row(
            name,
            f"{row['events']:,}",
            f"{row['seconds']:.1f}",
            f"{row['events'] / row['seconds']:,.0f}",
        )
    Console().print(table)
