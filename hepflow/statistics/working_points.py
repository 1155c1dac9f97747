"""Bin counts of a discriminant -> AUC and working points of a selection, with errors.

A working point is the tightest threshold at which *every* signal class keeps at least the target.
With several signal classes that is stricter than a target for all signal together, in which a
frequent class could hide the loss of a rare one::

    discriminant ->      threshold
    ttbar     ..........|###############   95 %   holds the threshold at a target of 95 %
    wjets     .......|##|###############   97 %   keeps more
    qcd       ###########|##                4 %   background efficiency; rejection = 1 / 0.04

Everything at a working point is a function of the efficiencies of the classes there: `Rates`. Its
error is the standard deviation of the same function over bootstrap replicas of the counts, with
the threshold found again in each, because the threshold is measured on the same events.
"""

# K classes, D bins, T targets, R replicas

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from hepflow.statistics import metrics
from hepflow.statistics.metrics import Spectrum

FEW = 10  # background events below which a rejection is only an order of magnitude


@dataclass(frozen=True)
class Selection:
    """Classes to keep and classes to reject."""

    name: str
    signal: tuple[int, ...]
    background: tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels of both."""
        return self.signal + self.background


def selections(classes: Sequence[str], signal: Sequence[str]) -> dict[str, Selection]:
    """Return the headline, each class against the rest, and each ordered pair, by name."""
    labels = range(len(classes))

    def rest(*kept: int) -> tuple[int, ...]:
        return tuple(label for label in labels if label not in kept)

    keep = tuple(label for label in labels if classes[label] in signal)
    found = [Selection("headline", keep, rest(*keep))]
    found += [Selection(f"{classes[s]}_vs_rest", (s,), rest(s)) for s in labels]
    if len(classes) > 2:  # of two classes, each is the rest of the other
        pairs = permutations(labels, 2)
        found += [Selection(f"{classes[s]}_vs_{classes[b]}", (s,), (b,)) for s, b in pairs]
    return {selection.name: selection for selection in found}


def against_rest(chosen: Mapping[str, Selection]) -> list[Selection]:
    """Return each class against the rest; of two, only the signal, as the other mirrors it."""
    found = [selection for name, selection in chosen.items() if name.endswith("_vs_rest")]
    signal = chosen["headline"].signal
    return found if len(found) > 2 else [one for one in found if one.signal == signal]


def mix_of(
    selection: Selection, classes: Sequence[str], mix: Mapping[str, float]
) -> np.ndarray | None:
    """Return (K) the share of each class in the selection's rate; None if the mix lacks one."""
    if not all(classes[label] in mix for label in selection.labels):
        return None
    share_K = np.zeros(len(classes))
    for label in selection.labels:
        share_K[label] = mix[classes[label]]
    total = share_K.sum()
    return share_K / total if total > 0 else None


class Rates(NamedTuple):
    """Rates above a threshold: the values, or their errors."""

    kept: np.ndarray  # (K) efficiency of each class
    background: float  # mean efficiency of the background classes
    rate: float  # share of the trigger rate that is kept; NaN without a mix
    purity: float  # share of signal in that rate


def threshold_bin(efficiency_KD: np.ndarray, signal: Sequence[int], target: float) -> int:
    """Return the highest bin at which every signal class keeps at least ``target``."""
    kept_D = efficiency_KD[list(signal)].min(axis=0)
    return max(int(np.count_nonzero(kept_D >= target - 1e-12)) - 1, 0)  # kept_D falls from 1


def rates(
    efficiency_KD: np.ndarray, selection: Selection, target: float, mix_K: np.ndarray | None
) -> Rates:
    """Return what passes the threshold at which every signal class keeps ``target``."""
    kept_K = efficiency_KD[:, threshold_bin(efficiency_KD, selection.signal, target)]
    signal, background = list(selection.signal), list(selection.background)
    rate = purity = float("nan")
    if mix_K is not None and (rate := float(mix_K @ kept_K)) > 0:
        purity = float(mix_K[signal] @ kept_K[signal]) / rate
    return Rates(kept_K, float(kept_K[background].mean()), rate, purity)


def evaluate_selection(
    spectrum: Spectrum,
    selection: Selection,
    *,
    targets: Sequence[float],
    mix_K: np.ndarray | None,
    replicas: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return AUC and working points with errors, as in metrics.json, but with labels for names."""

    def statistic(counts_KD: np.ndarray) -> np.ndarray:  # (T, K + 3)
        table_KD = metrics.efficiencies(counts_KD)
        return np.stack([np.hstack(rates(table_KD, selection, t, mix_K)) for t in targets])

    drawn_RTS = metrics.bootstrap(spectrum.coarse().counts, statistic, replicas=replicas, rng=rng)
    points = []
    for target, row in zip(targets, drawn_RTS.std(axis=0, ddof=1), strict=True):
        errors = Rates(row[:-3], *row[-3:].tolist())
        points.append(_working_point(spectrum, selection, target, mix_K, errors))
    sides = spectrum.counts, selection.signal, selection.background
    area = {"value": metrics.auc(*sides), "error": metrics.auc_error(*sides)}
    return {"auc": area, "working_points": points}


def _working_point(
    spectrum: Spectrum, selection: Selection, target: float, mix_K: np.ndarray | None, error: Rates
) -> dict[str, Any]:
    efficiency_KD = metrics.efficiencies(spectrum.counts)
    chosen = threshold_bin(efficiency_KD, selection.signal, target)
    value = rates(efficiency_KD, selection, target, mix_K)
    passed_K = spectrum.counts[:, chosen:].sum(axis=1)
    total_K = spectrum.counts.sum(axis=1)
    behind = list(selection.background)
    n_background = int(passed_K[behind].sum())

    # If no event passes, or all do, they mostly do so in every replica too, and the bootstrap error
    # is zero. So an error is at least the binomial error of the count.
    binomial_K = metrics.binomial_error(passed_K, total_K)
    edge_K = (passed_K == 0) | (passed_K == total_K)
    kept_error_K = np.maximum(error.kept, np.where(edge_K, binomial_K, 0.0))
    if n_background in {0, int(total_K[behind].sum())}:
        background = float(np.sqrt((binomial_K[behind] ** 2).sum()) / len(behind))
        error = error._replace(background=max(error.background, background))
        if mix_K is not None:
            unseen = float(np.sqrt(((mix_K[behind] * binomial_K[behind]) ** 2).sum()))
            rate = float(np.hypot(error.rate, unseen))
            purity = float(np.fmax(error.purity, unseen / max(value.rate, 1e-300)))
            error = error._replace(rate=rate, purity=purity)
    pairs = np.stack([value.kept, kept_error_K], axis=1).tolist()
    efficiency = {label: _number(*pairs[label]) for label in selection.labels}
    return {
        "target": target,
        "threshold": spectrum.threshold(chosen),
        "efficiency": efficiency,
        "background_efficiency": {"value": value.background, "error": error.background},
        "rejection": _inverse(value.background, error.background),
        "background_passed": n_background,
        "few_events": n_background < FEW,
        "rate_kept": _number(value.rate, error.rate),
        "rate_reduction": _inverse(value.rate, error.rate),
        "purity": _number(value.purity, error.purity),
    }


def _number(value: float, error: float) -> dict[str, float] | None:
    return None if np.isnan(value) else {"value": value, "error": error}


def _inverse(value: float, error: float) -> dict[str, float] | None:
    """Return one over a number, with its error to first order; None for zero, which has a limit."""
    return {"value": 1 / value, "error": error / value**2} if value > 0 else None
