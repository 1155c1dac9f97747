"""Gradient-boosted trees on the high-level features, beside a trained HLF net, on the same events.

Usage: python benchmarks/trees.py demo/features.zarr demo/runs/hlf
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

from hepflow.store import EventStore, iter_blocks, read_predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("run", type=Path, help="folder of a trained net, with predictions.parquet")
    arguments = parser.parse_args()
    store = EventStore.open(arguments.store)
    x, y, _ = table(store, "train")
    trees = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.05, early_stopping=True, random_state=1)
    trees.fit(x, y, sample_weight=compute_sample_weight("balanced", y))
    x, y, event_id = table(store, "test")
    predictions = read_predictions(arguments.run / "predictions.parquet")
    assert np.array_equal(np.sort(event_id), predictions.event_id), "the run was tested on other events"
    ours = aucs(predictions.label, predictions.probabilities)
    theirs = aucs(y, trees.predict_proba(x))
    print(f"{'class':<12}{'trees':>8}{predictions.model:>12}   ({len(y):,} test events)")
    for name, tree, net in zip(store.spec.classes, theirs, ours, strict=True):
        print(f"{name:<12}{tree:8.4f}{net:12.4f}")
    print(json.dumps({"net_minus_trees": {name: net - tree for name, tree, net in zip(store.spec.classes, theirs, ours, strict=True)}}))


def table(store: EventStore, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = list(iter_blocks(store, split))
    return tuple(np.concatenate([getattr(block, name) for block in blocks]) for name in ("hlf", "label", "event_id"))


def aucs(label: np.ndarray, probabilities: np.ndarray) -> list[float]:
    """One against the rest, every class with the same total weight."""
    weight = compute_sample_weight("balanced", label)
    return [float(roc_auc_score(label == index, p, sample_weight=weight)) for index, p in enumerate(probabilities.T)]


if __name__ == "__main__":
    main()
