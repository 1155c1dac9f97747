"""Predictions joined with the feature store by event_id.

They prove that no test event leaked into the training, and give efficiencies against kinematic
features, and single events with their particles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.config.stages import STORE, EvaluateConfig
from hepflow.data.blocks import EventBlock, Range
from hepflow.data.moments import Moments
from hepflow.data.predictions import Predictions, softmax
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate.runs import Run
from hepflow.schema import HLF
from hepflow.statistics.metrics import wilson
from hepflow.system.places import place
from hepflow.system.terminal import counted

BINS = 10
MAX_INTEGER = 12  # counts from this one on share the last bin
MAX_TWINS = 100
"""Events per range with the features of a test event whose particles are compared too."""
RETRAIN = "Train it again with the same command"


@dataclass(frozen=True)
class Joined:
    """The test split of a store, in the order of a run's predictions."""

    store: EventStore
    hlf: np.ndarray  # (N, features) float32
    range: np.ndarray  # (N) index into ``ranges``
    row: np.ndarray  # (N) row in the range
    ranges: Sequence[Range]

    def event(self, index: int) -> EventBlock:
        """Read one event with its particles."""
        row = int(self.row[index])
        return self.store.read(self.ranges[self.range[index]], row, row + 1)


class LeftOutError(Exception):
    """Reason why a part of the report is left out."""


def open_store(config: EvaluateConfig, run: Run) -> EventStore:
    """Open the store that a run was trained on; a LeftOutError if it is not there any more."""
    named, changed = run.about.get("store"), False
    for path in _candidates(config, run.about):
        try:
            store = EventStore.open(path)
        except DataError:
            if config.store is not None:
                raise
            continue  # missing or unfinished
        own = store.spec.provenance
        if own == run.store:
            return store
        if config.store is not None and not config.other_events:
            what = f"its hash is {own}, but {run.path} was made from {run.store}"
            raise DataError(f"{path}: {what}. {RETRAIN}, or name the store it was trained on.")
        changed |= str(path) == named
    if changed:
        what = "has changed since the training (new events or features)"
        raise LeftOutError(f"{named} {what}. {RETRAIN}")
    wanted = named or run.store or "(not recorded)"
    raise LeftOutError(f"feature store {wanted} used in training not found. Pass --store")


def store_hashes(config: EvaluateConfig, about: Mapping[str, Any]) -> list[str]:
    """Return the hash of a run's store, or else of every store found in its place ("" if none)."""
    found = []
    for path in _candidates(config, about):
        try:
            found.append(EventStore.open(path).spec.provenance)
        except DataError:
            found.append("")
    own = about.get("provenance")
    return [own] if own in found else found


def _candidates(config: EvaluateConfig, about: Mapping[str, Any]) -> list[Path]:
    named = about.get("store")
    recorded = [place(named)] if isinstance(named, str) else []
    return [config.store] if config.store else [*recorded, STORE]


def join(store: EventStore, run: Run) -> Joined:
    """Find every predicted event in the store's test split; raise DataError if one is missing."""
    ids = run.predictions.event_id
    hlf = np.empty((len(ids), len(store.spec.hlf)), dtype=np.float32)
    range_N, row_N = np.full((2, len(ids)), -1, dtype=np.int64)
    ranges = store.all_ranges("test")
    for number, rows in enumerate(ranges):
        block = store.read(rows, particles=False)
        at, row = _find(ids, block.event_id)
        other = run.predictions.label[at] != block.label[row]
        if other.any():
            what = f"event {int(ids[at][other][0])} has another label than in {store.path}"
            raise DataError(f"{run.path}: {what}. Predict again.")
        hlf[at] = block.hlf[row]
        range_N[at], row_N[at] = number, row
    missing = ids[range_N < 0]
    if len(missing):
        do = "They are in no other split either: predict again."
        for split in ("val", "train"):
            blocks = store.blocks(split, particles=False)
            if found := sum(len(_find(missing, block.event_id)[0]) for block in blocks):
                do = f"{found:,} are in its {split} split: a leak. Predict on the test split alone."
        some = f"{len(missing):,} of {len(ids):,} events, such as {int(missing[0])},"
        raise DataError(f"{run.path}: {some} are not in the test split of {store.path}. {do}")
    return Joined(store, hlf, range_N, row_N, ranges)


def check_leak(joined: Joined, run: Run) -> None:
    """Raise DataError if the fit, the choice of the epoch or the normalisation saw a test event.

    An event of another split is the same as a test event if it has the same event_id, or the same
    features and particles. Features alone do not prove it: they may be a number of jets.
    """
    store, ids = joined.store, run.predictions.event_id
    own = row_hash(joined.hlf)
    order = np.argsort(own)
    own = own[order]
    trained = Moments.none(joined.hlf.shape[1])
    for rows in store.all_ranges("train", "val"):
        block = store.read(rows, particles=False)
        if rows.split == "train":
            trained += Moments.of(block.hlf)
        shared, _ = _find(ids, block.event_id)
        if len(shared):
            found = f"{counted(len(shared), 'test event')}, such as {int(ids[shared][0])}"
            what = f"the {rows.split} split holds {found}: a leak"
            raise DataError(f"{store.path}: {what}. Run `hepflow features` again.")
        for twin, row in islice(zip(*_find(own, row_hash(block.hlf)), strict=True), MAX_TWINS):
            particles = store.read(rows, int(row), int(row) + 1).particles
            if np.array_equal(particles, joined.event(int(order[twin])).particles):
                event = f"event {int(block.event_id[row])} of the {rows.split} split"
                what = f"{event} has the same features as a test event: it was ingested twice"
                advice = "a leak. Remove the copy from the raw files."
                raise DataError(f"{store.path}: {what}, {advice}")
    stored, again = store.statistics["hlf"], trained.statistics()
    near = {"rtol": 1e-6, "atol": 1e-6 * np.max(again["std"])}
    close = (np.allclose(stored[name], again[name], **near) for name in ("mean", "std"))
    what = "are not those of its training split"
    if stored["count"] != again["count"]:
        what = f"are of {stored['count']:,} events, the training split has {again['count']:,}"
    elif all(close):
        return
    advice = "they include other splits. Run `hepflow features` again."
    raise DataError(f"{store.path}: its statistics {what}: {advice}")


def row_hash(x: np.ndarray) -> np.ndarray:
    """Return (n) uint64, equal for rows of equal bytes: multiply by an odd number per column."""
    factors = np.random.default_rng(0).integers(0, 2**63, size=(x.shape[1],), dtype=np.uint64)
    factors |= np.uint64(1)
    words = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    total = np.zeros(len(x), dtype=np.uint64)
    for index in range(words.shape[1]):
        total = (total ^ words[:, index].astype(np.uint64)) * factors[index]
        total ^= total >> np.uint64(29)
    return total


def _find(sorted_ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of common numbers in each of the two arrays."""
    if not len(sorted_ids):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    order = np.argsort(wanted)  # a search in order stays in the cache: four times as fast
    at = np.minimum(np.searchsorted(sorted_ids, wanted[order]), len(sorted_ids) - 1)
    found = sorted_ids[at] == wanted[order]
    return at[found], order[found]


def efficiencies(
    joined: Joined, kept_N: np.ndarray, features: Sequence[str], predictions: Predictions
) -> dict[str, Any]:
    """Return the share of each class that is kept, in bins of each feature, as in metrics.json.

    Default features that the store lacks are left out; ``chi2`` and ``ndf`` are those of a constant
    efficiency.
    """
    units = {feature.name: feature.unit for feature in joined.store.spec.hlf}
    known = {*units, *(feature.name for feature in HLF)}
    if unknown := [name for name in features if name not in known]:
        there = f"the high-level features of {joined.store.path} are {', '.join(units)}"
        raise ConfigError(f"--features names {', '.join(unknown)}, but {there}")
    found: dict[str, Any] = {}
    for name in (name for name in features if name in units):
        x_N = joined.hlf[:, list(units).index(name)]
        edges, integer = bin_edges(x_N)
        n_bins = len(edges) - 1
        bin_N = np.clip(np.searchsorted(edges, x_N, side="right") - 1, 0, n_bins - 1)
        rows = {}
        for label, class_name in enumerate(predictions.classes):
            own = predictions.label == label
            total = np.bincount(bin_N[own], minlength=n_bins)
            kept = np.bincount(bin_N[own & kept_N], minlength=n_bins)
            value, (low, high) = kept / np.maximum(total, 1), wilson(kept, total)
            mean = kept.sum() / max(total.sum(), 1)
            variance = np.maximum(mean * (1 - mean), 1e-12) / np.maximum(total, 1)
            columns = {"value": value, "error": (high - low) / 2, "low": low, "high": high}
            row = {key: values.tolist() for key, values in {**columns, "events": total}.items()}
            filled = total > 0
            row["chi2"] = float(((value - mean) ** 2 / variance)[filled].sum())
            rows[class_name] = {**row, "ndf": max(int(filled.sum()) - 1, 0)}
        about = {"edges": edges.tolist(), "unit": units[name], "integer": integer}
        found[name] = {**about, "efficiency": rows}
    return found


def bin_edges(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the edges of the bins of a feature, and whether it is a count (or a charge).

    A count has one bin per number, the last one for all above; others have bins of equal
    population.
    """
    low = x.min(initial=0)
    if np.array_equal(x, np.round(x)) and low >= -MAX_INTEGER and len(np.unique(x[:100_000])) <= 40:
        top = int(min(np.quantile(x, 0.995), MAX_INTEGER))
        return np.arange(int(low), top + 2, dtype=np.float64), True
    edges = np.unique(np.quantile(x.astype(np.float64), np.linspace(0, 1, BINS + 1)))
    if len(edges) < 2:
        return np.array([edges[0], edges[0] + 1]), False
    # The last bin ends shortly after the 99 % quantile, or its tail would fill the figure.
    tail = float(np.quantile(x, 0.99)) + (edges[-1] - edges[0]) * 0.05
    edges[-1] = min(edges[-1], tail)
    return edges, False


def hardest(run: Run, n: int = 10) -> list[int]:
    """Return the positions of the misclassified events with the highest confidence."""
    logits, label = run.predictions.logits, run.predictions.label
    is_class = [label == k for k in range(1, logits.shape[1])]
    true = np.select(is_class, list(logits.T[1:]), logits[:, 0])
    wrong = np.maximum.reduce(logits.T) - true  # 0 for a correct event
    n = min(n, len(wrong))
    top = np.flatnonzero(wrong >= np.partition(wrong, -n)[-n])
    order = top[np.lexsort((run.predictions.event_id[top], -wrong[top]))][:n]
    return [int(index) for index in order if wrong[index] > 0]


def describe(run: Run, index: int, joined: Joined | None) -> dict[str, Any]:
    """Return one event for metrics.json; event_id as text, since JSON readers round it."""
    predictions = run.predictions
    p_K = softmax(predictions.logits[index : index + 1])[0]
    truth, guess = int(predictions.label[index]), int(predictions.logits[index].argmax())
    facts: dict[str, Any] = {"event_id": str(int(predictions.event_id[index]))}
    facts |= {"true": predictions.classes[truth], "predicted": predictions.classes[guess]}
    facts |= {"p_predicted": float(p_K[guess]), "p_true": float(p_K[truth])}
    if joined is not None:
        names = [feature.name for feature in joined.store.spec.hlf]
        facts["features"] = dict(zip(names, joined.hlf[index].tolist(), strict=True))
    return facts
