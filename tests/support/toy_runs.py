"""Runs and a feature store of Gaussian numbers, in the formats of a training, for the report."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from hepflow.config.stages import EvaluateConfig
from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.ledger import Ledger
from hepflow.data.predictions import Predictions, write_predictions
from hepflow.data.store_writer import StoreWriter
from hepflow.evaluate.job import run
from hepflow.schema import CLASSES, HLF, PARTICLE
from hepflow.system.files import write_json

STORE_HASH = "00c0ffee00c0ffee"
HARD = {"hlf": 1.2, "sequence": 1.6, "inclusive": 1.9}
"""Model -> distance of its classes, in standard deviations."""


def toy_labels(per_class: Sequence[int], seed: int = 0) -> np.ndarray:
    label = np.repeat(np.arange(len(per_class)), per_class).astype(np.int8)
    return np.random.default_rng([seed, 1]).permutation(label)


def toy_ids(n: int, seed: int = 0) -> np.ndarray:
    return np.sort(
        np.random.default_rng([seed, 2]).choice(2**62, size=n, replace=False).astype(np.int64)
        - 2**61
    )


def toy_logits(
    label: np.ndarray, n_classes: int, distance: float, seed: int = 0, own: int = 0
) -> np.ndarray:
    """Return calibrated logits; ``own`` is the seed of the noise that models do not share."""
    shared = np.random.default_rng([seed, 3]).normal(size=(len(label), n_classes))
    private = np.random.default_rng([seed, 4, own]).normal(size=(len(label), n_classes))
    x = np.sqrt(0.8) * shared + np.sqrt(0.2) * private
    x[np.arange(len(label)), label] += distance
    return (distance * x).astype(np.float32)


def toy_sample(
    per_class: Sequence[int] = (300, 200, 400), distance: float = 1.2, seed: int = 0, own: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and labels."""
    label = toy_labels(per_class, seed)
    return toy_logits(label, len(per_class), distance, seed, own), label


def write_run(
    folder: Path,
    *,
    event_id: np.ndarray,
    label: np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str] = CLASSES,
    provenance: Mapping[str, object] | None = None,
    about: Mapping[str, object] | None = None,
    history: bool = True,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    origin = {
        "store": STORE_HASH,
        "split": "test",
        "definitions": "corrected",
        "config_hash": "feed",
        "seed": 1,
        **(provenance or {}),
    }
    write_predictions(
        folder / "predictions.parquet",
        Predictions(event_id, label, logits, tuple(classes), folder.name, origin),
    )
    if about is not None:
        write_json(folder / "run.json", about)
    if history:
        rows = ["epoch,step,lr,train_loss,val_loss,val_accuracy"]
        for epoch in range(6):
            loss = 0.2 + 0.8 * np.exp(-epoch / 2)
            rows += [
                f"{epoch},{epoch * 10},0.001,{loss:.5f},,",
                f"{epoch},{epoch * 10},,,{loss + 0.03:.5f},{1 - loss / 3:.5f}",
            ]
        (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    return folder


def toy_about(
    name: str, store: Path | None = None, definitions: str = "corrected"
) -> dict[str, object]:
    return {
        "name": name,
        "model": {"hlf": "HLFNet", "sequence": "SequenceNet", "inclusive": "InclusiveNet"}.get(
            name.split("-", 1)[0], name
        ),
        "classes": list(CLASSES),
        "definitions": definitions,
        "parameters": {"hlf": 2003, "sequence": 10803, "inclusive": 12353}.get(
            name.split("-", 1)[0], 1
        ),
        "provenance": STORE_HASH,
        "epochs": 6,
        "events_trained": 120_000,
        "wall_s": 61.5,
        "events_per_s": 1951.2,
        "processes": 1,
        "device": "cpu, 2 cores",
        "versions": {"hepflow": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        "config_hash": "feedfacefeedface",
        "seed": 1,
        "store": None if store is None else str(store),
    }


def toy_runs(
    folder: Path,
    *,
    per_class: Sequence[int] = (500, 400, 600),
    classes: Sequence[str] = CLASSES,
    models: Mapping[str, float] = HARD,
    seed: int = 0,
    store: Path | None = None,
    provenance: Mapping[str, object] | None = None,
) -> Path:
    label, ids = toy_labels(per_class, seed), toy_ids(sum(per_class), seed)
    for own, (name, distance) in enumerate(models.items()):
        logits = toy_logits(label, len(classes), distance, seed, own)
        about = toy_about(name, store)
        write_run(
            folder / name,
            event_id=ids,
            label=label,
            logits=logits,
            classes=classes,
            provenance=provenance,
            about=about,
        )
    return folder


def toy_block(label: np.ndarray, ids: np.ndarray, seed: int = 0) -> EventBlock:
    """Return features that depend on the class a little, and particles around two jets."""
    rng = np.random.default_rng([seed, 5, int(ids[0]) % 2**31])
    n = len(label)
    hlf = rng.exponential(60, size=(n, len(HLF))).astype(np.float32) + 20 * label[:, None]
    hlf[:, [f.name for f in HLF].index("nJets")] = rng.poisson(2 + label)
    sizes = rng.integers(40, 120, size=n)
    offsets = np.concatenate([[0], sizes.cumsum()])
    particles = np.zeros((offsets[-1], len(PARTICLE)), dtype=np.float32)
    column = {f.name: i for i, f in enumerate(PARTICLE)}
    particles[:, column["Pt"]] = 0.5 + rng.exponential(3, size=len(particles))
    particles[:, column["Eta"]] = rng.normal(0, 1.6, size=len(particles))
    particles[:, column["Phi"]] = rng.uniform(-np.pi, np.pi, size=len(particles))
    kind = rng.choice(3, size=len(particles), p=[0.6, 0.3, 0.1])
    for number, flag in enumerate(("isChHad", "isGamma", "isNeuHad")):
        particles[kind == number, column[flag]] = 1
    first = offsets[:-1]
    particles[first, :] = 0
    particles[first, column["Pt"]] = 40
    particles[first, column["isMu"]] = 1
    return EventBlock(hlf, particles, offsets.astype(np.int64), label.astype(np.int8), ids)


def toy_store(
    path: Path,
    *,
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str] = CLASSES,
    train: tuple[np.ndarray, np.ndarray] | None = None,
    definitions: str = "corrected",
    provenance: str = STORE_HASH,
) -> Path:
    """Make a store with these (event_id, label) per split; by default train on 300 other events."""
    store = StoreWriter.create(
        path, StoreSpec(tuple(classes), HLF, PARTICLE, definitions, provenance)
    )
    if train is None:
        train = toy_ids(300, seed=99), toy_labels([100] * len(classes), seed=99)[:300]
    blocks = {}
    for split, (ids, label) in {"train": train, "test": test}.items():
        for number, name in enumerate(classes):
            own = label[: len(ids)] == number
            if own.any():
                blocks[split, name] = toy_block(label[: len(ids)][own], ids[own])
    n = sum(len(block) for block in blocks.values())
    store.write_part(0, blocks, Ledger(n_in=n, n_out=n))
    store.finalise()
    return path


@cache
def toy_report(base: Path) -> Path:
    """Return a folder with runs, features.zarr and report, made once for all tests: read only."""
    folder = base / "toy-report"
    sizes = (250, 200, 300)
    store = toy_store(folder / "features.zarr", test=(toy_ids(sum(sizes)), toy_labels(sizes)))
    toy_runs(folder / "runs", per_class=sizes, store=store)
    run(EvaluateConfig(input=folder / "runs", output=folder / "report", bootstrap=10))
    return folder
