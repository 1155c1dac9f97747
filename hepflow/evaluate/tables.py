"""metrics.json -> the tables of the report, those of the terminal and of notebooks among them.

Tables that only the page shows are in templates/report.html.j2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from hepflow.evaluate.text import tightest
from hepflow.statistics import numbers
from hepflow.statistics.numbers import DASH, Number, pm
from hepflow.statistics.pairs import PASSING
from hepflow.system import terminal

Metrics = Mapping[str, Any]
LAST = float("-inf")  # sort key of a missing number


@dataclass(frozen=True)
class Cell:
    """A text, and the number to sort by; without one it is sorted as text."""

    text: str
    key: float | None = None


@dataclass(frozen=True)
class Row:
    """One line; ``tone`` is ``best``, ``quiet`` or nothing."""

    cells: tuple[Cell, ...]
    tone: str = ""


@dataclass(frozen=True)
class ResultTable:
    """A table that can be sorted; ``foot`` explains its marks."""

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    foot: str = ""


def _row(*cells: str | Cell, tone: str = "") -> Row:
    return Row(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in cells), tone)


def with_error(number: Number, write: Any = pm) -> Cell:
    """Return the cell of a number with an error."""
    return Cell(write(number), LAST if number is None else number["value"])


def plain(value: Any, form: str = ",") -> Cell:
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
    classes, rows = _auc_classes(metrics), []
    for name, entry in metrics["models"].items():
        accuracy = with_error(entry["accuracy"], numbers.percent)
        aucs = (with_error(entry["auc"][c]) for c in classes)
        ece = with_error(entry["calibration"]["top"]["ece"])
        tone = "best" if name == metrics["best"] and len(metrics["models"]) > 1 else ""
        parameters = plain(entry["about"].get("parameters"))
        rows.append(_row(name, accuracy, *aucs, ece, parameters, tone=tone))
    columns = ("model", "accuracy", *(f"AUC {name}" for name in classes), "ECE", "parameters")
    return ResultTable("models", columns, rows)


def working_points(metrics: Metrics, selection: str) -> ResultTable:
    """Return all models at all targets of one selection."""
    signal, background = (metrics["selections"][selection][key] for key in ("signal", "background"))
    rows = []
    few = unknown = False
    for name, entry in metrics["models"].items():
        for point in entry["selections"][selection]["working_points"]:
            target = Cell(f"{100 * point['target']:g} %", point["target"])
            shares = [point["efficiency"][c] for c in (*signal, *background)]
            kept = [with_error(share, numbers.hundredths) for share in shares]
            factors = point["rejection"], point["rate_reduction"]
            rejection, reduction = (with_error(one, numbers.factor) for one in factors)
            purity = with_error(point["purity"], numbers.hundredths)
            unknown |= DASH in {rejection.text, reduction.text, purity.text}
            if point["few_events"]:
                few, rejection = True, Cell(f"{rejection.text} †", rejection.key)
            rows.append(_row(name, target, *kept, rejection, reduction, purity))
    kept_of, passes_of = (f"{c} kept, %" for c in signal), (f"{c} passes, %" for c in background)
    columns = ("model", "target", *kept_of, *passes_of, "rejection", "rate ÷", "purity, %")
    rough = "† Fewer than ten background test events pass: the rejection is a rough number."
    none = "– No background test event passes, or a class has no share of the rate (--mix)."
    return ResultTable(f"wp-{selection}", columns, rows, " ".join([rough] * few + [none] * unknown))


def differences(
    metrics: Metrics, name: str = "pairs", pairs: Sequence[Metrics] | None = None
) -> ResultTable:
    """Return all paired differences, or those in ``pairs``."""
    rows = []
    for pair in metrics["pairs"] if pairs is None else pairs:
        z = pair["value"] / pair["error"] if pair["error"] > 0 else 0.0
        larger_is_better = not pair["quantity"].startswith(PASSING)
        better = pair["first"] if (pair["value"] > 0) == larger_is_better else pair["second"]
        cells = [with_error(pair), Cell(f"{z:+.1f}".replace("-", "−"), z)]
        cells += [Cell(numbers.p_value(pair[key]), pair[key]) for key in ("p_value", "p_adjusted")]
        verdict = f"{better} is better" if pair["resolved"] else "cannot tell"
        names = f"{pair['first']} − {pair['second']}", pair["quantity"]
        rows.append(_row(*names, *cells, verdict, tone="" if pair["resolved"] else "quiet"))
    columns = ("models", "quantity", "difference", "z", "p", "p, corrected", "verdict")
    return ResultTable(name, columns, rows)


def ablation(metrics: Metrics) -> ResultTable:
    """Return AUCs and accuracy of each model under each definition of the features."""
    classes, rows = _auc_classes(metrics), []
    for group in metrics["ablation"]:
        for definitions, names in sorted(group["definitions"].items()):
            for name in names:
                entry = metrics["models"][name]
                aucs = (with_error(entry["auc"][c]) for c in classes)
                shares = entry["accuracy"], tightest(entry)["background_efficiency"]
                accuracy, passes = (with_error(share, numbers.percent) for share in shares)
                rows.append(_row(group["model"], definitions, name, accuracy, *aucs, passes))
    aucs_of = (f"AUC {name}" for name in classes)
    columns = ("net", "definitions", "run", "accuracy", *aucs_of, "background passes")
    return ResultTable("ablation", columns, rows)


def ablation_differences(metrics: Metrics) -> ResultTable:
    """Return the paired differences between definitions."""
    pairs = [pair for group in metrics["ablation"] for pair in group["differences"]]
    return differences(metrics, "ablation-pairs", pairs)


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
    return ResultTable("sculpting", columns, rows)


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
    classes, rows = _auc_classes(metrics), []
    for name, entry in metrics["models"].items():
        style = "bold" if name == metrics["best"] and len(metrics["models"]) > 1 else ""
        aucs = (numbers.compact(entry["auc"][c]) for c in classes)
        rejection = numbers.factor(tightest(entry)["rejection"])
        cells = (name, numbers.compact(entry["accuracy"]), *aucs, rejection)
        rows.append([Text(cell, style) for cell in cells])
    target = 100 * max(metrics["settings"]["targets"])
    rejected = "+".join(metrics["selections"]["headline"]["background"])
    aucs_of = (f"AUC {name}" for name in classes)
    columns = ("model", "accuracy", *aucs_of, f"1/ε {rejected} at {target:g} %")
    events = f"test split, {metrics['n_events']:,} events, classes of equal weight"
    return terminal.table(columns, rows, f"{events}; 0.97(2) is 0.97 ± 0.02")
