"""Measured runs -> the figures of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hepflow.evaluate.figure import AnyFigure, Axis, Bars, Chart, Matrix, Series, file_name
from hepflow.evaluate.measure import Measured
from hepflow.evaluate.runs import Run
from hepflow.evaluate.working_points import Selection

SIGNAL, BACKGROUND = "signal efficiency", "background efficiency"
FROM = 0.8
"""Where the headline's ROC curve begins: a trigger lives close to full efficiency."""


def title(classes: Sequence[str], labels: Sequence[int]) -> str:
    """``ttbar or wjets``."""
    return " or ".join(classes[label] for label in labels)


def rocs(measured: Sequence[Measured], chosen: Mapping[str, Selection], classes: Sequence[str]) -> list[Chart]:
    """The headline's ROC curve close to full efficiency, and each class against the rest; all models in each."""
    wanted = ["headline", *(name for name in chosen if name.endswith("_vs_rest"))]
    return [_roc(name, measured, chosen[name], classes) for name in wanted]


def _roc(name: str, measured: Sequence[Measured], selection: Selection, classes: Sequence[str]) -> Chart:
    lowest = 1.0
    series = []
    for index, one in enumerate(measured):
        signal, background = one.rocs[name]
        lowest = min(lowest, float(background[(background > 0) & (signal > (FROM if name == "headline" else 0.3))].min(initial=1.0)))
        area = one.entry["selections"][name]["auc"]
        series.append(Series(f"{one.name}, AUC {area['value']:.4f} ± {area['error']:.4f}", signal, background, f"m{index}", dash=index))
    headline = name == "headline"
    if headline:
        series += [_points(one, index) for index, one in enumerate(measured)]
    series.append(Series("chance", np.linspace(1e-3, 1, 100), np.linspace(1e-3, 1, 100), "ink", style="guide"))
    keep, drop = title(classes, selection.signal), title(classes, selection.background)
    floor = 10.0 ** np.floor(np.log10(max(lowest, 1e-5)))
    return Chart(
        file_name("roc", name),
        f"{keep} against {drop}",
        f"Share of {drop} that passes, against the share of {keep} that is kept"
        + ("; the points are the working points, where every signal class keeps its share." if headline else "."),
        Axis(f"{SIGNAL} ({keep})", FROM if headline else 0.0, 1.0),
        Axis(f"{BACKGROUND} ({drop})", min(floor, 0.1), 1.0, log=True),
        tuple(series),
        linear_y=Axis(f"{BACKGROUND} ({drop})", 0.0, 1.0),
        zoom=True,
    )


def _points(one: Measured, index: int) -> Series:
    points = one.entry["selections"]["headline"]["working_points"]
    signal = one.entry["selections"]["headline"]["signal"]
    x = np.array([np.mean([point["efficiency"][name]["value"] for name in signal]) for point in points])
    y, error = (np.array([point["background_efficiency"][key] for point in points]) for key in ("value", "error"))
    return Series(one.name, x, y, f"m{index}", error, style="points", dash=-1)


def learning_curves(runs: Sequence[Run]) -> list[Chart]:
    """Losses, and the quantities of the validation split, over the epochs."""
    charts = []
    for index, run in enumerate(runs):
        losses = [(name, run.history[name]) for name in ("train_loss", "val_loss") if name in run.history]
        if not losses:
            continue
        series = tuple(
            Series(label, np.array(points[0]), np.array(points[1]), f"m{index}", style="points", dash=dash)
            for dash, (name, points) in enumerate(losses)
            for label in [{"train_loss": "training split", "val_loss": "validation split"}[name]]
        )
        charts.append(_over_epochs(file_name("loss", run.name), run.name, "Cross-entropy after each epoch.", "loss", series))
    for quantity, label in (("val_accuracy", "accuracy, validation split"), ("val_acc", "accuracy, validation split")):
        series = tuple(
            Series(
                run.name, np.array(run.history[quantity][0]), np.array(run.history[quantity][1]), f"m{index}", style="points", dash=index
            )
            for index, run in enumerate(runs)
            if quantity in run.history
        )
        if series:
            charts.append(
                _over_epochs("validation_accuracy", "Validation accuracy", "On the validation split, after each epoch.", label, series)
            )
            break
    return charts


def _over_epochs(name: str, heading: str, caption: str, label: str, series: tuple[Series, ...]) -> Chart:
    low, high = _range(np.concatenate([one.y for one in series]))
    last = max(float(one.x.max()) for one in series)
    return Chart(name, heading, caption, Axis("epoch", -0.3, max(last, 1.0) + 0.3), Axis(label, low, high), series)


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low) or 0.05 * max(abs(high), 1e-3)
    return low - room, high + room


def confusions(measured: Sequence[Measured], classes: Sequence[str]) -> list[Matrix]:
    """One a model."""
    return [
        Matrix(
            file_name("confusion", one.name),
            one.name,
            "Share of each true class (rows add up to 1).",
            "true class",
            "predicted class",
            tuple(classes),
            *(np.array(one.entry["confusion"][key]) for key in ("share", "error", "counts")),
        )
        for one in measured
    ]


def scores(one: Measured, classes: Sequence[str]) -> list[Chart]:
    """Distribution of each class's probability, by true class."""
    counts_KKB = one.histograms
    edges = np.linspace(0, 1, counts_KKB.shape[2] + 1)
    charts = []
    for k, name in enumerate(classes):
        total = counts_KKB[k].sum(axis=1, keepdims=True)
        share, error = counts_KKB[k] / total, np.sqrt(counts_KKB[k]) / total
        lowest = float(share[share > 0].min())
        series = tuple(Series(true, edges, share[t], f"c{t}", error[t], style="steps") for t, true in enumerate(classes))
        charts.append(
            Chart(
                file_name("score", one.name, name),
                f"Probability of {name}",
                "By true class, each normalised to 1.",
                Axis(f"probability of {name}", 0.0, 1.0),
                Axis("share of the class", max(lowest / 2, 1e-6), 1.0, log=True),
                series,
            )
        )
    return charts


def calibration(measured: Sequence[Measured]) -> Chart:
    """Reliability of the most probable class, of all models."""
    series = [Series("perfect", np.array([0.0, 1.0]), np.array([0.0, 1.0]), "ink", style="guide")]
    lowest = 1.0
    for index, one in enumerate(measured):
        top = one.entry["calibration"]["top"]
        lowest = min([lowest, *top["predicted"]])
        label = f"{one.name}, ECE {top['ece']['value']:.3f} ± {top['ece']['error']:.3f}"
        x, y, error = (np.array(top[key]) for key in ("predicted", "observed", "error"))
        series.append(Series(label, x, y, f"m{index}", error, style="points", dash=index))
    low = np.floor(lowest * 10) / 10
    caption = "How often the most probable class is the true one, where the model claims a probability; on the diagonal the claim is right."
    return Chart(
        "calibration",
        "Calibration",
        caption,
        Axis("predicted probability", low, 1.0),
        Axis("observed share", min(low, 0.3), 1.02),
        tuple(series),
    )


def efficiencies(name: str, rows: Mapping[str, Mapping[str, Any]], classes: Sequence[str]) -> list[Chart]:
    """Efficiency of the headline's working point against each kinematic feature."""
    charts = []
    for feature, row in rows.items():
        edges = np.array(row["edges"])
        centres = (edges[1:] + edges[:-1]) / 2 if not row["integer"] else edges[:-1]
        series = tuple(
            Series(
                c,
                centres[keep],
                np.array(row["efficiency"][c]["value"])[keep],
                f"c{k}",
                np.array(row["efficiency"][c]["error"])[keep],
                style="points",
            )
            for k, c in enumerate(classes)
            for keep in [np.array(row["efficiency"][c]["events"]) > 0]
        )
        unit = "" if row["unit"] == "1" else f" [{row['unit']}]"
        low, high = (edges[0], edges[-1]) if not row["integer"] else (edges[0] - 0.5, edges[-1] - 0.5)
        bins = "" if row["integer"] else ", in bins of equal population, the last with all above"
        caption = f"Share of each class that the headline's tightest working point keeps{bins}; Wilson errors."
        charts.append(
            Chart(
                file_name("efficiency", name, feature),
                f"Efficiency against {feature}",
                caption,
                Axis(f"{feature}{unit}", low, high),
                Axis("efficiency", 0.0, 1.05),
                series,
            )
        )
    return charts


def importances(measured: Sequence[Measured]) -> list[Bars]:
    """One for each model whose inputs could be shuffled, the most important feature first."""
    found = []
    for one in measured:
        worth = sorted(one.entry["importance"].items(), key=lambda item: -item[1]["value"])
        if worth:
            value, error = (np.array([number[key] for _, number in worth]) for key in ("value", "error"))
            caption = "Loss of the mean AUC when a feature is shuffled among the test events. Features that say the same share their worth."
            found.append(
                Bars(file_name("importance", one.name), one.name, caption, "loss of AUC", tuple(name for name, _ in worth), value, error)
            )
    return found


def every(figures: Mapping[str, Sequence[AnyFigure]]) -> list[AnyFigure]:
    """All figures of all sections, in order."""
    return [figure for section in figures.values() for figure in section]
