"""Measured runs -> the figures of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hepflow.evaluate.figures.figure import (
    AnyFigure,
    Axis,
    Bars,
    Chart,
    Matrix,
    Series,
    colour,
    file_name,
)
from hepflow.evaluate.measure import Measured
from hepflow.evaluate.runs import Run
from hepflow.evaluate.text import pm
from hepflow.statistics.calibration import LEAST_EVENTS
from hepflow.statistics.working_points import Selection, against_rest

SIGNAL, BACKGROUND = "signal efficiency", "background efficiency"
FROM = 0.8
"""Where the headline's ROC curve begins: a trigger lives close to full efficiency."""


def title(classes: Sequence[str], labels: Sequence[int]) -> str:
    """``ttbar or wjets``."""
    return " or ".join(classes[label] for label in labels)


def rocs(
    measured: Sequence[Measured], chosen: Mapping[str, Selection], classes: Sequence[str]
) -> list[Chart]:
    """The headline's ROC curve close to full efficiency, and each class against the rest; all models in each."""
    return [
        _roc(selection.name, measured, selection, classes)
        for selection in (chosen["headline"], *against_rest(chosen))
    ]


def _roc(
    name: str, measured: Sequence[Measured], selection: Selection, classes: Sequence[str]
) -> Chart:
    lowest = 1.0
    series = []
    for index, one in enumerate(measured):
        signal, background = one.rocs[name]
        lowest = min(
            lowest,
            float(
                background[(background > 0) & (signal > (FROM if name == "headline" else 0.3))].min(
                    initial=1.0
                )
            ),
        )
        area = one.entry["selections"][name]["auc"]
        series.append(
            Series(
                f"{one.name}, AUC {pm(area)}", signal, background, colour("m", index), dash=index
            )
        )
    headline = name == "headline"
    if headline:
        series += [_points(one, index) for index, one in enumerate(measured)]
    series.append(
        Series("chance", np.linspace(1e-3, 1, 100), np.linspace(1e-3, 1, 100), "ink", style="guide")
    )
    keep, drop = title(classes, selection.signal), title(classes, selection.background)
    floor = 10.0 ** np.floor(np.log10(max(lowest, 1e-5)))
    return Chart(
        file_name("roc", name),
        f"{keep} against {drop}{', close to full efficiency' if headline else ''}",
        f"Share of {drop} that passes, against the share of {keep} that is kept"
        + (
            "; the points are the working points, where every signal class keeps its share."
            if headline
            else "."
        ),
        Axis(f"{SIGNAL} ({keep})", FROM if headline else 0.0, 1.0),
        Axis(f"{BACKGROUND} ({drop})", min(floor, 0.1), 1.0, log=True),
        tuple(series),
        linear_y=Axis(f"{BACKGROUND} ({drop})", 0.0, 1.0),
        zoom=True,
    )


def _points(one: Measured, index: int) -> Series:
    points = one.entry["selections"]["headline"]["working_points"]
    signal = one.entry["selections"]["headline"]["signal"]
    x = np.array(
        [np.mean([point["efficiency"][name]["value"] for name in signal]) for point in points]
    )
    y, error = (
        np.array([point["background_efficiency"][key] for point in points])
        for key in ("value", "error")
    )
    return Series(one.name, x, y, colour("m", index), error, style="points", dash=-1)


def learning_curves(runs: Sequence[Run]) -> list[Chart]:
    """Losses, and the quantities of the validation split, over the epochs, of which people call the first 1."""
    charts = []
    for index, run in enumerate(runs):
        losses = [
            (name, run.history[name]) for name in ("train_loss", "val_loss") if name in run.history
        ]
        if not losses:
            continue
        series = tuple(
            Series(
                label,
                np.array(points[0]) + 1,
                np.array(points[1]),
                colour("m", index),
                style="points",
                dash=dash,
            )
            for dash, (name, points) in enumerate(losses)
            for label in [{"train_loss": "training split", "val_loss": "validation split"}[name]]
        )
        charts.append(
            _over_epochs(
                file_name("loss", run.name),
                run.name,
                "Cross-entropy after each epoch.",
                "loss",
                series,
            )
        )
    series = tuple(
        Series(
            run.name,
            np.array(epochs) + 1,
            np.array(accuracy),
            colour("m", index),
            style="points",
            dash=index,
        )
        for index, run in enumerate(runs)
        if "val_accuracy" in run.history
        for epochs, accuracy in [run.history["val_accuracy"]]
    )
    if series:
        caption = "On the validation split, after each epoch."
        charts.append(
            _over_epochs(
                "validation_accuracy",
                "Validation accuracy",
                caption,
                "accuracy, validation split",
                series,
            )
        )
    return charts


def _over_epochs(
    name: str, heading: str, caption: str, label: str, series: tuple[Series, ...]
) -> Chart:
    low, high = _range(np.concatenate([one.y for one in series]))
    last = max(float(one.x.max()) for one in series)
    return Chart(
        name,
        heading,
        caption,
        Axis("epoch", 0.7, max(last, 2.0) + 0.3),
        Axis(label, low, high),
        series,
    )


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


def scores(one: Measured, chosen: Mapping[str, Selection], classes: Sequence[str]) -> list[Chart]:
    """Distributions by true class: of the discriminant that the headline cuts on, and of each class's probability."""
    headline = chosen["headline"]
    edges, counts_KB = one.discriminant
    keep, drop = title(classes, headline.signal), title(classes, headline.background)
    thresholds = [
        point["threshold"] for point in one.entry["selections"]["headline"]["working_points"]
    ]
    targets = ", ".join(
        f"{100 * point['target']:g}"
        for point in one.entry["selections"]["headline"]["working_points"]
    )
    caption = f"By true class, each normalised to 1; the outermost bins include the overflow. Dotted: cuts that keep {targets} %."
    label = f"log-odds of {keep} against {drop}"
    charts = [
        _distribution(
            file_name("score", one.name, "headline"),
            "What is cut on",
            caption,
            label,
            edges,
            counts_KB,
            classes,
            thresholds,
        )
    ]
    edges = np.linspace(0, 1, one.histograms.shape[2] + 1)
    return charts + [
        _distribution(
            file_name("score", one.name, name),
            f"Probability of {name}",
            "By true class, each normalised to 1.",
            f"probability of {name}",
            edges,
            one.histograms[classes.index(name)],
            classes,
        )
        for name in _own(chosen, classes)
    ]


def _own(chosen: Mapping[str, Selection], classes: Sequence[str]) -> list[str]:
    """Classes whose probability says what no other one says."""
    return [classes[selection.signal[0]] for selection in against_rest(chosen)]


def _distribution(
    name: str,
    heading: str,
    caption: str,
    label: str,
    edges: np.ndarray,
    counts_KB: np.ndarray,
    classes: Sequence[str],
    cuts: Sequence[float] = (),
) -> Chart:
    total = counts_KB.sum(axis=1, keepdims=True)
    share, error = counts_KB / total, np.sqrt(counts_KB) / total
    low = max(float(share[share > 0].min()) / 2, 1e-6)
    series = [
        Series(true, edges, share[t], colour("c", t), error[t], style="steps")
        for t, true in enumerate(classes)
    ]
    series += [
        Series("cut", np.array([cut, cut]), np.array([low, 1.0]), style="guide") for cut in cuts
    ]
    return Chart(
        name,
        heading,
        caption,
        Axis(label, edges[0], edges[-1]),
        Axis("share of the class", low, 1.0, log=True),
        tuple(series),
    )


def calibrations(
    measured: Sequence[Measured], chosen: Mapping[str, Selection], classes: Sequence[str]
) -> list[Chart]:
    """Reliability of the most probable class, and of each class's own probability; all models in each."""
    top = "How often the most probable class is the true one, where the model claims a probability; on the diagonal the claim is right."
    own = "The same of one class: how often an event is {}, where the model claims a probability of that."
    charts = [
        _reliability("calibration", "Calibration of the most probable class", top, "top", measured)
    ]
    return charts + [
        _reliability(file_name("calibration", c), f"Calibration of {c}", own.format(c), c, measured)
        for c in _own(chosen, classes)
    ]


def _reliability(
    name: str, heading: str, caption: str, key: str, measured: Sequence[Measured]
) -> Chart:
    series = [Series("perfect", np.array([0.0, 1.0]), np.array([0.0, 1.0]), "ink", style="guide")]
    lowest = 1.0
    for index, one in enumerate(measured):
        curve = one.entry["calibration"][key]
        lowest = min([lowest, *curve["predicted"], *curve["observed"]])
        x, y, low_B, high_B = (
            np.array(curve[part]) for part in ("predicted", "observed", "low", "high")
        )
        label, ends = f"{one.name}, ECE {pm(curve['ece'])}", np.stack([low_B, high_B])
        series.append(
            Series(label, x, y, colour("m", index), interval=ends, style="points", dash=index)
        )
    low = float(np.floor(lowest * 10) / 10)
    claimed, observed = (
        Axis("predicted probability", low - 0.02, 1.02),
        Axis("observed share", low - 0.02, 1.02),
    )
    return Chart(
        name,
        heading,
        f"{caption} Bars are Wilson's 68 % intervals; a point has {LEAST_EVENTS} events or more.",
        claimed,
        observed,
        tuple(series),
    )


def efficiencies(
    name: str, rows: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> list[Chart]:
    """Efficiency of the headline's working point against each kinematic feature."""
    charts = []
    for feature, row in rows.items():
        edges = np.array(row["edges"]) - (0.5 if row["integer"] else 0.0)
        series = []
        for k, c in enumerate(classes):
            one = row["efficiency"][c]
            filled = np.array(one["events"]) > 0
            centres, halves = (
                (edges[1:] + edges[:-1])[filled] / 2,
                (edges[1:] - edges[:-1])[filled] / 2,
            )
            value, low, high = (np.array(one[key])[filled] for key in ("value", "low", "high"))
            ends = np.stack([low, high])
            series.append(
                Series(
                    c,
                    centres,
                    value,
                    colour("c", k),
                    interval=ends,
                    half_width=halves,
                    style="points",
                )
            )
        unit = "" if row["unit"] == "1" else f" [{row['unit']}]"
        bins = (
            "; the last bin holds all above"
            if row["integer"]
            else ", in bins of equal population, the last with all above"
        )
        caption = f"Share of each class that the headline's tightest working point keeps{bins}; bars are Wilson's 68 % intervals."
        x = Axis(f"{feature}{unit}", edges[0], edges[-1])
        charts.append(
            Chart(
                file_name("efficiency", name, feature),
                f"Efficiency against {feature}",
                caption,
                x,
                Axis("efficiency", -0.05, 1.05),
                tuple(series),
            )
        )
    return charts


def importances(measured: Sequence[Measured]) -> list[Bars]:
    """One for each model whose inputs could be shuffled, the most important feature first."""
    found = []
    for one in measured:
        worth = sorted(one.entry["importance"].items(), key=lambda item: -item[1]["value"])
        if worth:
            value, error = (
                np.array([number[key] for _, number in worth]) for key in ("value", "error")
            )
            caption = "Loss of the mean AUC when a feature is shuffled among the test events. Features that say the same share their worth."
            found.append(
                Bars(
                    file_name("importance", one.name),
                    one.name,
                    caption,
                    "loss of AUC",
                    tuple(name for name, _ in worth),
                    value,
                    error,
                )
            )
    return found


def every(figures: Mapping[str, Sequence[AnyFigure]]) -> list[AnyFigure]:
    """All figures of all sections, in order."""
    return [figure for section in figures.values() for figure in section]
