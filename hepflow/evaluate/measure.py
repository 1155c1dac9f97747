"""Predictions of one run -> its entry in metrics.json, and the curves of its figures."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.config.stages import EvaluateConfig
from hepflow.evaluate.runs import Run
from hepflow.statistics import metrics
from hepflow.statistics.calibration import count
from hepflow.statistics.working_points import Selection, evaluate_selection, mix_of

Chosen = Mapping[str, Selection]  # selections by name
TRAINING = ("epochs", "events_trained", "shuffle_reach", "wall_s", "events_per_s")
MACHINE = ("engine", "device", "processes", "threads")
ORIGIN = ("seed", "config_hash", "code", "splits_used", "versions")
ABOUT = ("net", "arguments", "parameters", "trained_on", "offsets", *TRAINING, *MACHINE, *ORIGIN)
"""Keys copied from run.json, if they are there."""


@dataclass(frozen=True)
class RunMeasurement:
    """Results of one run."""

    name: str
    entry: dict[str, Any]  # its part of metrics.json
    rocs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Selection -> signal efficiency, background efficiency"""
    histograms: np.ndarray  # see `calibration.Probabilities`
    discriminant: tuple[np.ndarray, np.ndarray]
    """Headline score: (B + 1) edges, (K, B) events by true class"""
    kept: np.ndarray
    """(N) bool: selected at the headline's tightest working point (the highest target)"""


def measure(run: Run, config: EvaluateConfig, chosen: Chosen) -> RunMeasurement:
    """Measure everything that needs one run alone."""
    classes, label_N = run.predictions.classes, run.predictions.label
    logits_NK = run.predictions.logits
    rocs, parts = {}, {}
    for name, selection in chosen.items():
        sides = selection.signal, selection.background
        score_N, own_N = metrics.log_odds(logits_NK, *sides), label_N
        if len(selection.labels) < len(classes):
            used_N = np.isin(label_N, selection.labels)
            score_N, own_N = score_N[used_N], label_N[used_N]
        binned, _ = metrics.spectrum(score_N, own_N, len(classes), exact_below=config.exact_below)
        mix_K, rng = mix_of(selection, classes, config.mix), generator(config.seed, run.name, name)
        how: Any = {"targets": config.targets, "replicas": config.bootstrap}
        part = evaluate_selection(binned, selection, mix_K=mix_K, rng=rng, **how)
        rocs[name] = metrics.roc_points(binned.counts, *sides)
        if name == "headline":
            tightest = max(part["working_points"], key=lambda point: point["target"])
            kept_N, discriminant = score_N >= tightest["threshold"], binned.histogram()
        for point in part["working_points"]:
            point["efficiency"] = {classes[k]: kept for k, kept in point["efficiency"].items()}
        signal, background = ([classes[label] for label in side] for side in sides)
        parts[name] = {"signal": signal, "background": background, **part}

    predicted_N = metrics.predicted(logits_NK)
    probabilities = count(logits_NK, label_N, predicted_N)
    counts_KK = metrics.confusion(predicted_N, label_N, len(classes))
    ends = metrics.wilson(counts_KK, counts_KK.sum(axis=1, keepdims=True))
    tables = counts_KK, *metrics.confusion_shares(counts_KK), *ends
    keys = ("counts", "share", "error", "low", "high")
    calibration = {}
    for name, curve in zip(("top", *classes), (probabilities.top, *probabilities.own), strict=True):
        rng = generator(config.seed, run.name, "calibration", name)
        calibration[name] = curve.to_dict(replicas=config.bootstrap, rng=rng)
    auc = {name: parts[f"{name}_vs_rest"]["auc"] for name in classes}
    entry = {
        "model": str(run.about.get("model") or run.predictions.model),
        "definitions": run.definitions,
        "n_events": len(label_N),
        "about": {key: run.about[key] for key in ABOUT if key in run.about},
        "provenance": {**run.predictions.provenance, "content": run.content},
        "accuracy": metrics.balanced_accuracy(counts_KK)._asdict(),
        "confusion": {key: table.tolist() for key, table in zip(keys, tables, strict=True)},
        "calibration": calibration,
        "auc": auc,
        "auc_mean": float(np.mean([area["value"] for area in auc.values()])),
        "selections": parts,
    }
    return RunMeasurement(run.name, entry, rocs, probabilities.histograms, discriminant, kept_N)


Measured = Sequence[RunMeasurement]


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return random numbers for one purpose: another model in the report changes no error."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
