"""One run's predictions -> its entry in metrics.json, and the curves behind its figures."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.config.stages import EvaluateConfig
from hepflow.evaluate.runs import Run
from hepflow.statistics.calibration import Probabilities, count
from hepflow.statistics.metrics import (
    balanced_accuracy,
    confusion,
    confusion_shares,
    log_odds,
    predicted,
    spectrum,
    wilson,
)
from hepflow.statistics.working_points import Selection, evaluate_selection, mix_of, roc

ABOUT_KEYS = (
    *(
        "net",
        "arguments",
        "parameters",
        "epochs",
        "events_trained",
        "shuffle_reach",
        "wall_s",
        "events_per_s",
        "engine",
        "device",
        "processes",
        "threads",
    ),
    *("seed", "config_hash", "code", "splits_used", "versions"),
)
"""What is taken over from run.json, where it is there."""


@dataclass(frozen=True)
class Measured:
    """All that the report says of one run."""

    name: str
    entry: dict[str, Any]
    """Its part of metrics.json."""
    rocs: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """Selection -> signal efficiency, background efficiency"""
    histograms: np.ndarray
    """See `calibration.Probabilities`."""
    discriminant: tuple[np.ndarray, np.ndarray]
    """Of the headline: (B + 1) edges, (K, B) events by true class"""
    kept: np.ndarray
    """(N) bool: what the headline's tightest working point (the last target) keeps"""


def measure(run: Run, config: EvaluateConfig, chosen: Mapping[str, Selection]) -> Measured:
    """Everything that needs one run alone."""
    logits_NK, label_N, classes = (
        run.predictions.logits,
        run.predictions.label,
        run.predictions.classes,
    )
    parts: dict[str, dict[str, Any]] = {}
    rocs = {}
    kept_N = np.empty(0, dtype=bool)
    discriminant = kept_N, kept_N
    for name, selection in chosen.items():
        score_N = log_odds(logits_NK, selection.signal, selection.background)
        used_N = (
            slice(None)
            if len(selection.labels) == len(classes)
            else np.isin(label_N, selection.labels)
        )
        binned, _ = spectrum(
            score_N[used_N], label_N[used_N], len(classes), exact_below=config.exact_below
        )
        parts[name] = evaluate_selection(
            binned,
            selection,
            targets=config.targets,
            mix_K=mix_of(selection, classes, config.mix),
            replicas=config.bootstrap,
            rng=generator(config.seed, run.name, name),
        )
        rocs[name] = roc(binned, selection)
        if name == "headline":
            tightest = config.targets.index(max(config.targets))
            kept_N = score_N >= parts[name]["working_points"][tightest]["threshold"]
            discriminant = binned.histogram()
    predicted_N = predicted(logits_NK)
    probabilities = count(logits_NK, label_N, predicted_N)
    confusion_KK = confusion(predicted_N, label_N, len(classes))
    entry = {
        **_identity(run),
        **_numbers(run, confusion_KK, probabilities, config),
        **_selections(parts, chosen, classes),
    }
    return Measured(run.name, entry, rocs, probabilities.histograms, discriminant, kept_N)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers that depend on the seed and on what they are for, so that another model in the report changes no error."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def _identity(run: Run) -> dict[str, Any]:
    about = {key: run.about[key] for key in ABOUT_KEYS if key in run.about}
    return {
        "model": str(run.about.get("model") or run.predictions.model),
        "definitions": run.definitions,
        "n_events": len(run.predictions.label),
        "about": about,
        "provenance": {**dict(run.predictions.provenance), "content": run.content},
    }


def _numbers(
    run: Run, confusion_KK: np.ndarray, probabilities: Probabilities, config: EvaluateConfig
) -> dict[str, Any]:
    share_KK, error_KK = confusion_shares(confusion_KK)
    low_KK, high_KK = wilson(confusion_KK, confusion_KK.sum(axis=1, keepdims=True))
    calibration = {
        "top": probabilities.top,
        **dict(zip(run.predictions.classes, probabilities.own, strict=True)),
    }
    return {
        "accuracy": balanced_accuracy(confusion_KK).to_dict(),
        "confusion": {
            "counts": confusion_KK.tolist(),
            "share": share_KK.tolist(),
            "error": error_KK.tolist(),
            "low": low_KK.tolist(),
            "high": high_KK.tolist(),
        },
        "calibration": {
            name: curve.to_dict(
                replicas=config.bootstrap, rng=generator(config.seed, run.name, "calibration", name)
            )
            for name, curve in calibration.items()
        },
    }


def _selections(
    parts: dict[str, dict[str, Any]], chosen: Mapping[str, Selection], classes: tuple[str, ...]
) -> dict[str, Any]:
    auc = {name: parts[f"{name}_vs_rest"]["auc"] for name in classes}
    mean = float(np.mean([area["value"] for area in auc.values()]))
    named = {}
    for name, part in parts.items():
        points = [
            {
                **point,
                "efficiency": {classes[label]: kept for label, kept in point["efficiency"].items()},
            }
            for point in part["working_points"]
        ]
        named[name] = {
            "signal": [classes[label] for label in chosen[name].signal],
            "background": [classes[label] for label in chosen[name].background],
            "auc": part["auc"],
            "working_points": points,
        }
    return {"auc": auc, "auc_mean": mean, "selections": named}
