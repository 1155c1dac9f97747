"""compare.json -> the tables of the page and of the terminal."""

from collections.abc import Mapping
from typing import Any

from hepflow.evaluate.datasets.charts import label_of
from hepflow.evaluate.datasets.measure import ALL, EVERYTHING, FEATURES, SIDES, differing, ordered
from hepflow.evaluate.tables import Cell, ResultTable, Row, plain, with_error
from hepflow.statistics import numbers
from hepflow.statistics.numbers import DASH

Comparison = Mapping[str, Any]
MARK = "*"


def trees(comparison: Comparison) -> ResultTable:
    """Return the AUCs of the trees, and how many distances reach their threshold, per class."""
    rows, classes = [], ordered(comparison)
    kinds = [kind for kind in (FEATURES, EVERYTHING) if _any(comparison)["auc"].get(kind)]
    for name, entry in ordered(comparison, "trees").items():
        own = {name: classes[name]} if name in classes else classes
        aucs = [with_error(entry["auc"][kind], numbers.compact) for kind in kinds]
        blamed, alone = entry["given_away_by"], None
        if blamed and name in classes:
            alone = classes[name]["quantities"][blamed]["auc"]
        reached = sum(len(differing(one)) for one in own.values())
        n_distances = sum(len(one["quantities"]) for one in own.values())
        distance, most = max(
            (row["ks"], quantity if name in classes else f"{quantity}, {class_name}")
            for class_name, one in own.items()
            for quantity, row in one["quantities"].items()
        )
        events = [plain(sum(one["events"][side] for one in own.values())) for side in SIDES]
        cells = [Cell(name), *events, *aucs, Cell(blamed or DASH)]
        cells += [with_error(alone, numbers.compact), Cell(f"{distance:.3f} ({most})", distance)]
        cells.append(Cell(f"{reached} of {n_distances}", reached / n_distances))
        rows.append(Row(tuple(cells), "best" if name == ALL else ""))
    names = [f"events, {name}" for name in comparison["names"]]
    aucs_of = [f"AUC, {kind}" for kind in kinds] if len(kinds) > 1 else ["AUC"]
    columns = ("class", *names, *aucs_of, "given away by", "its AUC", "largest KS", "KS above")
    return ResultTable("trees", columns, rows)


def _any(comparison: Comparison) -> Mapping[str, Any]:
    return next(iter(comparison["trees"].values()))


def quantities(comparison: Comparison, class_name: str) -> ResultTable:
    """Return all numbers of the quantities of a class."""
    entry, first_and_second = comparison["classes"][class_name], comparison["names"]
    rows = []
    for quantity in comparison["quantities"]:
        row = entry["quantities"][quantity["name"]]
        cells = [Cell(label_of(quantity))]
        for side in SIDES:
            low, middle, high = row["quantiles"][side]
            cells.append(Cell(f"{low:.3g} / {middle:.3g} / {high:.3g}", middle))
        cells += [with_error(row["mean"][side], numbers.compact) for side in SIDES]
        distance = f"{row['ks']:.3f}{f' {MARK}' if row['differs'] else ''}"
        cells += [with_error(row["ratio"], numbers.compact), Cell(distance, row["ks"])]
        cells += [with_error(row["auc"], numbers.compact)]
        rows.append(Row(tuple(cells), "best" if row["differs"] else ""))
    quantiles = [f"10/50/90 %, {name}" for name in first_and_second]
    means = [f"mean, {name}" for name in first_and_second]
    ends = ("ratio of means", "KS", "AUC")
    foot = f"{MARK} KS from {entry['ks_threshold']:.3f} on: the threshold of these samples."
    name = f"quantities-{[*ordered(comparison)].index(class_name)}"
    return ResultTable(name, ("quantity", *quantiles, *means, *ends), rows, foot)


def overview(comparison: Comparison) -> ResultTable:
    """Return the table of the terminal: ratio of the means and distance, per quantity and class."""
    classes, rows = ordered(comparison), []
    for quantity in comparison["quantities"]:
        cells = [Cell(label_of(quantity))]
        for entry in classes.values():
            row = entry["quantities"][quantity["name"]]
            mark = f" {MARK}" if row["differs"] else "  "
            cells.append(with_error(row["ratio"], numbers.compact))
            cells.append(Cell(f"{row['ks']:.3f}{mark}", row["ks"]))
        rows.append(Row(tuple(cells)))
    first, second = comparison["names"]
    columns = [column for name in classes for column in (f"{name}: ratio", "KS")]
    levels = ", ".join(f"{entry['ks_threshold']:.3f} ({name})" for name, entry in classes.items())
    foot = f"ratio: mean of {first} over mean of {second}; {MARK} KS from {levels} on"
    return ResultTable("overview", ("quantity", *columns), rows, foot)
