"""Runs -> metrics.json, report.html and the files of the figures.

A report that is up to date is left alone; the same input gives the same bytes.
"""

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
from hepflow.evaluate import charts, compare, kinematics, published, text
from hepflow.evaluate.figures.figure import AnyFigure
from hepflow.evaluate.figures.plots import save
from hepflow.evaluate.importance import NoImportanceError, importance
from hepflow.evaluate.kinematics import Joined
from hepflow.evaluate.measure import Chosen, Measured, generator, measure
from hepflow.evaluate.report import write_report
from hepflow.evaluate.runs import Run, check_comparable, content_hash, find_runs, named, read_run
from hepflow.evaluate.tables import summary_table
from hepflow.schema import CLASSES, METRICS_SCHEMA_VERSION
from hepflow.statistics.numbers import listed
from hepflow.statistics.working_points import selections
from hepflow.system import locks
from hepflow.system.files import read_json, write_json
from hepflow.system.terminal import show, tracked

log = logging.getLogger(__name__)
METRICS, REPORT, FIGURES = "metrics.json", "report.html", "figures"
DISPLAYS = 4
"""Hardest events that are drawn."""


class Notes(list[dict[str, str]]):
    """Missing parts of a report section with the reason: ``topic``, ``text``."""

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
    names = named(find_runs(config))
    contents = {name: content_hash(path) for name, path in names.items()}
    stores = [kinematics.store_hashes(config, read_record(path)) for path in names.values()]
    inputs, report = inputs_hash(config, contents, stores), config.output / REPORT
    metrics = _up_to_date(config.output, inputs)
    if metrics is not None:
        done = f"{report} is up to date: same runs, same stores, same options"
    else:
        runs = [read_run(path, name, contents[name]) for name, path in names.items()]
        with locks.exclusive(config.output):
            metrics, figures = evaluate_runs(runs, config)
            _write(config.output, {**metrics, "inputs": inputs}, figures)
        compared, n_events = ", ".join(names), f"{metrics['n_events']:,}"
        done = f"compared {compared} on {n_events} test events: {report}"
    for note in metrics["notes"]:
        log.info("%s: %s", note["topic"], note["text"])
    if config.json:
        print((config.output / METRICS).read_text(), end="")
    else:
        show(summary_table(metrics))
    log.info("%s", done)


def inputs_hash(
    config: EvaluateConfig, contents: Mapping[str, str], stores: Sequence[Sequence[str]]
) -> str:
    """Return a hash of all that the report depends on; its folder is not part of that."""
    settings = replace(config, output=Path(), input=Path(), json=False)
    code = [code_hash(PACKAGE / name) for name in ("evaluate", "statistics")]
    code.append(published.FILE.read_text())
    return digest(settings, dict(contents), stores, code, METRICS_SCHEMA_VERSION)


def _up_to_date(output: Path, inputs: str) -> dict[str, Any] | None:
    """Return the metrics of a complete report of these inputs."""
    if not (output / METRICS).is_file() or not (output / REPORT).is_file():
        return None
    written: dict[str, Any] = read_json(output / METRICS)
    complete = all(
        (output / FIGURES / f"{name}.{suffix}").is_file()
        for name in written.get("figures", [])
        for suffix in ("png", "pdf", "csv")
    )
    return written if written.get("inputs") == inputs and complete else None


def evaluate_runs(
    runs: Sequence[Run], config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, list[AnyFigure]]]:
    """Return the metrics, as in metrics.json, and the figures by section.

    Parameters
    ----------
    runs : sequence of Run
        From `read_runs`; their names are unique.
    config : EvaluateConfig
        Its input and output are not used.

    Raises
    ------
    DataError
        The runs may not be compared, or test events leaked into the training.
    """
    check_comparable(runs, same_events=not (config.allow_different_splits or config.ablation))
    first = runs[0].predictions
    classes, notes = first.classes, Notes()
    chosen = selections(classes, _signal(config, classes, notes))
    joins = _join(runs, config, notes)  # first, since a leak ends it
    measured = [measure(run, config, chosen) for run in tracked(runs, "measuring")]
    _add_kinematics(runs, measured, joins, config, notes)
    entries = {one.name: one.entry for one in measured}
    target, best = max(config.targets), text.best_model(entries)
    pairs = compare.compare(runs, chosen, target=target, exact_below=config.exact_below)
    keys = ("targets", "mix", "bootstrap", "seed", "exact_below")
    leak = all(run.name in joins for run in runs)
    figures = _figures(runs, measured, chosen, notes)
    figures["events"] = _displays(
        next(run for run in runs if run.name == best), entries[best], joins.get(best), config, notes
    )
    metrics = {
        "schema_version": METRICS_SCHEMA_VERSION,
        "hepflow": version("hepflow"),
        "classes": list(classes),
        "n_events": len(first.label),
        "events_by_class": {c: int((first.label == k).sum()) for k, c in enumerate(classes)},
        "best": best,
        "models": entries,
        "pairs": pairs,
        "ablation": compare.ablation(runs, entries, pairs),
        "selections": {
            name: {side: part[side] for side in ("signal", "background")}
            for name, part in entries[best]["selections"].items()
        },
        "settings": {key: getattr(config, key) for key in keys},
        "checks": {"leak": leak, "passed": text.checks_passed(config, leak=leak)},
        "cautions": compare.cautions(pairs, entries, best),
        "method": text.method(config, len(first.label), DISPLAYS),
        "notes": notes,
    }
    return metrics, figures


def _signal(config: EvaluateConfig, classes: Sequence[str], notes: Notes) -> list[str]:
    """Check --signal and --mix, and return the signal classes."""
    own = ", ".join(classes)
    for option, names, others in (("--signal", config.signal, ()), ("--mix", config.mix, CLASSES)):
        if unknown := [name for name in names if name not in {*classes, *others}]:
            raise ConfigError(
                f"{option} names {', '.join(unknown)}, but the classes of these runs are {own}"
            )
    if set(classes) <= set(config.mix) and not sum(config.mix[name] for name in classes):
        raise ConfigError(f"--mix gives no class of these runs a share of the rate ({own})")
    if set(config.signal) == set(classes):
        raise ConfigError(
            f"--signal names every class ({own}): leave out at least one, for the trigger to reject"
        )
    signal = [name for name in classes if name in config.signal] or list(classes[1:])
    if not config.signal and set(classes) != set(CLASSES):
        sides = f"{listed(signal)} against {classes[0]}"
        every = "it is every class but the first"
        notes.add("working points", f"No signal is named (--signal), so {every}: {sides}.")
    if missing := [name for name in classes if name not in config.mix]:
        share = f"No share of the trigger rate is given for {', '.join(missing)} (--mix)"
        notes.add("working points", f"{share}: rates and purities that need it are left out.")
    return signal


def _join(runs: Sequence[Run], config: EvaluateConfig, notes: Notes) -> dict[str, Joined]:
    """Join each run with its store, and check that nothing leaked."""
    joins: dict[str, Joined] = {}
    known: dict[tuple[str, bytes], Joined] = {}  # runs on the same events share one
    reasons: dict[str, str] = {}
    for run in runs:
        key = run.store, run.predictions.event_id.tobytes()
        if key not in known:
            try:
                store = kinematics.open_store(config, run)
            except kinematics.NoStoreError as error:
                reasons[run.name] = str(error)
                continue
            known[key] = kinematics.join(store, run)
            kinematics.check_leak(known[key], run)
        joins[run.name] = known[key]
    left_out = "For {} no leak check by event, no kinematics, no event displays"
    notes.group("kinematics", left_out, reasons)
    return joins


def _add_kinematics(
    runs: Sequence[Run],
    measured: Measured,
    joins: Mapping[str, Joined],
    config: EvaluateConfig,
    notes: Notes,
) -> None:
    """Complete the entries with what needs the feature store, if there is one."""
    reasons: dict[str, str] = {}
    for run, one in zip(runs, measured, strict=True):
        joined, predictions = joins.get(run.name), run.predictions
        hardest = [kinematics.describe(run, i, joined) for i in kinematics.hardest(run)]
        one.entry.update(hardest=hardest, efficiency={}, importance={})
        if joined is None:
            continue
        one.entry["efficiency"] = kinematics.efficiencies(
            joined, predictions.label, one.kept, config.features, predictions.classes
        )
        try:
            rng = generator(config.seed, run.name, "importance")
            one.entry["importance"] = importance(run, joined, rng=rng)
        except NoImportanceError as error:
            reasons[run.name] = str(error)
    notes.group("importance", "No permutation importance for {}", reasons)


def _figures(
    runs: Sequence[Run], measured: Measured, chosen: Chosen, notes: Notes
) -> dict[str, list[AnyFigure]]:
    classes = runs[0].predictions.classes
    figures: dict[str, list[AnyFigure]] = {
        "roc": [*charts.rocs(measured, chosen, classes)],
        "confusion": [*charts.confusions(measured, classes)],
        "calibration": [*charts.calibrations(measured, chosen, classes)],
        "learning": [*charts.learning_curves(runs)],
        "importance": [*charts.importances(measured)],
    }
    if without := [run.name for run in runs if not run.history]:
        reason = "there is no metrics.csv next to the predictions"
        notes.add("training", f"No learning curves for {', '.join(without)}: {reason}.")
    for one in measured:
        rows = one.entry["efficiency"]
        figures[f"scores:{one.name}"] = [*charts.scores(one, chosen, classes)]
        figures[f"efficiency:{one.name}"] = [*charts.efficiencies(one.name, rows, classes)]
    return figures


def _displays(
    run: Run, entry: Mapping[str, Any], joined: Joined | None, config: EvaluateConfig, notes: Notes
) -> list[AnyFigure]:
    """Return the hardest events of the best model, and those in the configuration."""
    ids = run.predictions.event_id
    wanted = [int(event["event_id"]) for event in entry["hardest"][:DISPLAYS]]
    wanted += [event for event in config.events if event in ids]
    if absent := [str(event) for event in config.events if event not in ids]:
        notes.add("events", f"Not in the test split, so not drawn: {', '.join(absent)}.")
    if joined is None:
        return []
    drawn: list[AnyFigure] = []
    for event in dict.fromkeys(wanted):
        index = int(ids.searchsorted(event))
        facts = kinematics.describe(run, index, joined)
        if figure := charts.display(run, index, joined, facts):
            drawn.append(figure)
    return drawn


def _write(
    output: Path, metrics: Mapping[str, Any], figures: Mapping[str, Sequence[AnyFigure]]
) -> None:
    """Write metrics.json last: if it is there, the report is complete."""
    folder = output / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    (output / METRICS).unlink(missing_ok=True)
    every = [figure for section in figures.values() for figure in section]
    for figure in tracked(every, "drawing"):
        save(figure, folder)
    names = [figure.name for figure in every]
    for left_over in folder.iterdir():
        if left_over.stem not in names:
            left_over.unlink()
    write_report(output / REPORT, metrics, figures, FIGURES)
    write_json(output / METRICS, {**metrics, "figures": names})
