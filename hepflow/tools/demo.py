"""``hepflow demo``: the whole pipeline on simulated events, each stage as its own process.

The time of each stage, also before an interruption, is kept next to its output, so that a second
run, which skips stages that are up to date, can still print it.
"""

import logging
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hepflow.config.shipped import shipped
from hepflow.config.tools import DemoConfig
from hepflow.data.output import MARKER, refuse_to_replace
from hepflow.data.runs import RECORD
from hepflow.errors import HepflowError
from hepflow.system import processes
from hepflow.system.files import makeable, read_json, require_folder, write_json
from hepflow.system.terminal import RESULTS, TO_PASTE, show, table

log = logging.getLogger(__name__)
NETS = ("hlf", "sequence", "inclusive")
EVENTS = {"small": 2000, "medium": 20_000, "large": 200_000}
"""Selected events per class."""
EPOCHS = {
    "medium": {"hlf": 20, "sequence": 10, "inclusive": 10},
    "large": {"hlf": 10, "sequence": 5, "inclusive": 5},
}
"""Maximum epochs, fewer for more events; small uses the net's own configuration."""


class Step(NamedTuple):
    """One command of the pipeline."""

    name: str
    arguments: tuple[str, ...]
    made: tuple[Path, str]
    """Folder and pattern of the files that the stage writes last; it was up to date if they did not
    change."""
    events: Callable[[], int]
    """Reads the number of processed events from the output."""


def run(config: DemoConfig) -> None:
    """Run every stage and print their times."""
    output = config.output
    require_folder(output)
    settings_file, timings_file = output / "settings.json", output / "timings.json"
    n_events = config.events or EVENTS[config.size]
    settings = {"size": config.size, "events": n_events, "seed": config.seed}
    made = read_json(settings_file) if settings_file.is_file() else {}
    if not config.overwrite:
        refuse_to_replace(output, "a demo", made, settings)
    with makeable(output):
        output.mkdir(parents=True, exist_ok=True)
    if settings != made:
        write_json(settings_file, settings)
    is_same = settings == made and timings_file.is_file()
    timings: dict[str, Any] = read_json(timings_file) if is_same else {}
    steps = _steps(config)
    for number, step in enumerate(steps, start=1):
        command = shlex.join(step.arguments)
        log.info("[%d/%d] hepflow %s", number, len(steps), command, extra=TO_PASTE)
        before, known = _last_change(step), timings.get(step.name, {})
        start = time.perf_counter() - known.get("unfinished", 0.0)
        try:
            status = processes.run([sys.executable, "-m", "hepflow", *step.arguments]).returncode
            if status:
                raise HepflowError(
                    f"demo: `hepflow {step.arguments[0]}` failed (exit status {status}, see "
                    "above). Run the same command again to resume from this step."
                )
        except BaseException:
            timings[step.name] = {"unfinished": time.perf_counter() - start}
            write_json(timings_file, timings)
            raise
        if _last_change(step) != before or "seconds" not in known:
            timings[step.name] = {"events": step.events(), "seconds": time.perf_counter() - start}
            write_json(timings_file, timings)
    _print_timings({step.name: timings[step.name] for step in steps})
    log.info("report: %s", output / "report" / "report.html")


def _steps(config: DemoConfig) -> list[Step]:
    names = ("raw", "events", "features.zarr", "runs", "report")
    raw, events, store, runs, report = (config.output / name for name in names)
    n_events, seed = str(config.events or EVENTS[config.size]), str(config.seed)
    overwrite = ("--overwrite",) if config.overwrite else ()

    def simulated() -> int:
        return sum(int(read_json(path)["written"]) for path in raw.glob("*/*.json"))

    def read() -> int:
        return int(read_json(events / MARKER)["ledger"]["n_in"])

    def selected() -> int:
        return int(read_json(store / "zarr.json")["attributes"]["hepflow"]["ledger"]["n_in"])

    def evaluated() -> int:
        return int(read_json(report / "metrics.json")["n_events"])

    def training(net: str) -> Step:
        def trained() -> int:
            return int(read_json(runs / net / RECORD)["events_trained"])

        epochs = EPOCHS.get(config.size, {}).get(net)
        length = ("--trainer.max_epochs", str(epochs)) if epochs else ()
        words = ("train", "fit", "--config", str(shipped(f"train/{net}.yaml")), *length)
        words += ("--data.store", str(store), "--output", str(runs / net), "--seed", seed)
        return Step(f"train {net}", (*words, *overwrite), (runs / net, RECORD), trained)

    simulate = ("simulate", "--output", str(raw), "--events", n_events, "--seed", seed, *overwrite)
    ingest = ("ingest", "--input", str(raw), "--output", str(events), *overwrite)
    features = ("features", "--input", str(events), "--output", str(store), *overwrite)
    evaluate = ("evaluate", "--input", str(runs), "--output", str(report))
    return [
        Step("simulate", simulate, (raw, "*/*.json"), simulated),
        Step("ingest", ingest, (events, MARKER), read),
        Step("features", features, (store, "zarr.json"), selected),
        *map(training, NETS),
        Step("evaluate", evaluate, (report, "metrics.json"), evaluated),
    ]


def _last_change(step: Step) -> int:
    folder, pattern = step.made
    return max((path.stat().st_mtime_ns for path in folder.glob(pattern)), default=0)


def _print_timings(timings: dict[str, Any]) -> None:
    rows = []
    for name, row in timings.items():
        events, seconds = row["events"], row["seconds"]
        rows.append((name, f"{events:,}", f"{seconds:.1f}", f"{events / seconds:,.0f}"))
    show(table(("stage", "events", "seconds", "events/s"), rows, "time per stage"))
    RESULTS.print("Whole commands, including their start-up; a stage's own rates do not.")
