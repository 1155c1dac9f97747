"""Measured runs -> the figures of the report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hepflow.evaluate.figures import Axis, Bars, Chart, Display, Matrix, Series, colour, file_name
from hepflow.evaluate.kinematics import Joined
from hepflow.evaluate.measure import Chosen, Measured, RunMeasurement
from hepflow.evaluate.runs import Run
from hepflow.statistics.calibration import LEAST_EVENTS
from hepflow.statistics.numbers import pm
from hepflow.statistics.working_points import Selection, against_rest

Names = Sequence[str]
Numbers = Sequence[float]
FROM = 0.8  # signal efficiency at which the headline's ROC curve begins: a trigger works close to 1
WILSON = "bars are Wilson's 68 % intervals"
KINDS = ("charged hadron", "photon", "neutral hadron", "lepton")
FLAGS = {"isChHad": 0, "isGamma": 1, "isNeuHad": 2, "isEle": 3, "isMu": 3}


def sides(selection: Selection, classes: Names) -> list[str]:
    """Return ``ttbar or wjets``, ``qcd``."""
    labels = selection.signal, selection.background
    return [" or ".join(classes[k] for k in own) for own in labels]


def rocs(measured: Measured, chosen: Chosen, classes: Names) -> list[Chart]:
    """Return the headline's ROC curve close to full efficiency, and each class against the rest."""
    charts = []
    diagonal = np.linspace(1e-3, 1, 100)
    chance = Series("chance", diagonal, diagonal, style="guide")
    for selection in (chosen["headline"], *against_rest(chosen)):
        name, headline = selection.name, selection.name == "headline"
        keep, drop = sides(selection, classes)
        lowest, curves, points = 1.0, [], []
        for index, one in enumerate(measured):
            x, y = one.rocs[name]
            lowest = y[(y > 0) & (x > (FROM if headline else 0.3))].min(initial=lowest)
            own, tint = one.entry["selections"][name], colour("m", index)
            curves.append(Series(f"{one.name}, AUC {pm(own['auc'])}", x, y, tint, dash=index))
            if headline:
                rows = own["working_points"]
                shares = [[row["efficiency"][c]["value"] for c in own["signal"]] for row in rows]
                passes = [row["background_efficiency"] for row in rows]
                value, error = np.array([[number["value"], number["error"]] for number in passes]).T
                kept = np.mean(shares, axis=1)
                points.append(Series(one.name, kept, value, tint, error, style="marks"))
        floor = min(10.0 ** np.floor(np.log10(max(lowest, 1e-5))), 0.1)
        title = f"{keep} against {drop}"
        caption = f"Share of {drop} that passes against the share of {keep} that is kept"
        if headline:
            title += ", close to full efficiency"
            caption += "; points: the working points, where every signal class keeps its share"
        x_axis = Axis(f"signal efficiency ({keep})", FROM if headline else 0.0, 1.0)
        label, series = f"background efficiency ({drop})", (*curves, *points, chance)
        y_axis, linear = Axis(label, floor, 1.0, log=True), Axis(label, 0.0, 1.0)
        axes, file = (x_axis, y_axis), file_name("roc", name)
        charts.append(Chart(file, title, f"{caption}.", *axes, series, linear, zoom=True))
    return charts


def learning_curves(runs: Sequence[Run]) -> list[Chart]:
    """Return losses and validation accuracy over the epochs, of which the first is called 1."""
    charts, accuracies = [], []
    splits = {"train_loss": "training split", "val_loss": "validation split"}
    for index, run in enumerate(runs):
        losses = []
        for dash, (name, label) in enumerate(splits.items()):
            if name in run.history:
                losses.append(_over_epochs(label, run.history[name], index, dash))
        if losses:
            name, caption = file_name("loss", run.name), "Cross-entropy after each epoch."
            charts.append(_epochs(name, run.name, caption, "loss", losses))
        if history := run.history.get("val_accuracy"):
            accuracies.append(_over_epochs(run.name, history, index, index))
    if accuracies:
        titles = "Validation accuracy", "On the validation split, after each epoch."
        label = "accuracy, validation split"
        charts.append(_epochs("validation_accuracy", *titles, label, accuracies))
    return charts


def _over_epochs(label: str, history: Any, index: int, dash: int) -> Series:
    epochs, values = map(np.array, history)
    return Series(label, epochs + 1, values, colour("m", index), style="points", dash=dash)


def _epochs(name: str, title: str, caption: str, label: str, series: list[Series]) -> Chart:
    values = np.concatenate([one.y for one in series])
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low) or 0.05 * max(abs(high), 1e-3)
    last = max(float(one.x.max()) for one in series)
    x, y = Axis("epoch", 0.7, max(last, 2.0) + 0.3), Axis(label, low - room, high + room)
    return Chart(name, title, caption, x, y, tuple(series))


def confusions(measured: Measured, classes: Names) -> list[Matrix]:
    """Return one confusion matrix per model."""
    caption = "Share of each true class (rows add up to 1)."
    charts = []
    for one in measured:
        numbers = (np.array(one.entry["confusion"][key]) for key in ("share", "error", "counts"))
        name = file_name("confusion", one.name)
        charts.append(Matrix(name, one.name, caption, tuple(classes), *numbers))
    return charts


def scores(one: RunMeasurement, chosen: Chosen, classes: Names) -> list[Chart]:
    """Return distributions by true class: the headline's discriminant, and each probability."""
    keep, drop = sides(chosen["headline"], classes)
    points = one.entry["selections"]["headline"]["working_points"]
    targets = ", ".join(f"{100 * point['target']:g}" for point in points)
    normalised = "By true class, each normalised to 1"
    caption = f"{normalised}; the outermost bins include the overflow. Dotted: cuts that keep"
    name, title = file_name("score", one.name, "headline"), "Discriminant of the headline"
    cuts = [point["threshold"] for point in points]
    label = f"log-odds of {keep} against {drop}"
    distribution = _distribution(label, *one.discriminant, classes, cuts)
    charts = [Chart(name, title, f"{caption} {targets} %.", *distribution)]
    edges = np.linspace(0, 1, one.histograms.shape[2] + 1)
    for own in _own(chosen, classes):
        name, title = file_name("score", one.name, own), f"Probability of {own}"
        counts_KB = one.histograms[classes.index(own)]
        distribution = _distribution(f"probability of {own}", edges, counts_KB, classes)
        charts.append(Chart(name, title, f"{normalised}.", *distribution))
    return charts


def _own(chosen: Chosen, classes: Names) -> list[str]:
    """Return the classes with a discriminant of their own: of two only the signal."""
    return [classes[selection.signal[0]] for selection in against_rest(chosen)]


def _distribution(
    label: str, edges: np.ndarray, counts_KB: np.ndarray, classes: Names, cuts: Numbers = ()
) -> tuple[Axis, Axis, tuple[Series, ...]]:
    total = counts_KB.sum(axis=1, keepdims=True)
    share, error = counts_KB / total, np.sqrt(counts_KB) / total
    low = max(float(share[share > 0].min()) / 2, 1e-6)
    series = []
    for k, name in enumerate(classes):
        series.append(Series(name, edges, share[k], colour("c", k), error[k], style="steps"))
    for cut in cuts:
        x, y = np.array([cut, cut]), np.array([low, 1.0])
        series.append(Series("cut", x, y, style="guide"))
    y_axis = Axis("share of the class", low, 1.0, log=True)
    return Axis(label, edges[0], edges[-1]), y_axis, tuple(series)


def calibrations(measured: Measured, chosen: Chosen, classes: Names) -> list[Chart]:
    """Return reliability curves of the most probable class, and of each class's probability."""
    top = "Share of events whose most probable class is the true one, against that probability"
    charts = [_reliability("calibration", "the most probable class", top, "top", measured)]
    for own in _own(chosen, classes):
        caption = f"Share of events that are {own}, against their predicted probability of {own}"
        charts.append(_reliability(file_name("calibration", own), own, caption, own, measured))
    return charts


def _reliability(name: str, what: str, caption: str, key: str, measured: Measured) -> Chart:
    diagonal, lowest = np.array([0.0, 1.0]), 1.0
    series = [Series("perfect", diagonal, diagonal, style="guide")]
    for index, one in enumerate(measured):
        curve = one.entry["calibration"][key]
        x, y, low, high = map(np.array, map(curve.get, ("predicted", "observed", "low", "high")))
        lowest = min([lowest, *x, *y])
        label, ends = f"{one.name}, ECE {pm(curve['ece'])}", np.stack([low, high])
        drawn = Series(label, x, y, colour("m", index), interval=ends, style="points", dash=index)
        series.append(drawn)
    start = float(np.floor(lowest * 10) / 10) - 0.02
    x_axis, y_axis = Axis("predicted probability", start, 1.02), Axis("observed share", start, 1.02)
    text = f"{caption} (diagonal: perfect); {WILSON}; a point has at least {LEAST_EVENTS} events."
    return Chart(name, f"Calibration of {what}", text, x_axis, y_axis, tuple(series))


def efficiencies(name: str, rows: Mapping[str, Mapping[str, Any]], classes: Names) -> list[Chart]:
    """Return the efficiency of the headline's working point against each kinematic feature."""
    charts = []
    for feature, row in rows.items():
        edges = np.array(row["edges"]) - (0.5 if row["integer"] else 0.0)
        centres, halves = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        series = []
        for k, c in enumerate(classes):
            one = row["efficiency"][c]
            filled = np.array(one["events"]) > 0
            value, low, high = (np.array(one[key])[filled] for key in ("value", "low", "high"))
            x, ends, widths = centres[filled], np.stack([low, high]), halves[filled]
            series.append(Series(c, x, value, colour("c", k), None, ends, widths, "points"))
        unit = "" if row["unit"] == "1" else f" [{row['unit']}]"
        bins = "one bin per number" if row["integer"] else "bins of equal population"
        kept = "Share of each class that the headline's tightest working point keeps"
        caption = f"{kept}; {bins}, the last one with all above; {WILSON}."
        texts = file_name("efficiency", name, feature), f"Efficiency against {feature}", caption
        axes = Axis(f"{feature}{unit}", edges[0], edges[-1]), Axis("efficiency", -0.05, 1.05)
        charts.append(Chart(*texts, *axes, tuple(series)))
    return charts


def importances(measured: Measured) -> list[Bars]:
    """Return the permutation importances of each model that has them, in falling order."""
    caption = "Loss of mean AUC when a feature is shuffled among the test events. "
    caption += "Features with the same information share their importance."
    found = []
    for one in measured:
        worth = sorted(one.entry["importance"].items(), key=lambda item: -item[1]["value"])
        if worth:
            numbers = (np.array([number[key] for _, number in worth]) for key in ("value", "error"))
            name, labels = file_name("importance", one.name), tuple(name for name, _ in worth)
            found.append(Bars(name, one.name, caption, "loss of AUC", labels, *numbers))
    return found


def display(run: Run, index: int, joined: Joined, facts: Mapping[str, Any]) -> Display | None:
    """Return the particles of an event; None if there are none, or the store lacks their type."""
    names = [feature.name for feature in joined.store.spec.particles]
    particles = joined.event(index).particles
    if not len(particles) or not {"Eta", "Phi", "Pt", *FLAGS} <= set(names):
        return None
    kind = np.zeros(len(particles), dtype=np.int64)
    for flag, number in FLAGS.items():
        kind[particles[:, names.index(flag)] > 0] = number
    columns = [names.index(key) for key in ("Eta", "Phi", "Pt")]
    eta, phi, pt = particles[:, columns].T.astype(np.float64)
    event, prediction = facts["event_id"], f"{facts['predicted']} ({facts['p_predicted']:.3f})"
    caption = f"{len(particles)} particles; the area of a circle grows with pT."
    about = (("truth", facts["true"]), (run.name, prediction))
    return Display(f"event_{event}", f"Event {event}", caption, KINDS, kind, eta, phi, pt, about)
