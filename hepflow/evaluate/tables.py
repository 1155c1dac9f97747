"""metrics.json -> the tables of the report and of the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table as TerminalTable

from hepflow.evaluate import published
from hepflow.evaluate.figures.figure import file_name
from hepflow.evaluate.text import (
    best_model,
    compact,
    duration,
    factor,
    hundredths,
    p_value,
    percent,
    pm,
    small,
    tightest,
)
from hepflow.statistics.pairs import PASSING

ROUGH = "Fewer than ten background test events pass: the rejection is a rough number."
NOT_KNOWN = "No background test event passes, or no share of the rate is given for a class (--mix)."


@dataclass(frozen=True)
class Cell:
    """What to show, and what to sort by."""

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
class Table:
    """A table that can be sorted."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str = ""
    foot: str = ""
    """What its marks mean."""


def _of(number: Mapping[str, float] | None, write: Any = pm) -> Cell:
    return Cell(write(number), float("-inf") if number is None else number["value"])


def _plain(value: Any, form: str = ",") -> Cell:
    if not isinstance(value, (int, float)):  # run.json is written by others
        return Cell("–" if value is None else str(value), float("-inf"))
    return Cell(format(value, form), float(value))


def auc_classes(metrics: Mapping[str, Any]) -> Sequence[str]:
    """Classes with an AUC of their own: of two the signal, whose AUC is the other's too."""
    classes: Sequence[str] = (
        metrics["classes"]
        if len(metrics["classes"]) > 2
        else metrics["selections"]["headline"]["signal"]
    )
    return classes


def models(metrics: Mapping[str, Any]) -> Table:
    """Accuracy, AUCs and calibration of every model."""
    classes, best = auc_classes(metrics), metrics["best"]
    rows = []
    for name, entry in metrics["models"].items():
        cells = [
            Cell(name),
            _of(entry["accuracy"], percent),
            *(_of(entry["auc"][c]) for c in classes),
        ]
        cells += [_of(entry["calibration"]["top"]["ece"]), _plain(entry["about"].get("parameters"))]
        rows.append(
            Row(tuple(cells), "best" if name == best and len(metrics["models"]) > 1 else "")
        )
    columns = ("model", "accuracy", *(f"AUC {name}" for name in classes), "ECE", "parameters")
    return Table("models", columns, tuple(rows))


def working_points(metrics: Mapping[str, Any], selection: str) -> Table:
    """One selection: all models at all targets."""
    rows = []
    signal: Sequence[str] = ()
    background: Sequence[str] = ()
    for name, entry in metrics["models"].items():
        chosen = entry["selections"][selection]
        signal, background = chosen["signal"], chosen["background"]
        for point in chosen["working_points"]:
            mark = " †" if point["few_events"] else ""
            rejection = _of(point["rejection"], factor)
            cells = [Cell(name), Cell(f"{100 * point['target']:g} %", point["target"])]
            cells += [_of(point["efficiency"][c], hundredths) for c in (*signal, *background)]
            cells += [
                Cell(rejection.text + mark, rejection.key),
                _of(point["rate_reduction"], factor),
                _of(point["purity"], hundredths),
            ]
            rows.append(Row(tuple(cells)))
    shares = (*(f"{c} kept, %" for c in signal), *(f"{c} passes, %" for c in background))
    columns = ("model", "target", *shares, "rejection", "rate ÷", "purity, %")
    marks = [f"† {ROUGH}"] if any(row.cells[-3].text.endswith("†") for row in rows) else []
    marks += (
        [f"– {NOT_KNOWN}"]
        if any(cell.text.startswith("–") for row in rows for cell in row.cells)
        else []
    )
    return Table(f"wp-{selection}", columns, tuple(rows), foot=" ".join(marks))


DIFFERENCES = ("models", "quantity", "difference", "z", "p", "p, corrected", "verdict")


def differences(metrics: Mapping[str, Any]) -> Table:
    """Every paired difference."""
    rows = [_difference(pair) for pair in metrics["pairs"]]
    return Table("pairs", DIFFERENCES, tuple(rows))


def _difference(pair: Mapping[str, Any]) -> Row:
    z = pair["value"] / pair["error"] if pair["error"] > 0 else 0.0
    larger_is_better = not pair["quantity"].startswith(PASSING)
    better = pair["first"] if (pair["value"] > 0) == larger_is_better else pair["second"]
    verdict = f"{better} is better" if pair["resolved"] else "cannot tell"
    cells = (
        Cell(f"{pair['first']} − {pair['second']}"),
        Cell(pair["quantity"]),
        _of(pair),
        Cell(f"{z:+.1f}".replace("-", "−"), z),
        Cell(p_value(pair["p_value"]), pair["p_value"]),
        Cell(p_value(pair["p_adjusted"]), pair["p_adjusted"]),
        Cell(verdict),
    )
    return Row(cells, "" if pair["resolved"] else "quiet")


def ablation(metrics: Mapping[str, Any]) -> Table:
    """AUCs and accuracy of each model under each definition."""
    classes = auc_classes(metrics)
    rows = []
    for group in metrics["ablation"]:
        for definitions, names in sorted(group["definitions"].items()):
            for name in names:
                entry = metrics["models"][name]
                cells = [
                    Cell(group["model"]),
                    Cell(definitions),
                    Cell(name),
                    _of(entry["accuracy"], percent),
                ]
                rows.append(
                    Row(
                        (
                            *cells,
                            *(_of(entry["auc"][c]) for c in classes),
                            _of(tightest(entry)["background_efficiency"], percent),
                        )
                    )
                )
    columns = (
        "net",
        "definitions",
        "run",
        "accuracy",
        *(f"AUC {name}" for name in classes),
        "background passes",
    )
    return Table("ablation", columns, tuple(rows))


def ablation_differences(metrics: Mapping[str, Any]) -> Table:
    """What a change of the definitions did, on common events."""
    rows = [_difference(pair) for group in metrics["ablation"] for pair in group["differences"]]
    return Table("ablation-pairs", DIFFERENCES, tuple(rows))


def cost(metrics: Mapping[str, Any]) -> Table:
    """What each training took."""
    rows = []
    for name, entry in metrics["models"].items():
        about = entry["about"]
        wall = about.get("wall_s")
        rows.append(
            Row(
                (
                    Cell(name),
                    Cell(_where(about) or "–"),
                    _plain(about.get("processes")),
                    _plain(about.get("epochs")),
                    _plain(about.get("events_trained")),
                    _plain(about.get("shuffle_reach"), ".0%"),
                    Cell("–", -1.0) if wall is None else Cell(duration(wall), wall),
                    _plain(about.get("events_per_s"), ",.0f"),
                )
            )
        )
    return Table(
        "cost",
        (
            "model",
            "where",
            "processes",
            "epochs",
            "events trained",
            "shuffled among",
            "time within training",
            "events/s",
        ),
        tuple(rows),
    )


def _where(about: Mapping[str, Any]) -> str:
    return ", ".join(str(about[key]) for key in ("engine", "device") if about.get(key))


def beside_published(metrics: Mapping[str, Any]) -> Table | None:
    """Ours first, then the published values; None where the classes are others."""
    classes = ("qcd", "ttbar", "wjets")
    if set(metrics["classes"]) != set(classes):
        return None
    rows = []
    for name, entry in metrics["models"].items():
        aucs = tuple(_of(entry["auc"][c], compact) for c in classes)
        about = entry["about"]
        where = Cell(": ".join(part for part in ("this report", _where(about)) if part))
        own = (
            Cell(name),
            where,
            _plain(entry["n_events"]),
            *aucs,
            _of(entry["accuracy"], compact),
            Cell(_training(about)),
        )
        rows.append(Row((*own, _plain(about.get("events_per_s"), ",.0f")), "best"))
    for line in published.TABLE:
        digits = ".5f" if len(line.auc) == len(classes) else ".4f"  # as published
        aucs = tuple(
            Cell(format(line.auc[c], digits), line.auc[c]) if c in line.auc else Cell("–", -1.0)
            for c in classes
        )
        accuracy = (
            Cell("–", -1.0) if line.accuracy is None else Cell(f"{line.accuracy:g}", line.accuracy)
        )
        source = Cell(f"{line.run}: {line.where}", href=line.source)
        cells = (
            Cell(line.model),
            source,
            _plain(published.TEST_EVENTS),
            *aucs,
            accuracy,
            Cell(line.training or "–"),
        )
        rows.append(Row((*cells, _plain(line.train_events_per_s, ",.0f"))))
    columns = (
        "model",
        "where",
        "test events",
        *(f"AUC {name}" for name in classes),
        "accuracy",
        "training",
        "events/s",
    )
    return Table("published", columns, tuple(rows))


def _training(about: Mapping[str, Any]) -> str:
    epochs = about.get("epochs")
    parts = [f"{epochs} epoch{'' if epochs == 1 else 's'}"] if epochs is not None else []
    parts += [duration(about["wall_s"])] if about.get("wall_s") is not None else []
    return " in ".join(parts) or "–"


def hard_events(model: str, entry: Mapping[str, Any], shown: Sequence[str]) -> Table:
    """The events that a model is most sure about and wrong; those that are drawn are links."""
    events = entry["hardest"]
    features = [
        name
        for name in ("HT", "MET", "MT", "nJets", "nBJets", "LepPt")
        if events and name in events[0].get("features", {})
    ]
    rows = []
    for event in events:
        link = f"#fig-event_{event['event_id']}" if event["event_id"] in shown else ""
        cells = [Cell(event["event_id"], href=link), Cell(event["true"]), Cell(event["predicted"])]
        cells += [
            Cell(f"{event['p_predicted']:.4f}", event["p_predicted"]),
            Cell(small(event["p_true"]), event["p_true"]),
        ]
        cells += [
            Cell(f"{event['features'][name]:.4g}", event["features"][name]) for name in features
        ]
        rows.append(Row(tuple(cells)))
    return Table(
        f"hard-{file_name(model)}",
        ("event_id", "true", "predicted", "p of predicted", "p of true", *features),
        tuple(rows),
    )


def sculpting(entry: Mapping[str, Any]) -> Table:
    """Whether the efficiency of a class depends on a feature."""
    rows = []
    for feature, row in entry["efficiency"].items():
        for name, one in row["efficiency"].items():
            values = [v for v, n in zip(one["value"], one["events"], strict=True) if n]
            per = one["chi2"] / one["ndf"] if one["ndf"] else 0.0
            spread = (
                Cell(
                    f"{100 * min(values):.1f} … {100 * max(values):.1f} %",
                    max(values) - min(values),
                )
                if values
                else Cell("–", -1.0)
            )
            rows.append(
                Row(
                    (
                        Cell(feature),
                        Cell(name),
                        spread,
                        Cell(f"{one['chi2']:.0f} / {one['ndf']}", per),
                    )
                )
            )
    return Table(
        "sculpting",
        ("feature", "class", "efficiency, lowest to highest bin", "χ² / ndf of a constant"),
        tuple(rows),
    )


def _words(splits: str | Sequence[str]) -> str:
    return splits if isinstance(splits, str) else " + ".join(splits)


def _hash(full: object) -> Cell:
    """The first digits, and all of them when hovering; metrics.json has them too."""
    return Cell(str(full)[:8], title=str(full)) if full else Cell("not recorded")


def provenance(metrics: Mapping[str, Any]) -> Table:
    """Where every model comes from."""
    rows = []
    for name, entry in metrics["models"].items():
        origin, about = entry["provenance"], entry["about"]
        versions = ", ".join(
            f"{package} {number}" for package, number in sorted(about.get("versions", {}).items())
        )
        config = about.get("config_hash") or origin.get("config_hash")
        seed = about.get("seed", origin.get("seed"))
        used = ", ".join(
            f"{purpose}: {_words(splits)}"
            for purpose, splits in about.get("splits_used", {}).items()
            if splits
        )
        hashes = tuple(
            _hash(own)
            for own in (origin.get("store"), config, about.get("code"), origin["content"])
        )
        rest = (
            Cell(str(cell) if cell not in {None, ""} else "not recorded")
            for cell in (seed, used, versions)
        )
        rows.append(Row((Cell(name), Cell(entry["definitions"] or "not recorded"), *hashes, *rest)))
    columns = (
        "model",
        "definitions",
        "data",
        "configuration",
        "code",
        "run files",
        "seed",
        "splits used",
        "versions",
    )
    return Table("provenance", columns, tuple(rows))


def for_terminal(table: Table) -> TerminalTable:
    """A table of the report for a terminal or a notebook."""
    shown = TerminalTable(title=table.caption or None, caption=table.foot or None)
    for index, column in enumerate(table.columns):
        numbers = all(row.cells[index].key is not None for row in table.rows)
        shown.add_column(escape(column), justify="right" if numbers else "left")
    for row in table.rows:
        shown.add_row(
            *(escape(cell.text) for cell in row.cells),
            style={"best": "bold", "quiet": "dim"}.get(row.tone, ""),
        )
    return shown


def summary_table(metrics: Mapping[str, Any]) -> TerminalTable:
    """What a terminal shows at the end: accuracy, AUC a class, and the background rejection of the headline."""
    classes = auc_classes(metrics)
    target = 100 * max(metrics["settings"]["targets"])
    first = next(iter(metrics["models"].values()))["selections"]["headline"]
    table = TerminalTable(
        title=f"test split, {metrics['n_events']:,} events, classes of equal weight; 0.97(2) is 0.97 ± 0.02"
    )
    table.add_column("model")
    rejected = escape("+".join(first["background"]))
    for column in (
        "accuracy",
        *(f"AUC {escape(name)}" for name in classes),
        f"1/ε {rejected} at {target:g} %",
    ):
        table.add_column(column, justify="right")
    for name, entry in metrics["models"].items():
        marked = name == best_model(metrics["models"]) and len(metrics["models"]) > 1
        aucs = (compact(entry["auc"][c]) for c in classes)
        table.add_row(
            escape(name),
            compact(entry["accuracy"]),
            *aucs,
            factor(tightest(entry)["rejection"]),
            style="bold" if marked else "",
        )
    return table
