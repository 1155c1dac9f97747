"""Predictions joined with the feature store by event_id: proof that nothing leaked, efficiencies against kinematics, single events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hepflow.config.stages import STORE, EvaluateConfig
from hepflow.data.blocks import EventBlock
from hepflow.data.moments import Moments
from hepflow.data.predictions import softmax
from hepflow.data.store import EventStore, iter_blocks
from hepflow.errors import ConfigError, DataError
from hepflow.evaluate.figures.figure import Display
from hepflow.evaluate.runs import Run
from hepflow.schema import HLF
from hepflow.statistics.metrics import wilson
from hepflow.system.terminal import counted

BINS = 10
MAX_INTEGER = 12
"""Counts above this share the last bin."""
MAX_TWINS = 100
"""Events of a part that have the features of a test event, whose particles are looked at."""
KINDS = ("charged hadron", "photon", "neutral hadron", "lepton")
RETRAIN = "Train it again, by the same command"
FLAGS = {"isChHad": 0, "isGamma": 1, "isNeuHad": 2, "isEle": 3, "isMu": 3}


@dataclass(frozen=True)
class Joined:
    """The test split of a store, in the order of a run's predictions."""

    store: EventStore
    hlf: np.ndarray
    """(N, features) float32"""
    part: np.ndarray
    """(N) index into ``parts``"""
    row: np.ndarray
    """(N) row in the part"""
    parts: tuple[Any, ...]

    def column(self, name: str) -> np.ndarray:
        """(N) one feature."""
        return self.hlf[:, [feature.name for feature in self.store.spec.hlf].index(name)]

    def event(self, index: int) -> EventBlock:
        """One event with its particles."""
        row = int(self.row[index])
        return self.store.read(self.parts[self.part[index]], row, row + 1)


class NoStoreError(Exception):
    """The store that a run was made from is not at hand, and what to do."""


def open_store(config: EvaluateConfig, run: Run) -> EventStore:
    """The store a run was made from.

    Raises
    ------
    NoStoreError
        It is not there, or holds other events by now.
    DataError
        ``--store`` names another one.
    """
    named = run.about.get("store")
    changed = None
    for path in _candidates(config, run.about):
        if config.store is None and not (path / "zarr.json").is_file():
            continue
        try:
            store = EventStore.open(path)
        except DataError:
            if config.store is not None:
                raise
            continue  # one that features has not finished is nobody's
        if store.spec.provenance == run.store:
            return store
        own = store.spec.provenance
        changed = path if str(path) == named else changed
        if config.store is not None and not (config.ablation or config.allow_different_splits):
            raise DataError(
                f"{path}: its hash is {own}, but {run.path} was made from {run.store}. {RETRAIN}, or name the store it was trained on."
            )
    if changed is not None:
        raise NoStoreError(
            f"{changed} has changed since (events were added, or features made anew). {RETRAIN}"
        )
    raise NoStoreError(
        f"the feature store {named or run.store or '(not recorded)'} of the training is not at hand. Name it by --store"
    )


def stores_at_hand(config: EvaluateConfig, about: Mapping[str, Any]) -> list[str]:
    """Hash of the store of a run, from its run.json, or else of each store that there is in its place: what `open_store` depends on."""
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
    return (
        [config.store]
        if config.store
        else [*([Path(named)] if isinstance(named, str) else []), STORE]
    )


def join(store: EventStore, run: Run) -> Joined:
    """Find every predicted event in the store's test split.

    Raises
    ------
    DataError
        One is not there: the predictions are of other events than they claim.
    """
    ids = run.predictions.event_id
    hlf = np.empty((len(ids), len(store.spec.hlf)), dtype=np.float32)
    where = np.full((2, len(ids)), -1, dtype=np.int64)
    parts = tuple(part for name in store.spec.classes for part in store.parts("test", name))
    for number, part in enumerate(parts):
        block = store.read(part, particles=False)
        at, row = _find(ids, block.event_id)
        other = run.predictions.label[at] != block.label[row]
        if other.any():
            raise DataError(
                f"{run.path}: event {int(ids[at][other][0])} has another label than in {store.path}. Predict again."
            )
        hlf[at] = block.hlf[row]
        where[0, at], where[1, at] = number, row
    if (where[0] < 0).any():
        missing = where[0] < 0
        found = f"{int(missing.sum()):,} of {len(ids):,} events, such as {int(ids[missing][0])}"
        raise DataError(
            f"{run.path}: {found}, are not in the test split of {store.path}. {_whose(store, ids[missing])}"
        )
    return Joined(store, hlf, where[0], where[1], parts)


def _whose(store: EventStore, ids: np.ndarray) -> str:
    blocks = {split: iter_blocks(store, split, particles=False) for split in ("train", "val")}
    found = {
        split: sum(len(_find(ids, block.event_id)[0]) for block in own)
        for split, own in blocks.items()
    }
    seen = ", ".join(
        f"{count:,} are in its {split} split" for split, count in found.items() if count
    )
    return (
        f"{seen}: a leak. Predict on the test split alone."
        if seen
        else "They are in no other split either: predict again."
    )


def check_leak(joined: Joined, run: Run) -> None:
    """Prove that no test event was seen by the fit, the choice of the best epoch, or the statistics of the normalisation.

    Raises
    ------
    DataError
        A test event stands in the training or validation split too, by its identity, or by its features and particles: the features
        alone may be as few and as coarse as a number of jets.
    """
    store, ids = joined.store, run.predictions.event_id
    own = row_hash(joined.hlf)
    order = np.argsort(own)
    own = own[order]
    trained = Moments.none(joined.hlf.shape[1])
    for split in ("train", "val"):
        for part in (part for name in store.spec.classes for part in store.parts(split, name)):
            block = store.read(part, particles=False)
            if split == "train":
                trained += Moments.of(block.hlf)
            shared, _ = _find(ids, block.event_id)
            if len(shared):
                found = f"the {split} split holds {counted(len(shared), 'test event')}, such as {int(ids[shared][0])}"
                raise DataError(f"{store.path}: {found}: a leak. Run `hepflow features` again.")
            for twin, row in islice(zip(*_find(own, row_hash(block.hlf)), strict=True), MAX_TWINS):
                particles = store.read(part, int(row), int(row) + 1).particles
                if not np.array_equal(particles, joined.event(int(order[twin])).particles):
                    continue
                found = f"event {int(block.event_id[row])} of the {split} split has the same features as a test event"
                raise DataError(
                    f"{store.path}: {found}: it was ingested twice, a leak. Remove the copy from the raw files."
                )
    _check_statistics(store, trained.statistics())


def _check_statistics(store: EventStore, trained: Mapping[str, Any]) -> None:
    """The normalisation knows the training split alone: counted and averaged again, it comes out the same."""
    stored = store.statistics["hlf"]
    if stored["count"] != trained["count"]:
        what = f"its statistics are of {stored['count']:,} events, the training split has {trained['count']:,}"
    elif not all(
        np.allclose(stored[name], trained[name], rtol=1e-6, atol=1e-6 * np.max(trained["std"]))
        for name in ("mean", "std")
    ):
        what = "its statistics are not those of its training split"
    else:
        return
    raise DataError(f"{store.path}: {what}: they saw other splits. Run `hepflow features` again.")


def row_hash(x: np.ndarray) -> np.ndarray:
    """(n) uint64, the same for rows of the same bytes: multiplication by fixed odd 64-bit numbers, a column each."""
    factors = np.random.default_rng(0).integers(0, 2**63, size=(x.shape[1],), dtype=np.uint64)
    factors |= np.uint64(1)
    words = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    total = np.zeros(len(x), dtype=np.uint64)
    for index in range(words.shape[1]):
        total = (total ^ words[:, index].astype(np.uint64)) * factors[index]
        total ^= total >> np.uint64(29)
    return total


def _find(sorted_ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the sorted ones, and in the wanted, of what is in both."""
    if not len(sorted_ids):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    order = np.argsort(wanted)  # in order, the search stays in the cache: four times as fast
    at = np.minimum(np.searchsorted(sorted_ids, wanted[order]), len(sorted_ids) - 1)
    found = sorted_ids[at] == wanted[order]
    return at[found], order[found]


def efficiencies(
    joined: Joined,
    label_N: np.ndarray,
    kept_N: np.ndarray,
    features: Sequence[str],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Share of each class that is kept, in bins of each feature.

    Parameters
    ----------
    joined : Joined
    label_N, kept_N : (N)
    features : names
    classes : names

    Returns
    -------
    mapping
        Feature -> ``edges, unit, integer``, ``efficiency`` -> class -> ``value, error, low, high, events`` a bin, and ``chi2``
        with ``ndf`` for an efficiency that does not depend on the feature.

    Raises
    ------
    ConfigError
        A feature is neither the store's nor, where the store has a user's own ones, one of the default.
    """
    units = {feature.name: feature.unit for feature in joined.store.spec.hlf}
    if unknown := [
        name for name in features if name not in {*units, *(feature.name for feature in HLF)}
    ]:
        raise ConfigError(
            f"--features names {', '.join(unknown)}, but the high-level features of {joined.store.path} are {', '.join(units)}"
        )
    found: dict[str, Any] = {}
    for name in (name for name in features if name in units):
        x_N = joined.column(name)
        edges, integer = bin_edges(x_N)
        bin_N = np.clip(np.searchsorted(edges, x_N, side="right") - 1, 0, len(edges) - 2)
        rows = {
            c: _in_bins(bin_N[label_N == k], kept_N[label_N == k], len(edges) - 1)
            for k, c in enumerate(classes)
        }
        found[name] = {
            "edges": edges.tolist(),
            "unit": units[name],
            "integer": integer,
            "efficiency": rows,
        }
    return found


def bin_edges(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges of equally populated bins; of counts (and charges), a bin each, the last for all above. And whether they are counts."""
    if (
        np.array_equal(x, np.round(x))
        and x.min(initial=0) >= -MAX_INTEGER
        and len(np.unique(x[:100_000])) <= 40
    ):
        top = int(min(np.quantile(x, 0.995), MAX_INTEGER))
        return np.arange(int(x.min(initial=0)), top + 2, dtype=np.float64), True
    edges = np.unique(np.quantile(x.astype(np.float64), np.linspace(0, 1, BINS + 1)))
    if len(edges) < 2:
        return np.array([edges[0], edges[0] + 1]), False
    edges[-1] = min(
        edges[-1], float(np.quantile(x, 0.99)) + (edges[-1] - edges[0]) * 0.05
    )  # the tail would leave no room for the rest
    return edges, False


def _in_bins(bin_N: np.ndarray, kept_N: np.ndarray, n_bins: int) -> dict[str, Any]:
    total, kept = (np.bincount(b, minlength=n_bins) for b in (bin_N, bin_N[kept_N]))
    value, (low, high) = kept / np.maximum(total, 1), wilson(kept, total)
    filled = total > 0
    mean = kept.sum() / max(total.sum(), 1)
    spread = np.maximum(mean * (1 - mean), 1e-12) / np.maximum(total, 1)
    chi2 = float((((value - mean) ** 2) / spread)[filled].sum())
    columns = {"value": value, "error": (high - low) / 2, "low": low, "high": high, "events": total}
    return {
        **{name: values.tolist() for name, values in columns.items()},
        "chi2": chi2,
        "ndf": max(int(filled.sum()) - 1, 0),
    }


def hardest(run: Run, n: int = 10) -> list[int]:
    """Positions of the events that the model is most sure about and wrong."""
    logits, label = run.predictions.logits, run.predictions.label
    own = np.select(
        [label == k for k in range(1, logits.shape[1])], list(logits.T[1:]), logits[:, 0]
    )
    wrong = np.maximum.reduce(logits.T) - own  # 0 where it is right
    order = (
        np.lexsort((run.predictions.event_id, -wrong))[:n]
        if len(wrong) <= 4096
        else _largest(wrong, run.predictions.event_id, n)
    )
    return [int(index) for index in order if wrong[index] > 0]


def _largest(values: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    candidates = np.flatnonzero(values >= np.partition(values, -n)[-n])
    return candidates[np.lexsort((ids[candidates], -values[candidates]))][:n]


def describe(run: Run, index: int, joined: Joined | None) -> dict[str, Any]:
    """One event, for metrics.json; event_ids as text, since JSON readers round large numbers."""
    predictions = run.predictions
    p_K = softmax(predictions.logits[index : index + 1])[0]
    truth, guess = int(predictions.label[index]), int(predictions.logits[index].argmax())
    facts: dict[str, Any] = {
        "event_id": str(int(predictions.event_id[index])),
        "true": predictions.classes[truth],
        "predicted": predictions.classes[guess],
        "p_predicted": float(p_K[guess]),
        "p_true": float(p_K[truth]),
    }
    if joined is not None:
        facts["features"] = {
            feature.name: float(value)
            for feature, value in zip(joined.store.spec.hlf, joined.hlf[index], strict=True)
        }
    return facts


def display(run: Run, index: int, joined: Joined, facts: Mapping[str, Any]) -> Display | None:
    """The event's particles; None where there is none, or the store does not say what they are."""
    names = [feature.name for feature in joined.store.spec.particles]
    particles = joined.event(index).particles
    if not len(particles) or not {"Eta", "Phi", "Pt", *FLAGS} <= set(names):
        return None
    kind = np.zeros(len(particles), dtype=np.int64)
    for flag, number in FLAGS.items():
        kind[particles[:, names.index(flag)] > 0] = number
    eta, phi, pt = (
        particles[:, names.index(name)].astype(np.float64) for name in ("Eta", "Phi", "Pt")
    )
    told = (
        ("truth", facts["true"]),
        (run.name, f"{facts['predicted']} ({facts['p_predicted']:.3f})"),
    )
    caption = f"{len(particles)} particles; the area of a circle grows with pT."
    return Display(
        f"event_{facts['event_id']}",
        f"Event {facts['event_id']}",
        caption,
        KINDS,
        kind,
        eta,
        phi,
        pt,
        told,
    )
