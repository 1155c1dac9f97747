"""Cross-validation: a fold is a feature store, so its normalisation is that of its own train."""

from dataclasses import replace
from pathlib import Path

from hepflow.data.identity import fold_index
from hepflow.data.ledger import Ledger
from hepflow.data.packing import PART_BYTES, packed
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
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
            target = StoreWriter.create(path, spec)
            groups = packed(store.all_ranges("train", "val"), PART_BYTES, store.size)
            for number, ranges in enumerate(groups):
                n_events = sum(rows.n_events for rows in ranges)
                with target.part_writer(number) as part:
                    for rows in ranges:
                        block, name = store.read(rows), rows.class_name
                        held_out = fold_index(block.event_id, n_folds) == fold
                        part.add(
                            {("val", name): block[held_out], ("train", name): block[~held_out]}
                        )
                    part.finish(Ledger(n_events, n_events), {})
            target.finalise()
        made = EventStore.open(path)
        for split in ("train", "val"):
            if missing := [name for name in spec.classes if not made.ranges(split, name)]:
                why = f"{source}: fold {fold} of {n_folds} has no {split} event of "
                advice = "Ask for fewer folds, or make more events."
                raise DataError(f"{why}{', '.join(missing)}. {advice}")
    return paths
