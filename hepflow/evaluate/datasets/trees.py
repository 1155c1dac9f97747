"""Boosted trees that tell two datasets apart, cross-validated: one number for all quantities.

An AUC of 0.5 means that the trees found no difference. It is the mean over folds; trees have not
seen the events of their fold. Folds are by hash of the event_id, so an event in both datasets is in
one fold: trees that had seen its other copy would give an AUC below 0.5.
"""

# N events, Q quantities, G groups (class and dataset)

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hepflow.data.identity import fold_index
from hepflow.evaluate.measure import generator
from hepflow.models.boosted_trees import lightgbm, settings
from hepflow.statistics import metrics
from hepflow.statistics.metrics import Measurement

FOLDS = 5
ROUNDS = 100
"""Trees per fold; no fold decides when to stop."""
LEARNING_RATE, LEAVES = 0.1, 15
PER_THREAD = 20_000
"""Events per thread at least: threads wait for each other after every leaf."""
MAX_SHUFFLED = 20_000
"""Events, of all folds together, among which a quantity is shuffled for its importance."""


@dataclass(frozen=True)
class Sides:
    """Events of two datasets, of one class or several."""

    x: np.ndarray  # (N, Q) float32
    group: np.ndarray
    """(N) 2k for events of class k in the reference, 2k + 1 for those of the input"""
    event_id: np.ndarray  # (N)

    @property
    def labels(self) -> tuple[range, range]:
        """Groups of the input, and of the reference."""
        n_groups = int(self.group.max()) + 1
        return range(1, n_groups, 2), range(0, n_groups, 2)


@dataclass(frozen=True)
class Told:
    """How well trees tell two datasets apart."""

    auc: Measurement
    """Over the folds; the error is that of the events, and not of another training."""
    importance: np.ndarray
    """(Q, 2) loss of AUC when a quantity is shuffled among the events of a class, with its error;
    empty if that was not asked for."""


def tell_apart(
    sides: Sides,
    chosen: Sequence[int],
    *,
    seed: int,
    importance: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Told:
    """Fit trees on the ``chosen`` quantities; ``advance`` is called after each fold.

    Each class of each dataset has the same total weight.
    """
    x_NQ, n_groups = sides.x[:, list(chosen)], int(sides.group.max()) + 1
    counts_G = np.bincount(sides.group, minlength=n_groups)
    weight_N = (len(sides.group) / n_groups / counts_G)[sides.group]
    is_input_N = sides.group % 2
    how = settings(seed, LEARNING_RATE) | {"objective": "binary", "num_leaves": LEAVES}
    how["num_threads"] = min(how["num_threads"], 1 + len(x_NQ) // PER_THREAD)
    about: Any = {"params": how, "free_raw_data": False}
    events = lightgbm.Dataset(x_NQ, is_input_N, weight=weight_N, **about).construct()
    fold_N, rng = fold_index(sides.event_id, FOLDS), generator(seed, "importance")
    areas, losses = [], []
    for fold in range(FOLDS):
        test = np.flatnonzero(fold_N == fold)
        if np.bincount(sides.group[test], minlength=n_groups).min():
            trees = lightgbm.train(how, events.subset(np.flatnonzero(fold_N != fold)), ROUNDS)
            judge = _Judge(trees, sides, how["num_threads"])
            areas.append(judge.auc(x_NQ[test], test))
            if importance:
                some = np.sort(rng.permutation(test)[: MAX_SHUFFLED // FOLDS])
                losses.append(judge.losses(x_NQ[some], some, rng))
        advance()
    value, error = np.array(areas).T
    auc = Measurement(float(value.mean()), float(np.sqrt((error**2).sum()) / len(error)))
    if not losses:
        return Told(auc, np.empty((0, 2)))
    loss_FQ = np.array(losses)
    spread_Q = loss_FQ.std(axis=0, ddof=1) / np.sqrt(len(loss_FQ)) if len(loss_FQ) > 1 else 0.0
    return Told(auc, np.stack([loss_FQ.mean(axis=0), spread_Q + np.zeros(len(chosen))], axis=1))


@dataclass(frozen=True)
class _Judge:
    """The trees of a fold, and the events."""

    trees: Any
    sides: Sides
    threads: int

    def auc(self, x_NQ: np.ndarray, rows: np.ndarray) -> Measurement:
        """Return the AUC of some events, with its error."""
        score_N = self.trees.predict(x_NQ, raw_score=True, num_threads=self.threads)
        group_N = self.sides.group[rows]
        n_groups, (signal, background) = int(self.sides.group.max()) + 1, self.sides.labels
        binned, _ = metrics.spectrum(score_N, group_N, n_groups, exact_below=len(score_N))
        given = binned.counts, signal, background
        return Measurement(metrics.auc(*given), metrics.auc_error(*given))

    def losses(self, x_NQ: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> list[float]:
        """Return the loss of AUC for each quantity that is shuffled within its class."""
        original, class_N, losses = self.auc(x_NQ, rows).value, self.sides.group[rows] // 2, []
        grouped = np.argsort(class_N, kind="stable")
        for column in x_NQ.T:
            kept, order = column.copy(), rng.permutation(len(rows))
            shuffled = order[np.argsort(class_N[order], kind="stable")]  # class by class
            column[grouped] = kept[shuffled]
            losses.append(original - self.auc(x_NQ, rows).value)
            column[:] = kept
        return losses
