"""Cross-validation: a fold is a feature store of its own, made of the training and validation events of another.

So its normalisation comes from its own training events, and the test split is not in it at all.
"""

from dataclasses import replace
from pathlib import Path

from hepflow.data.blocks import StoreSpec
from hepflow.data.identity import fold_index
from hepflow.data.ledger import Ledger
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.errors import DataError


def make_folds(source: Path, folder: Path, n_folds: int) -> list[Path]:
    """Stores in which each event of the source's train and val splits is held out once, by hash of its event_id.

    Parameters
    ----------
    source : Path
        Feature store.
    folder : Path
        Where the folds are put; those that are there and up to date are kept.
    n_folds : int

    Returns
    -------
    list of Path
        A store a fold: ``val`` is what is held out, ``train`` the rest, ``test`` is empty.

    Raises
    ------
    DataError
        A class has so few events that a fold has none of it.
    """
    store = EventStore.open(source)
    paths = [folder / f"fold-{fold}-of-{n_folds}.zarr" for fold in range(n_folds)]
    for fold, path in enumerate(paths):
        spec = replace(store.spec, provenance=digest(store.spec.provenance, "fold", fold, n_folds))
        if not _is_there(path, spec):
            _make(store, path, spec, fold, n_folds)
        _check(path, f"{source}: fold {fold} of {n_folds}")
    return paths


def _make(store: EventStore, path: Path, spec: StoreSpec, fold: int, n_folds: int) -> None:
    target = EventStore.create(path, spec)
    for split in ("train", "val"):
        for name in spec.classes:
            for part in store.parts(split, name):
                block = store.read(part)
                held_out = fold_index(block.event_id, n_folds) == fold
                blocks = {
                    ("val", name): block[held_out],
                    ("train", name): block[~held_out],
                }
                n = len(block)
                target.write_part(
                    f"{split}-{name}-{part.name}",
                    {key: b for key, b in blocks.items() if len(b)},
                    Ledger(n, n),
                )
    target.finalise()


def _check(path: Path, which: str) -> None:
    fold = EventStore.open(path)
    for split in ("train", "val"):
        if missing := [name for name in fold.spec.classes if not fold.parts(split, name)]:
            raise DataError(
                f"{which} has no {split} event of {', '.join(missing)}. Ask for fewer folds, or make more events."
            )


def _is_there(path: Path, spec: StoreSpec) -> bool:
    try:
        return EventStore.open(path).spec.provenance == spec.provenance
    except DataError:
        return False
