"""Runs -> metrics.json, report.html and the figures' files. What is up to date is left alone; the same input gives the same bytes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from hepflow.config.stages import EvaluateConfig
from hepflow.data.provenance import code_hash, digest
from hepflow.data.runs import read_record
from hepflow.errors import ConfigError
from hepflow.evaluate import compare, kinematics
from hepflow.evaluate.figures import charts
from hepflow.evaluate.figures.figure import AnyFigure
from hepflow.evaluate.figures.plots import save
from hepflow.evaluate.importance import NoImportanceError, importance
from hepflow.evaluate.kinematics import Joined
from hepflow.evaluate.measure import Measured, generator, measure
from hepflow.evaluate.report import write_report
from hepflow.evaluate.runs import Run, check_comparable, content_hash, find_runs, read_run
from hepflow.evaluate.tables import summary_table
from hepflow.evaluate.text import best_model
from hepflow.evaluate.text import joined as listed
from hepflow.schema import CLASSES, METRICS_SCHEMA_VERSION
from hepflow.statistics.metrics import FINE_BINS
from hepflow.statistics.working_points import Selection, selections
from hepflow.system import locks
from hepflow.system.files import read_json, write_json
from hepflow.system.terminal import MESSAGES

log = logging.getLogger(__name__)
METRICS, REPORT, FIGURES = "metrics.json", "report.html", "figures"
DISPLAYS = 4
"""Hardest events that are drawn."""


@dataclass(frozen=True)
class Note:
    """Something the reader of a section should know."""

    topic: str
    text: str


def run(config: EvaluateConfig) -> None:
    """Evaluate and write the report, unless it is there already."""
    names = named(find_runs(config))
    contents = {name: content_hash(path) for name, path in names.items()}
    stores = [kinematics.stores_at_hand(config, read_record(path)) for path in names.values()]
    inputs = inputs_hash(config, contents, stores)
    if (done := _up_to_date(config.output, inputs)) is not None:
        log.info("%s is up to date: same runs, same stores, same options", config.output / REPORT)
        _show(done, config)
        return
    runs = [read_run(path, name, contents[name]) for name, path in names.items()]
    with locks.exclusive(config.output):
        metrics, figures = evaluate(runs, config)
        _write(config.output, {**metrics, "inputs": inputs}, figures)
    _show(metrics, config)
    compared = ", ".join(run.name for run in runs)
    log.info(
        "compared %s on %s test events: %s",
        compared,
        f"{metrics['n_events']:,}",
        config.output / REPORT,
    )


def _show(metrics: Mapping[str, Any], config: EvaluateConfig) -> None:
    for note in metrics["notes"]:
        log.info("%s: %s", note["topic"], note["text"])
    if config.json:
        print((config.output / METRICS).read_text(), end="")
    else:
        Console().print(summary_table(metrics))


def evaluate(
    runs: Sequence[Run], config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, list[AnyFigure]]]:
    """Metrics, as metrics.json holds them, and the figures by section.

    Raises
    ------
    DataError
        The runs may not be compared, or test events leaked into the training.
    """
    check_comparable(runs, same_events=not (config.allow_different_splits or config.ablation))
    classes = runs[0].predictions.classes
    notes: list[Note] = []
    chosen = selections(classes, _signal(config, classes, notes))
    joins = _join(runs, config, notes)  # first of all: a leak ends it
    measured = [
        measure(run, config, chosen)
        for run in track(runs, "measuring", transient=True, console=MESSAGES)
    ]
    entries = {one.name: one.entry for one in measured}
    _add_joined(runs, measured, joins, config, notes)
    pairs = compare.compare(
        runs, chosen, target=max(config.targets), exact_below=config.exact_below
    )
    first, best = runs[0].predictions, best_model(entries)
    metrics = {
        "schema_version": METRICS_SCHEMA_VERSION,
        "hepflow": version("hepflow"),
        "classes": list(classes),
        "n_events": len(first.label),
        "events_by_class": {
            name: int((first.label == label).sum()) for label, name in enumerate(classes)
        },
        "best": best,
        "models": entries,
        "pairs": pairs,
        "ablation": compare.ablation(runs, entries, pairs),
        "selections": {
            name: {
                "signal": [classes[s] for s in sel.signal],
                "background": [classes[b] for b in sel.background],
            }
            for name, sel in chosen.items()
        },
        "settings": {
            "targets": list(config.targets),
            "mix": dict(config.mix),
            "bootstrap": config.bootstrap,
            "seed": config.seed,
            "exact_below": config.exact_below,
        },
        "checks": _checks(runs, joins, config),
        "cautions": compare.cautions(pairs, entries, best),
        "method": _method(config, len(first.label)),
    }
    figures = _figures(
        runs, measured, chosen, _displays(runs, measured, joins, config, notes), notes
    )
    return {
        **metrics,
        "notes": [{"topic": note.topic, "text": note.text} for note in notes],
    }, figures


evaluate_runs = evaluate


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Name each run after its folder, and after the folder above too where that is not enough.

    Raises
    ------
    ConfigError
        That is not enough either.
    """
    found: dict[str, Path] = {}
    for path in dict.fromkeys(paths):
        own = path.stem if path.is_file() else path.resolve().name
        name = own if own not in found else f"{path.resolve().parent.name}-{own}"
        if name in found:
            raise ConfigError(
                f"{path}: a second run of the name {name!r}, beside {found[name]}. Rename one, or compare them in separate reports."
            )
        found[name] = path
    return found


def inputs_hash(
    config: EvaluateConfig, contents: Mapping[str, str], stores: Sequence[Sequence[str]]
) -> str:
    """Of all that the report depends on, and of nothing else: where it is written does not matter."""
    settings = replace(config, output=Path(), input=Path(), json=False)
    return digest(
        settings, dict(contents), stores, code_hash(Path(__file__).parent), METRICS_SCHEMA_VERSION
    )


def _up_to_date(output: Path, inputs: str) -> dict[str, Any] | None:
    metrics = output / METRICS
    if not metrics.is_file() or not (output / REPORT).is_file():
        return None
    written: dict[str, Any] = read_json(metrics)
    there = all(
        (output / FIGURES / f"{name}.{suffix}").is_file()
        for name in written.get("figures", [])
        for suffix in ("png", "pdf", "csv")
    )
    return written if written.get("inputs") == inputs and there else None


def _signal(config: EvaluateConfig, classes: Sequence[str], notes: list[Note]) -> list[str]:
    for option, names, known in (
        ("--signal", config.signal, {*classes}),
        ("--mix", config.mix, {*classes, *CLASSES}),
    ):
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(
                f"{option} names {', '.join(unknown)}, but the classes of these runs are {', '.join(classes)}"
            )
    if set(classes) <= set(config.mix) and not sum(config.mix[name] for name in classes):
        raise ConfigError(
            f"--mix gives no class of these runs a share of the rate ({', '.join(classes)})"
        )
    if set(config.signal) == set(classes):
        raise ConfigError(
            f"--signal names every class ({', '.join(classes)}): leave out at least one, which is what the trigger rejects"
        )
    signal = [name for name in classes if name in config.signal] or list(classes[1:])
    if not config.signal and set(classes) != set(CLASSES):
        text = f"No signal is named (--signal): taken is every class but the first, so {listed(signal)} against {classes[0]}."
        notes.append(Note("working points", text))
    if missing := [name for name in classes if name not in config.mix]:
        notes.append(
            Note(
                "working points",
                f"No share of the trigger's rate is given for {', '.join(missing)} (--mix): rates and purities that need it are left out.",
            )
        )
    return signal


def _join(runs: Sequence[Run], config: EvaluateConfig, notes: list[Note]) -> dict[str, Joined]:
    joins: dict[str, Joined] = {}
    reasons: dict[str, list[str]] = {}
    for run in runs:
        same = next(
            (joins[other.name] for other in runs if other.name in joins and _same(run, other)), None
        )
        if same is not None:
            joins[run.name] = same
            continue
        try:
            store = kinematics.open_store(config, run)
        except kinematics.NoStoreError as error:
            reasons.setdefault(str(error), []).append(run.name)
            continue
        joined = kinematics.join(store, run)
        kinematics.check_leak(joined, run)
        joins[run.name] = joined
    left_out = "no leak check by event, no kinematics, no displays"
    notes += [
        Note("kinematics", f"For {listed(names)} {left_out}: {reason}.")
        for reason, names in reasons.items()
    ]
    return joins


def _same(run: Run, other: Run) -> bool:
    return (
        run.store == other.store
        and run.predictions.event_id.tobytes() == other.predictions.event_id.tobytes()
    )


def _add_joined(
    runs: Sequence[Run],
    measured: Sequence[Measured],
    joins: Mapping[str, Joined],
    config: EvaluateConfig,
    notes: list[Note],
) -> None:
    """Complete the entries with what needs the feature store, as far as it is at hand."""
    reasons: dict[str, list[str]] = {}
    for run, one in zip(runs, measured, strict=True):
        joined = joins.get(run.name)
        _add_events(run, one, joined, config)
        one.entry["importance"] = {}
        try:
            if joined is not None:
                one.entry["importance"] = importance(
                    run, joined, rng=generator(config.seed, run.name, "importance")
                )
        except NoImportanceError as error:
            reasons.setdefault(str(error), []).append(run.name)
    notes += [
        Note("importance", f"No permutation importance for {listed(names)}: {reason}.")
        for reason, names in reasons.items()
    ]


def _add_events(run: Run, one: Measured, joined: Joined | None, config: EvaluateConfig) -> None:
    one.entry["hardest"] = [
        kinematics.describe(run, index, joined) for index in kinematics.hardest(run)
    ]
    label_N, classes = run.predictions.label, run.predictions.classes
    one.entry["efficiency"] = (
        {}
        if joined is None
        else kinematics.efficiencies(joined, label_N, one.kept, config.features, classes)
    )


def _checks(
    runs: Sequence[Run], joins: Mapping[str, Joined], config: EvaluateConfig
) -> dict[str, Any]:
    passed = [
        "Every prediction is of the test split, every event stands once, every logit is finite."
    ]
    every = all(run.name in joins for run in runs)
    if every:
        passed.append(
            "Every test event is in its store's test split and in no other, by event_id, and by its features and particles; "
            "the statistics of the normalisation are of the training split alone."
        )
    passed.append(
        "Models may have been tested on different events, because that was asked for; differences are on common events."
        if config.allow_different_splits or config.ablation
        else "All models were trained on one store and tested on the same events."
    )
    return {"leak": every, "passed": passed}


def _method(config: EvaluateConfig, n_events: int) -> list[str]:
    exact = n_events <= config.exact_below
    counted = (
        "every distinct score"
        if exact
        else f"scores in {FINE_BINS:,} bins of the log-odds (above {config.exact_below:,} events)"
    )
    return [
        "Every class has the same total weight, so that numbers do not depend on how many events of each were made.",
        "A selection is a cut on the log-odds of its signal classes against its background classes; "
        "for a class against the rest that orders events as its probability does.",
        f"AUC and efficiencies count {counted}; ties count half.",
        "Errors of AUCs: DeLong's, of the test sample. Errors of shares: Wilson's 68 % interval.",
        f"Errors of working points: standard deviation over {config.bootstrap} Poisson bootstrap replicas (seed {config.seed}), "
        "the threshold set anew in each.",
        "Differences between models: DeLong's covariance on the same events, Holm's correction.",
        f"Hard events are those with the largest log-odds of the predicted against the true class. The {DISPLAYS} hardest are drawn.",
    ]


def _figures(
    runs: Sequence[Run],
    measured: Sequence[Measured],
    chosen: Mapping[str, Selection],
    events: list[AnyFigure],
    notes: list[Note],
) -> dict[str, list[AnyFigure]]:
    classes = runs[0].predictions.classes
    figures: dict[str, list[AnyFigure]] = {
        "roc": [*charts.rocs(measured, chosen, classes)],
        "confusion": [*charts.confusions(measured, classes)],
        "calibration": [*charts.calibrations(measured, chosen, classes)],
        "learning": [*charts.learning_curves(runs)],
        "importance": [*charts.importances(measured)],
    }
    without = [run.name for run in runs if not run.history]
    if without:
        notes.append(
            Note(
                "training",
                f"No learning curves for {', '.join(without)}: there is no metrics.csv beside the predictions.",
            )
        )
    for one in measured:
        figures[f"scores:{one.name}"] = [*charts.scores(one, chosen, classes)]
        figures[f"efficiency:{one.name}"] = [
            *charts.efficiencies(one.name, one.entry["efficiency"], classes)
        ]
    return {**figures, "events": events}


def _displays(
    runs: Sequence[Run],
    measured: Sequence[Measured],
    joins: Mapping[str, Joined],
    config: EvaluateConfig,
    notes: list[Note],
) -> list[AnyFigure]:
    best = best_model({one.name: one.entry for one in measured})
    run = next(run for run in runs if run.name == best)
    joined = joins.get(best)
    ids = run.predictions.event_id
    wanted = [
        int(event["event_id"])
        for event in next(one for one in measured if one.name == best).entry["hardest"][:DISPLAYS]
    ]
    absent = [event for event in config.events if event not in ids]
    if absent:
        notes.append(
            Note("events", f"Not in the test split, so not drawn: {', '.join(map(str, absent))}.")
        )
    if joined is None:
        return []
    drawn: list[AnyFigure] = []
    for event in dict.fromkeys(
        [*wanted, *(event for event in config.events if event not in absent)]
    ):
        index = int(ids.searchsorted(event))
        figure = kinematics.display(run, index, joined, kinematics.describe(run, index, joined))
        drawn += [figure] if figure is not None else []
    return drawn


def _write(
    output: Path, metrics: dict[str, Any], figures: Mapping[str, Sequence[AnyFigure]]
) -> None:
    """The figures first and metrics.json last: where that is, the rest is whole and its own."""
    folder = output / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    (output / METRICS).unlink(missing_ok=True)
    every = charts.every(figures)
    for figure in track(every, "drawing", transient=True, console=MESSAGES):
        save(figure, folder)
    names = [figure.name for figure in every]
    for left_over in folder.iterdir():
        if left_over.stem not in names:
            left_over.unlink()
    write_report(output / REPORT, metrics, figures, FIGURES)
    write_json(output / METRICS, {**metrics, "figures": names})
