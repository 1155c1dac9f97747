"""Cross-validation: a fold is a feature store, so its normalisation is that of its own train."""

from dataclasses import replace
from pathlib import Path

from hepflow.data.identity import fold_index
from hepflow.data.ledger import Ledger
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.errors import DataError


def make_folds(source: Path, folder: Path, n_folds: int) -> list[Path]:
    """Make stores of the train and val events, each of which is in val once, by its event_id."""
    store = EventStore.open(source)
    paths = [folder / f"fold-{fold}-of-{n_folds}.zarr" for fold in range(n_folds)]
    for fold, path in enumerate(paths):
        spec = replace(store.spec, provenance=digest(store.spec.provenance, "fold", fold, n_folds))
        try:
            done = EventStore.open(path).spec.provenance == spec.provenance
        except DataError:
            done = False
        if not done:
            target = EventStore.create(path, spec)
            for part in store.all_parts("train", "val"):
                block, name = store.read(part), part.class_name
                held_out = fold_index(block.event_id, n_folds) == fold
                blocks = {("val", name): block[held_out], ("train", name): block[~held_out]}
                blocks = {place: own for place, own in blocks.items() if len(own)}
                counts = Ledger(len(block), len(block))
                target.write_part(f"{part.split}-{name}-{part.name}", blocks, counts)
            target.finalise()
        made = EventStore.open(path)
        for split in ("train", "val"):
            if missing := [name for name in spec.classes if not made.parts(split, name)]:
                why = f"{source}: fold {fold} of {n_folds} has no {split} event of "
                advice = "Ask for fewer folds, or make more events."
                raise DataError(f"{why}{', '.join(missing)}. {advice}")
    return paths
