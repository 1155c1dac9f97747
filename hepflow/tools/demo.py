"""``hepflow demo``: the whole pipeline on simulated events, each stage as its own process.

The time of each stage, also before an interruption, is kept next to its output, so that a second
run, which skips stages that are up to date, can still print it.
"""

import logging
import shlex
import sys
import time
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from hepflow.config.shipped import shipped
from hepflow.config.tools import DemoConfig
from hepflow.data.output import MARKER, refuse_to_replace
from hepflow.data.runs import RECORD
from hepflow.errors import HepflowError
from hepflow.system import processes
from hepflow.system.files import makeable, read_json, require_folder, write_json
from hepflow.system.storage import listed, make_folder, version_of
from hepflow.system.terminal import RESULTS, TO_PASTE, show, table

log = logging.getLogger(__name__)
NETS = ("hlf", "sequence", "inclusive")
EVENTS = {"small": 2000, "medium": 20_000, "large": 200_000}  # selected events per class
EPOCHS = {
    "medium": {"hlf": 20, "sequence": 10, "inclusive": 10},
    "large": {"hlf": 10, "sequence": 5, "inclusive": 5},
}
"""Maximum epochs, fewer for more events; small uses the net's own configuration."""


class Step(NamedTuple):
    """One command of the pipeline, and the files that it writes last.

    It was up to date if these did not change. Each holds, below ``keys``, a number of events.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    pattern: str
    keys: tuple[str, ...]

    def versions(self) -> list[str]:
        """Return the version of each of the files."""
        return [version_of(file) for file in listed(self.folder, self.pattern)]

    def events(self) -> int:
        """Return the number of processed events."""
        contents = map(read_json, listed(self.folder, self.pattern))
        return sum(int(reduce(getitem, self.keys, content)) for content in contents)


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
        make_folder(output)
    if settings != made:
        write_json(settings_file, settings)
    is_same = settings == made and timings_file.is_file()
    timings: dict[str, Any] = read_json(timings_file) if is_same else {}
    steps, rows = _steps(config), []
    for number, step in enumerate(steps, start=1):
        command = shlex.join(step.arguments)
        log.info("[%d/%d] hepflow %s", number, len(steps), command, extra=TO_PASTE)
        before, known = step.versions(), timings.get(step.name, {})
        start = time.perf_counter() - known.get("unfinished", 0.0)
        try:
            status = processes.run([sys.executable, "-m", "hepflow", *step.arguments]).returncode
            if status:
                failed = f"`hepflow {step.arguments[0]}` failed (exit status {status}, see above)"
                advice = "Run the same command again to resume from this step."
                raise HepflowError(f"demo: {failed}. {advice}")
        except BaseException:
            timings[step.name] = {"unfinished": time.perf_counter() - start}
            write_json(timings_file, timings)
            raise
        if step.versions() != before or "seconds" not in known:
            timings[step.name] = {"events": step.events(), "seconds": time.perf_counter() - start}
            write_json(timings_file, timings)
        events, seconds = timings[step.name]["events"], timings[step.name]["seconds"]
        rows.append((step.name, f"{events:,}", f"{seconds:.1f}", f"{events / seconds:,.0f}"))
    show(table(("stage", "events", "seconds", "events/s"), rows, "time per stage"))
    RESULTS.print("Whole commands, including their start-up; a stage's own rates do not.")
    log.info("report: %s", output / "report" / "report.html")


def _steps(config: DemoConfig) -> list[Step]:
    names = ("raw", "events", "features.zarr", "runs", "report")
    raw, events, store, runs, report = (config.output / name for name in names)
    n_events, seed = str(config.events or EVENTS[config.size]), str(config.seed)
    overwrite = ("--overwrite",) if config.overwrite else ()

    # b alone: leptons of c are rare, and would take four fifths of the time
    simulate = ("simulate", "--output", str(raw), "--events", n_events, "--seed", seed)
    simulate += ("--qcd-quarks", "b", *overwrite)
    ingest = ("ingest", "--input", str(raw), "--output", str(events), *overwrite)
    features = ("features", "--input", str(events), "--output", str(store), *overwrite)
    evaluate = ("evaluate", "--input", str(runs), "--output", str(report))
    in_store = ("attributes", "hepflow", "ledger", "n_in")
    steps = [
        Step("simulate", simulate, raw, "*/*.json", ("written",)),
        Step("ingest", ingest, events, MARKER, ("ledger", "n_in")),
        Step("features", features, store, "zarr.json", in_store),
    ]
    for net in NETS:
        epochs = EPOCHS.get(config.size, {}).get(net)
        length = ("--trainer.max_epochs", str(epochs)) if epochs else ()
        words = ("train", "fit", "--config", str(shipped(f"train/{net}.yaml")), *length)
        words += ("--data.store", str(store), "--output", str(runs / net), "--seed", seed)
        made = runs / net, RECORD, ("events_trained",)
        steps.append(Step(f"train {net}", (*words, *overwrite), *made))
    return [*steps, Step("evaluate", evaluate, report, "metrics.json", ("n_events",))]
