"""metrics.json -> the tables of the report and of the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from hepflow.evaluate import published
from hepflow.evaluate.figures.figure import file_name
from hepflow.evaluate.text import best_model, tightest
from hepflow.statistics import numbers
from hepflow.statistics.numbers import DASH, Number, pm
from hepflow.statistics.pairs import PASSING
from hepflow.system import terminal

Metrics = Mapping[str, Any]

LAST = float("-inf")
"""Sort key of a number that is not there."""


@dataclass(frozen=True)
class Cell:
    """A text, and the number to sort by."""

    text: str
    key: float | None = None
    """None: sorted as text."""
    title: str = ""
    """Shown when hovering."""
    href: str = ""


@dataclass(frozen=True)
class Row:
    """One line; ``tone`` is ``best``, ``quiet`` or nothing."""

    cells: tuple[Cell, ...]
    tone: str = ""


@dataclass(frozen=True)
class ResultTable:
    """A table that can be sorted."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    foot: str = ""
    """Meaning of its marks."""


def _row(*cells: str | Cell, tone: str = "") -> Row:
    return Row(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), tone)


def _of(number: Number, write: Any = pm) -> Cell:
    """Return the cell of a number with an error."""
    return Cell(write(number), LAST if number is None else number["value"])


def _plain(value: Any, form: str = ",") -> Cell:
    """Return the cell of a number without an error, or of whatever else a run.json holds."""
    if isinstance(value, (int, float)):
        return Cell(format(value, form), float(value))
    return Cell(DASH if value is None else str(value), LAST)


def _auc_classes(metrics: Metrics) -> Sequence[str]:
    """Return the classes with an AUC of their own: of two only the signal."""
    signal: Sequence[str] = metrics["selections"]["headline"]["signal"]
    return metrics["classes"] if len(metrics["classes"]) > 2 else signal


def models(metrics: Metrics) -> ResultTable:
    """Return accuracy, AUCs and calibration of every model."""
    classes, entries = _auc_classes(metrics), metrics["models"]
    rows = []
    for name, entry in entries.items():
        aucs = (_of(entry["auc"][c]) for c in classes)
        ece, parameters = entry["calibration"]["top"]["ece"], entry["about"].get("parameters")
        tone = "best" if name == metrics["best"] and len(entries) > 1 else ""
        accuracy = _of(entry["accuracy"], numbers.percent)
        rows.append(_row(name, accuracy, *aucs, _of(ece), _plain(parameters), tone=tone))
    columns = ("model", "accuracy", *(f"AUC {name}" for name in classes), "ECE", "parameters")
    return ResultTable("models", columns, tuple(rows))


def working_points(metrics: Metrics, selection: str) -> ResultTable:
    """Return all models at all targets of one selection."""
    rows = []
    few = unknown = False
    for name, entry in metrics["models"].items():
        chosen = entry["selections"][selection]
        signal, background = chosen["signal"], chosen["background"]
        for point in chosen["working_points"]:
            target = Cell(f"{100 * point['target']:g} %", point["target"])
            kept = [_of(point["efficiency"][c], numbers.hundredths) for c in (*signal, *background)]
            rejection = _of(point["rejection"], numbers.factor)
            if point["few_events"]:
                few, rejection = True, Cell(f"{rejection.text} †", rejection.key)
            rates = (
                _of(point["rate_reduction"], numbers.factor),
                _of(point["purity"], numbers.hundredths),
            )
            unknown |= any(cell.text.startswith(DASH) for cell in (rejection, *rates))
            rows.append(_row(name, target, *kept, rejection, *rates))
    shares = (*(f"{c} kept, %" for c in signal), *(f"{c} passes, %" for c in background))
    columns = ("model", "target", *shares, "rejection", "rate ÷", "purity, %")
    foot = []
    if few:
        foot += ["† Fewer than ten background test events pass: the rejection is a rough number."]
    if unknown:
        foot += ["– No background test event passes, or a class has no share of the rate (--mix)."]
    return ResultTable(f"wp-{selection}", columns, tuple(rows), " ".join(foot))


def differences(
    metrics: Metrics, name: str = "pairs", pairs: Sequence[Metrics] | None = None
) -> ResultTable:
    """Return all paired differences, or those in ``pairs``."""
    rows = []
    for pair in metrics["pairs"] if pairs is None else pairs:
        z = pair["value"] / pair["error"] if pair["error"] > 0 else 0.0
        larger_is_better = not pair["quantity"].startswith(PASSING)
        better = pair["first"] if (pair["value"] > 0) == larger_is_better else pair["second"]
        cells = [_of(pair), Cell(f"{z:+.1f}".replace("-", "−"), z)]
        cells += [Cell(numbers.p_value(pair[key]), pair[key]) for key in ("p_value", "p_adjusted")]
        names = f"{pair['first']} − {pair['second']}", pair["quantity"]
        verdict, tone = (
            (f"{better} is better", "") if pair["resolved"] else ("cannot tell", "quiet")
        )
        rows.append(_row(*names, *cells, verdict, tone=tone))
    columns = ("models", "quantity", "difference", "z", "p", "p, corrected", "verdict")
    return ResultTable(name, columns, tuple(rows))


def ablation(metrics: Metrics) -> ResultTable:
    """Return AUCs and accuracy of each model under each definition of the features."""
    classes = _auc_classes(metrics)
    rows = []
    for group in metrics["ablation"]:
        for definitions, names in sorted(group["definitions"].items()):
            for name in names:
                entry = metrics["models"][name]
                aucs = (_of(entry["auc"][c]) for c in classes)
                passes = _of(tightest(entry)["background_efficiency"], numbers.percent)
                accuracy = _of(entry["accuracy"], numbers.percent)
                rows.append(_row(group["model"], definitions, name, accuracy, *aucs, passes))
    aucs_of = (f"AUC {name}" for name in classes)
    columns = ("net", "definitions", "run", "accuracy", *aucs_of, "background passes")
    return ResultTable("ablation", columns, tuple(rows))


def ablation_differences(metrics: Metrics) -> ResultTable:
    """Return the paired differences between definitions."""
    pairs = [pair for group in metrics["ablation"] for pair in group["differences"]]
    return differences(metrics, "ablation-pairs", pairs)


def cost(metrics: Metrics) -> ResultTable:
    """Return duration and throughput of each training."""
    rows = []
    for name, entry in metrics["models"].items():
        about = entry["about"]
        keys = ("processes", "epochs", "events_trained")
        rows.append(
            _row(
                name,
                _where(about) or DASH,
                *(_plain(about.get(key)) for key in keys),
                _plain(about.get("shuffle_reach"), ".0%"),
                _duration(about),
                _plain(about.get("events_per_s"), ",.0f"),
            )
        )
    columns = ("model", "where", "processes", "epochs", "events trained", "shuffled among")
    return ResultTable("cost", (*columns, "time within training", "events/s"), tuple(rows))


def _where(about: Metrics) -> str:
    return ", ".join(str(about[key]) for key in ("engine", "device") if about.get(key))


def _duration(about: Metrics) -> Cell:
    wall = about.get("wall_s")
    return Cell(DASH, LAST) if wall is None else Cell(numbers.duration(wall), wall)


def with_published(metrics: Metrics) -> ResultTable | None:
    """Return our results, then the published ones; None if the classes are others."""
    classes = ("qcd", "ttbar", "wjets")
    if set(metrics["classes"]) != set(classes):
        return None
    rows = []
    for name, entry in metrics["models"].items():
        about, epochs = entry["about"], entry["about"].get("epochs")
        where = ": ".join(filter(None, ("this report", _where(about))))
        aucs = (_of(entry["auc"][c], numbers.compact) for c in classes)
        parts = [] if epochs is None else [f"{epochs} epoch{'' if epochs == 1 else 's'}"]
        parts += [] if about.get("wall_s") is None else [_duration(about).text]
        cells = _plain(entry["n_events"]), *aucs, _of(entry["accuracy"], numbers.compact)
        rate = _plain(about.get("events_per_s"), ",.0f")
        rows.append(_row(name, where, *cells, " in ".join(parts) or DASH, rate, tone="best"))
    for result in published.TABLE:
        digits = ".5f" if len(result.auc) == len(classes) else ".4f"  # as published
        where_ = Cell(f"{result.run}: {result.where}", href=published.REPOSITORY)
        aucs = (_plain(result.auc.get(c), digits) for c in classes)
        cells = _plain(published.TEST_EVENTS), *aucs, _plain(result.accuracy, "g")
        rate = _plain(result.events_per_s, ",.0f")
        rows.append(_row(result.model, where_, *cells, result.training or DASH, rate))
    aucs_of = (f"AUC {name}" for name in classes)
    columns = ("model", "where", "test events", *aucs_of, "accuracy", "training", "events/s")
    return ResultTable("published", columns, tuple(rows))


def hard_events(model: str, entry: Metrics, shown: Sequence[str]) -> ResultTable:
    """Return the misclassified events with the highest confidence; drawn ones are links."""
    known = entry["hardest"][0].get("features", {}) if entry["hardest"] else {}
    features = [f for f in ("HT", "MET", "MT", "nJets", "nBJets", "LepPt") if f in known]
    rows = []
    for event in entry["hardest"]:
        number = event["event_id"]
        link = Cell(number, href=f"#fig-event_{number}" if number in shown else "")
        probable = (
            _plain(event["p_predicted"], ".4f"),
            Cell(numbers.small(event["p_true"]), event["p_true"]),
        )
        values = (_plain(event["features"][name], ".4g") for name in features)
        rows.append(_row(link, event["true"], event["predicted"], *probable, *values))
    columns = ("event_id", "true", "predicted", "p of predicted", "p of true", *features)
    return ResultTable(f"hard-{file_name(model)}", columns, tuple(rows))


def sculpting(entry: Metrics) -> ResultTable:
    """Return how much the efficiency of each class depends on each feature."""
    rows = []
    for feature, row in entry["efficiency"].items():
        for name, one in row["efficiency"].items():
            values = [v for v, n in zip(one["value"], one["events"], strict=True) if n]
            low, high = min(values, default=0.0), max(values, default=0.0)
            spread = f"{100 * low:.1f} … {100 * high:.1f} %" if values else DASH
            chi2, ndf = one["chi2"], one["ndf"]
            quality = Cell(f"{chi2:.0f} / {ndf}", chi2 / ndf if ndf else 0.0)
            rows.append(_row(feature, name, Cell(spread, high - low), quality))
    columns = ("feature", "class", "efficiency, lowest to highest bin", "χ² / ndf of a constant")
    return ResultTable("sculpting", columns, tuple(rows))


def provenance(metrics: Metrics) -> ResultTable:
    """Return the data, configuration, code and versions of every model."""
    rows = []
    for name, entry in metrics["models"].items():
        origin, about = entry["provenance"], entry["about"]
        versions = sorted(about.get("versions", {}).items())
        config = about.get("config_hash") or origin.get("config_hash")
        used = []
        for purpose, splits in about.get("splits_used", {}).items():
            if splits:
                used.append(
                    f"{purpose}: {splits if isinstance(splits, str) else ' + '.join(splits)}"
                )
        hashes = [
            Cell(str(full)[:8], title=str(full)) if full else Cell("not recorded")
            for full in (origin.get("store"), config, about.get("code"), origin["content"])
        ]
        seed = about.get("seed", origin.get("seed"))
        texts = [
            "" if seed is None else str(seed),
            ", ".join(used),
            ", ".join(f"{package} {number}" for package, number in versions),
        ]
        definitions = entry["definitions"] or "not recorded"
        rows.append(_row(name, definitions, *hashes, *(text or "not recorded" for text in texts)))
    columns = ("model", "definitions", "data", "configuration", "code", "run files", "seed")
    return ResultTable("provenance", (*columns, "splits used", "versions"), tuple(rows))


def for_terminal(table: ResultTable) -> Table:
    """Return a table of the report for a terminal or a notebook."""
    styles = {"best": "bold", "quiet": "dim"}
    rows = [[Text(cell.text, styles.get(row.tone, "")) for cell in row.cells] for row in table.rows]
    shown = terminal.table(table.columns, rows)
    for index, column in enumerate(shown.columns):
        if any(row.cells[index].key is None for row in table.rows):
            column.justify = "left"
    shown.caption = Text(table.foot) if table.foot else None
    return shown


def summary_table(metrics: Metrics) -> Table:
    """Return the table of the terminal: accuracy, AUC per class, rejection of the headline."""
    classes, entries = _auc_classes(metrics), metrics["models"]
    target = 100 * max(metrics["settings"]["targets"])
    rejected = "+".join(metrics["selections"]["headline"]["background"])
    rows = []
    for name, entry in entries.items():
        style = "bold" if name == best_model(entries) and len(entries) > 1 else ""
        aucs = (numbers.compact(entry["auc"][c]) for c in classes)
        rejection = numbers.factor(tightest(entry)["rejection"])
        cells = (name, numbers.compact(entry["accuracy"]), *aucs, rejection)
        rows.append([Text(cell, style) for cell in cells])
    aucs_of = (f"AUC {name}" for name in classes)
    columns = ("model", "accuracy", *aucs_of, f"1/ε {rejected} at {target:g} %")
    events = f"test split, {metrics['n_events']:,} events, classes of equal weight"
    return terminal.table(columns, rows, f"{events}; 0.97(2) is 0.97 ± 0.02")
