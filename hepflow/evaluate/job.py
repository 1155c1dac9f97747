"""Runs -> metrics.json, report.html and the files of the figures.

A report that is up to date is left alone; the same input gives the same bytes.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hepflow.config.stages import EvaluateConfig
from hepflow.data.provenance import PACKAGE, code_hash, digest
from hepflow.data.runs import read_record
from hepflow.errors import ConfigError
from hepflow.evaluate import charts, compare, kinematics, text
from hepflow.evaluate.figures import AnyFigure
from hepflow.evaluate.figures.plots import SUFFIXES, save
from hepflow.evaluate.importance import importance
from hepflow.evaluate.kinematics import Joined, LeftOutError
from hepflow.evaluate.measure import Chosen, Measured, generator, measure
from hepflow.evaluate.report import write_report
from hepflow.evaluate.runs import (
    Run,
    check_comparable,
    content_hash,
    find_runs,
    named,
    on_common_events,
    read_run,
)
from hepflow.evaluate.tables import summary_table
from hepflow.schema import CLASSES, METRICS_SCHEMA_VERSION
from hepflow.statistics.numbers import listed
from hepflow.statistics.working_points import selections
from hepflow.system import locks
from hepflow.system.files import read_json, write_json
from hepflow.system.publishing import filled
from hepflow.system.storage import listed as files_in
from hepflow.system.storage import remove, remove_all
from hepflow.system.terminal import show, tracked

log = logging.getLogger(__name__)
SETTINGS = ("targets", "mix", "bootstrap", "seed", "exact_below")
METRICS, REPORT, FIGURES = "metrics.json", "report.html", "figures"
DISPLAYS = 4  # hardest events that are drawn

Figures = dict[str, Sequence[AnyFigure]]  # section -> figures
Joins = Mapping[str, Joined]  # run -> its events in the feature store


class Notes(list[dict[str, str]]):
    """Missing parts of a report section with the reason."""

    def add(self, topic: str, text: str) -> None:
        """Add a note."""
        self.append({"topic": topic, "text": text})

    def group(self, topic: str, start: str, reasons: Mapping[str, str]) -> None:
        """Add a note per reason, given run -> reason."""
        for reason in dict.fromkeys(reasons.values()):
            names = listed([name for name, own in reasons.items() if own == reason])
            self.add(topic, f"{start.format(names)}: {reason}.")


def run(config: EvaluateConfig) -> None:
    """Evaluate and write the report, unless it is up to date."""
    paths = named(find_runs(config))
    contents = {name: content_hash(path) for name, path in paths.items()}
    stores = [kinematics.store_hashes(config, read_record(path)) for path in paths.values()]
    inputs, report = inputs_hash(config, contents, stores), config.output / REPORT
    if metrics := _up_to_date(config.output, inputs):
        done = f"{report} is up to date: same runs, same stores, same options"
    else:
        runs = [read_run(path, name, contents[name]) for name, path in paths.items()]
        with locks.exclusive(config.output, FIGURES):
            metrics, figures = evaluate_runs(runs, config)
            _write(config.output, {**metrics, "inputs": inputs}, figures)
        done = f"compared {', '.join(paths)} on {metrics['n_events']:,} test events: {report}"
    for note in metrics["notes"]:
        log.info("%s: %s", note["topic"], note["text"])
    if config.json:
        print(json.dumps(read_json(config.output / METRICS), indent=1, sort_keys=True))
    else:
        show(summary_table(metrics))
    log.info("%s", done)


def inputs_hash(
    config: EvaluateConfig, contents: Mapping[str, str], stores: Sequence[Sequence[str]]
) -> str:
    """Return a hash of all that the report depends on; its folder is not part of that."""
    settings = replace(config, output=Path(), input=Path(), json=False)
    code = [code_hash(PACKAGE / name) for name in ("evaluate", "statistics")]
    return digest(settings, dict(contents), stores, code, METRICS_SCHEMA_VERSION)


def _up_to_date(output: Path, inputs: str) -> dict[str, Any] | None:
    """Return the metrics of a complete report of these inputs, if there is one."""
    if not (output / METRICS).is_file():
        return None
    written: dict[str, Any] = read_json(output / METRICS)
    files = [output / REPORT]
    for name in written.get("figures", []):
        files += [output / FIGURES / f"{name}.{suffix}" for suffix in SUFFIXES]
    complete = written.get("inputs") == inputs and all(file.is_file() for file in files)
    return written if complete else None


def evaluate_runs(runs: Sequence[Run], config: EvaluateConfig) -> tuple[dict[str, Any], Figures]:
    """Return the metrics, as in metrics.json, and the figures by section.

    Input and output of the configuration are not used. If the runs may not be compared, or test
    events leaked into the training, that is a DataError.
    """
    check_comparable(runs, same_events=not config.other_events)
    notes = Notes()
    if config.common_events:
        sizes = [f"{run.name} {len(run.predictions.label):,}" for run in runs]
        runs = on_common_events(runs)
        n_events = len(runs[0].predictions.label)
        what = f"All numbers are on the {n_events:,} test events that all runs have"
        notes.add("models", f"{what} (--common-events), of {listed(sizes)}.")
    samples = {
        run.name: str(run.about["trained_on"]) for run in runs if run.about.get("trained_on")
    }
    for sample in dict.fromkeys(samples.values()):
        names = listed([name for name, own in samples.items() if own == sample])
        what = "not on the training split of this report's store"
        notes.add("models", f"Trained on another sample: {names}, on {sample}, {what}.")
    classes, label = runs[0].predictions.classes, runs[0].predictions.label
    chosen = selections(classes, _signal(config, classes, notes))
    joins = _join(runs, config, notes)  # first, since a leak ends it
    measured = [measure(run, config, chosen) for run in tracked(runs, "measuring")]
    _add_kinematics(runs, measured, joins, config, notes)
    entries = {one.name: one.entry for one in measured}
    best = text.best_model(entries)
    best_run = next(run for run in runs if run.name == best)
    target, exact_below = max(config.targets), config.exact_below
    pairs = compare.compare(runs, chosen, target=target, exact_below=exact_below)
    parts, keys = entries[best]["selections"], ("signal", "background")
    sides = {name: {key: part[key] for key in keys} for name, part in parts.items()}
    settings = {key: getattr(config, key) for key in SETTINGS}
    leak = all(run.name in joins for run in runs)
    figures = _figures(runs, measured, chosen, notes)
    figures["events"] = _displays(best_run, entries[best], joins.get(best), config, notes)
    metrics = {
        "schema_version": METRICS_SCHEMA_VERSION,
        "hepflow": version("hepflow"),
        "classes": list(classes),
        "n_events": len(label),
        "events_by_class": {c: int((label == k).sum()) for k, c in enumerate(classes)},
        "best": best,
        "models": entries,
        "pairs": pairs,
        "ablation": compare.ablation(runs, entries, pairs),
        "selections": sides,
        "settings": settings,
        "checks": {
            "leak": leak,
            "passed": text.checks_passed(config, leak=leak, elsewhere=list(samples)),
        },
        "cautions": compare.cautions(pairs, entries, best),
        "method": text.method(config, len(label), DISPLAYS),
        "notes": notes,
    }
    return metrics, figures


def _signal(config: EvaluateConfig, classes: Sequence[str], notes: Notes) -> list[str]:
    """Check --signal and --mix, and return the signal classes."""
    own = ", ".join(classes)
    for option, names, others in (("--signal", config.signal, ()), ("--mix", config.mix, CLASSES)):
        if unknown := [name for name in names if name not in {*classes, *others}]:
            what = f"names {', '.join(unknown)}, but the classes of these runs are {own}"
            raise ConfigError(f"{option} {what}")
    if set(classes) <= set(config.mix) and not sum(config.mix[name] for name in classes):
        raise ConfigError(f"--mix gives no class of these runs a share of the rate ({own})")
    if set(config.signal) == set(classes):
        advice = "leave out at least one, for the trigger to reject"
        raise ConfigError(f"--signal names every class ({own}): {advice}")
    signal = [name for name in classes if name in config.signal] or list(classes[1:])
    if not config.signal and set(classes) != set(CLASSES):
        sides = f"{listed(signal)} against {classes[0]}"
        every = "it is every class but the first"
        notes.add("working points", f"No signal is named (--signal), so {every}: {sides}.")
    if missing := [name for name in classes if name not in config.mix]:
        share = f"No share of the trigger rate is given for {', '.join(missing)} (--mix)"
        notes.add("working points", f"{share}: rates and purities that need it are left out.")
    return signal


def _join(runs: Sequence[Run], config: EvaluateConfig, notes: Notes) -> Joins:
    """Join each run with its store, and check that nothing leaked."""
    joins: dict[str, Joined] = {}
    known: dict[tuple[str, bytes], Joined] = {}  # runs on the same events share one
    reasons: dict[str, str] = {}
    for run in runs:
        key = run.store, run.predictions.event_id.tobytes()
        if key not in known:
            try:
                store = kinematics.open_store(config, run)
            except LeftOutError as error:
                reasons[run.name] = str(error)
                continue
            known[key] = kinematics.join(store, run)
            kinematics.check_leak(known[key], run)
        joins[run.name] = known[key]
    start = "For {} no leak check by event, no kinematics, no event displays"
    notes.group("kinematics", start, reasons)
    return joins


def _add_kinematics(
    runs: Sequence[Run], measured: Measured, joins: Joins, config: EvaluateConfig, notes: Notes
) -> None:
    """Complete the entries with what needs the feature store, if there is one."""
    reasons: dict[str, str] = {}
    for run, one in zip(runs, measured, strict=True):
        joined = joins.get(run.name)
        hardest = [kinematics.describe(run, i, joined) for i in kinematics.hardest(run)]
        one.entry.update(hardest=hardest, efficiency={}, importance={})
        if joined is None:
            continue
        found = kinematics.efficiencies(joined, one.kept, config.features, run.predictions)
        one.entry["efficiency"] = found
        try:
            rng = generator(config.seed, run.name, "importance")
            one.entry["importance"] = importance(run, joined, rng=rng)
        except LeftOutError as error:
            reasons[run.name] = str(error)
    notes.group("importance", "No permutation importance for {}", reasons)


def _figures(runs: Sequence[Run], measured: Measured, chosen: Chosen, notes: Notes) -> Figures:
    classes = runs[0].predictions.classes
    figures: Figures = {
        "roc": charts.rocs(measured, chosen, classes),
        "confusion": charts.confusions(measured, classes),
        "calibration": charts.calibrations(measured, chosen, classes),
        "learning": charts.learning_curves(runs),
        "importance": charts.importances(measured),
    }
    reason = "there is no metrics.csv next to the predictions"
    without = {run.name: reason for run in runs if not run.history}
    notes.group("training", "No learning curves for {}", without)
    for one in measured:
        rows = one.entry["efficiency"]
        figures[f"scores:{one.name}"] = charts.scores(one, chosen, classes)
        figures[f"efficiency:{one.name}"] = charts.efficiencies(one.name, rows, classes)
    return figures


def _displays(
    run: Run, entry: Mapping[str, Any], joined: Joined | None, config: EvaluateConfig, notes: Notes
) -> list[AnyFigure]:
    """Return the hardest events of the best model, and those in the configuration."""
    ids = run.predictions.event_id
    if absent := [str(event) for event in config.events if event not in ids]:
        notes.add("events", f"Not in the test split, so not drawn: {', '.join(absent)}.")
    if joined is None:
        return []
    wanted = [int(event["event_id"]) for event in entry["hardest"][:DISPLAYS]]
    wanted += [event for event in config.events if event in ids]
    drawn = []
    for index in map(int, ids.searchsorted(list(dict.fromkeys(wanted)))):
        facts = kinematics.describe(run, index, joined)
        drawn.append(charts.display(run, index, joined, facts))
    return [figure for figure in drawn if figure]


def _write(output: Path, metrics: Mapping[str, Any], figures: Figures) -> None:
    """Write metrics.json last: if it is there, the report is complete."""
    folder = output / FIGURES
    remove(output / METRICS, flush=True)
    every = [figure for section in figures.values() for figure in section]
    with filled(folder) as local:
        for figure in tracked(every, "drawing"):
            save(figure, local)
    names = [figure.name for figure in every]
    remove_all(left_over for left_over in files_in(folder) if left_over.stem not in names)
    write_report(output / REPORT, metrics, figures, FIGURES)
    write_json(output / METRICS, {**metrics, "figures": names})
