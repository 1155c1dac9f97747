"""A discriminant's bin counts -> AUC, ROC and working points of one selection; the errors of the working points are from one bootstrap.

A working point is the tightest threshold at which *every* signal class keeps at least the wanted share of its events. With more than
one signal class that is stricter than the share of all signal together, in which a frequent class could hide the loss of a rare one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.statistics.metrics import (
    Spectrum,
    auc,
    auc_error,
    binomial_error,
    bootstrap,
    efficiencies,
    roc_points,
)

FEW = 10
"""Background events above a threshold below which a rate is no more than an order of magnitude."""


@dataclass(frozen=True)
class Selection:
    """Which classes to keep and which to reject."""

    name: str
    signal: tuple[int, ...]
    background: tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels that take part."""
        return self.signal + self.background


def selections(classes: Sequence[str], signal: Sequence[str]) -> dict[str, Selection]:
    """Every selection of the report by name: the headline, each class against the rest, and each ordered pair.

    Parameters
    ----------
    classes : names, by label
    signal : names of the headline's signal
    """
    labels = range(len(classes))
    keep = tuple(label for label in labels if classes[label] in signal)
    found = [Selection("headline", keep, tuple(label for label in labels if label not in keep))]
    found += [
        Selection(f"{name}_vs_rest", (label,), tuple(other for other in labels if other != label))
        for label, name in enumerate(classes)
    ]
    if len(classes) > 2:  # of two, each is the other's rest
        found += [
            Selection(f"{classes[s]}_vs_{classes[b]}", (s,), (b,))
            for s in labels
            for b in labels
            if s != b
        ]
    return {selection.name: selection for selection in found}


def against_rest(chosen: Mapping[str, Selection]) -> list[Selection]:
    """Of `selections`, each class against the rest; of two classes the signal alone, since the other is its mirror image."""
    found = [selection for name, selection in chosen.items() if name.endswith("_vs_rest")]
    return (
        found
        if len(found) > 2
        else [selection for selection in found if selection.signal == chosen["headline"].signal]
    )


def mix_of(
    selection: Selection, classes: Sequence[str], mix: Mapping[str, float]
) -> np.ndarray | None:
    """(K) the share of each class in the trigger's rate, among the classes that take part; None where the mix does not name them all."""
    if not all(classes[label] in mix for label in selection.labels):
        return None
    share_K = np.zeros(len(classes))
    for label in selection.labels:
        share_K[label] = mix[classes[label]]
    total = share_K.sum()
    return share_K / total if total > 0 else None


def evaluate_selection(
    spectrum: Spectrum,
    selection: Selection,
    *,
    targets: Sequence[float],
    mix_K: np.ndarray | None,
    replicas: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """AUC and working points with errors, as they stand in metrics.json.

    Parameters
    ----------
    spectrum : Spectrum
        The selection's discriminant.
    targets : signal efficiencies
    mix_K : (K) composition of the rate, or None
    replicas : int
        Bootstrap replicas.
    rng : numpy.random.Generator
    """

    def statistic(counts_KD: np.ndarray) -> np.ndarray:
        efficiency_KD = efficiencies(counts_KD)
        return np.concatenate(
            [_rates(efficiency_KD, selection, target, mix_K) for target in targets]
        )

    coarse = spectrum.coarse()
    replicas_RS = bootstrap(coarse.counts, statistic, replicas=replicas, rng=rng)
    errors_S = (
        replicas_RS.std(axis=0, ddof=1) if replicas > 1 else np.full(replicas_RS.shape[1], np.nan)
    )
    per_point = len(errors_S) // len(targets)
    points = [
        _working_point(
            spectrum,
            selection,
            target,
            mix_K,
            errors_S[index * per_point : (index + 1) * per_point],
        )
        for index, target in enumerate(targets)
    ]
    area, error = (
        measure(spectrum.counts, selection.signal, selection.background)
        for measure in (auc, auc_error)
    )
    return {"auc": {"value": area, "error": error}, "working_points": points}


def threshold_bin(efficiency_KD: np.ndarray, signal: Sequence[int], target: float) -> int:
    """The highest bin above whose floor every signal class keeps at least ``target`` of its events."""
    kept_D = efficiency_KD[list(signal)].min(axis=0)
    return max(int(np.count_nonzero(kept_D >= target - 1e-12)) - 1, 0)  # kept_D falls from 1


def _rates(
    efficiency_KD: np.ndarray, selection: Selection, target: float, mix_K: np.ndarray | None
) -> np.ndarray:
    """(K + 3) efficiency of each class, of the background together, share of the rate kept, purity."""
    kept_K = efficiency_KD[:, threshold_bin(efficiency_KD, selection.signal, target)]
    background = kept_K[list(selection.background)].mean()
    if mix_K is None:
        return np.array([*kept_K, background, np.nan, np.nan])
    rate = float(mix_K @ kept_K)
    signal_rate = float(mix_K[list(selection.signal)] @ kept_K[list(selection.signal)])
    return np.array([*kept_K, background, rate, signal_rate / rate if rate > 0 else np.nan])


def _working_point(
    spectrum: Spectrum,
    selection: Selection,
    target: float,
    mix_K: np.ndarray | None,
    error_S: np.ndarray,
) -> dict[str, Any]:
    efficiency_KD = efficiencies(spectrum.counts)
    chosen = threshold_bin(efficiency_KD, selection.signal, target)
    value_S = _rates(efficiency_KD, selection, target, mix_K)
    passed_K = spectrum.counts[:, chosen:].sum(axis=1)
    total_K = spectrum.counts.sum(axis=1)
    n_background, all_background = (
        int(n_K[list(selection.background)].sum()) for n_K in (passed_K, total_K)
    )
    floor_K = binomial_error(passed_K, total_K)
    edge_K = (passed_K == 0) | (
        passed_K == total_K
    )  # a replica of no events, or of all, has none or all: its bootstrap error is zero
    n_classes = len(total_K)
    efficiency = {
        label: {
            "value": float(value_S[label]),
            "error": float(max(error_S[label], floor_K[label] if edge_K[label] else 0.0)),
        }
        for label in selection.labels
    }
    background, background_error = float(value_S[n_classes]), float(error_S[n_classes])
    rate, rate_error = float(value_S[n_classes + 1]), float(error_S[n_classes + 1])
    purity, purity_error = float(value_S[n_classes + 2]), float(error_S[n_classes + 2])
    if n_background in {0, all_background}:
        behind = list(selection.background)
        background_error = float(np.sqrt((floor_K[behind] ** 2).sum()) / len(behind))
        if mix_K is not None:
            unseen = float(np.sqrt(((mix_K[behind] * floor_K[behind]) ** 2).sum()))
            rate_error, purity_error = float(np.hypot(rate_error, unseen)), unseen / rate
    return {
        "target": target,
        "threshold": spectrum.threshold(chosen),
        "efficiency": efficiency,
        "background_efficiency": {"value": background, "error": background_error},
        "rejection": _inverse(background, background_error),
        "background_passed": n_background,
        "few_events": n_background < FEW,
        "rate_kept": _number(rate, rate_error),
        "rate_reduction": _inverse(rate, rate_error),
        "purity": _number(purity, purity_error),
    }


def roc(spectrum: Spectrum, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Signal and background efficiency, (points) each, fit to be drawn."""
    return roc_points(spectrum.density(selection.signal), spectrum.density(selection.background))


def _number(value: float, error: float) -> dict[str, float] | None:
    return None if np.isnan(value) else {"value": value, "error": error}


def _inverse(value: float, error: float) -> dict[str, float] | None:
    """One over a number, with its error to first order; None for zero, where only a limit can be given."""
    return None if not value > 0 else {"value": 1 / value, "error": error / value**2}
