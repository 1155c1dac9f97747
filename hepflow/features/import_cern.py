"""`hepflow import-cern`: the published SparkDLTrigger Parquet datasets -> a feature store.

Three layouts are known (github.com/cerndb/SparkDLTrigger, Data/README.md): ``HLF_input`` and
``encoded_label``; these with ``GRU_input``; and ``hfeatures``, ``lfeatures``, ``label``, the output
of the first step. Values stay as published: ``HLF_input`` is scaled to [0, 1], and ``GRU_input`` is
standardised per event, including the padding. Only padding rows are left out.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.config.stages import STORE
from hepflow.config.tools import ImportConfig
from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.catalog import Footer
from hepflow.data.identity import event_ids, split_index
from hepflow.data.ledger import Ledger
from hepflow.data.part_writer import Blocks
from hepflow.data.provenance import digest
from hepflow.data.store_writer import StoreWriter, check_replaceable
from hepflow.errors import ConfigError, DataError
from hepflow.features import import_net
from hepflow.features.parts import by_split_and_class
from hepflow.schema import HLF, MAX_PARTICLES, PARTICLE, SPLITS, Feature
from hepflow.system import locks
from hepflow.system.terminal import bar

log = logging.getLogger(__name__)

_KINDS = [i for i, feature in enumerate(PARTICLE) if feature.name.startswith("is")]
_NOT_FINITE, _NO_LABEL = "features not finite", "no such label"


@dataclass(frozen=True)
class Layout:
    """Names of the columns of one of the published layouts."""

    hlf: str
    label: str
    particles: str | None
    scaled: bool  # whether the values were scaled, so that they have no units


_LAYOUTS = (
    Layout("HLF_input", "encoded_label", "GRU_input", scaled=True),
    Layout("hfeatures", "label", "lfeatures", scaled=False),
)


class _Rows(NamedTuple):
    event_id: np.ndarray
    rows: pa.RecordBatch


def run(config: ImportConfig) -> None:
    """Import the training and the test dataset, or a net."""
    if config.model is not None:
        import_net.run(config)
        return
    output = config.output or STORE
    sources = [
        (split, path) for split in ("train", "test") for path in _files(getattr(config, split))
    ]
    (first, layout), *others = ((path, _layout(path)) for _, path in sources)
    for path, other in others:
        if other != layout:
            raise DataError(f"{path}: has other columns than {first}. Import one layout at a time.")
    spec = _spec(config, layout, sources)
    n_rows = sum(_n_rows(path) for _, path in sources)
    with locks.exclusive(output), bar("importing", n_rows) as progress:
        if not config.overwrite:
            present = check_replaceable(output, spec, ("classes", "definitions", "physics"))
            if present is not None and present.provenance != spec.provenance:
                what = "a store of other files, or of other --val-fraction or --rows-per-part"
                advice = "Give another --output, or --overwrite."
                raise ConfigError(f"{output} holds {what}. {advice}")
        store = StoreWriter.create(output, spec)
        done, numbers = store.sources().keys(), count()
        for split, path in sources:
            for rows in _parts(split, path, config.rows_per_part):
                if (number := next(numbers)) not in done:
                    store.write_part(number, *_imported(layout, rows, split, config))
                progress.advance(len(rows.rows))
        ledger = store.finalise()
    log.info("wrote %s: %s; %s", output, store.summary(), ledger.summary())


def _files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if files := [file for file in files if file.is_file() and file.name[0] not in "_."]:
        return files
    advice = "Download one of the datasets (see docs/import-cern.md)"
    raise DataError(f"{path}: no Parquet files here. {advice}.")


def _n_rows(path: Path) -> int:
    with path.open("rb") as stream:
        return int(pq.read_metadata(stream).num_rows)


def _layout(path: Path) -> Layout:
    try:
        with path.open("rb") as stream:
            names = pq.read_schema(stream).names
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file ({error}). Download it again.") from error
    for layout in _LAYOUTS:
        if {layout.hlf, layout.label} <= set(names):
            return layout if layout.particles in names else replace(layout, particles=None)
    needed = " nor ".join(f"{layout.hlf} and {layout.label}" for layout in _LAYOUTS)
    raise DataError(f"{path}: neither {needed} are among its columns ({', '.join(names)})")


def _spec(config: ImportConfig, layout: Layout, sources: list[tuple[str, Path]]) -> StoreSpec:
    units = {"MT": "GeV^2"}  # the reference's transverse mass is the square
    hlf, particles = (
        tuple(Feature(f.name, "1" if layout.scaled else units.get(f.name, f.unit)) for f in fs)
        for fs in (HLF, PARTICLE)
    )
    inputs = digest([(split, Footer.read(path).fingerprint) for split, path in sources])
    key = digest(inputs, digest(config.classes, config.val_fraction, config.rows_per_part))
    physics = f"SparkDLTrigger, columns {layout.hlf} and {layout.particles or 'no particles'}"
    return StoreSpec(
        config.classes, hlf, particles, "reference", key, physics=physics, input=inputs
    )


def _parts(split: str, path: Path, n_rows: int) -> Iterator[_Rows]:
    """Yield parts of a file: an event has no number there, so split, file and row identify it."""
    mark, first = Footer.read(path).fingerprint, 0
    identity = f"{split}/{path.name} {mark}".encode()
    with path.open("rb") as stream, pq.ParquetFile(stream) as file:
        for batch in file.iter_batches(n_rows):
            event_id = event_ids(identity, np.arange(first, first + len(batch)))
            yield _Rows(event_id, batch)
            first += len(batch)


def _imported(
    layout: Layout, part: _Rows, split: str, config: ImportConfig
) -> tuple[Blocks, Ledger]:
    rows, n = part.rows, len(part.rows)
    hlf = _matrix(rows, layout.hlf, len(HLF))
    label = _labels(rows, layout.label, len(config.classes))
    if layout.particles is None:
        particles, counts = np.empty((0, len(PARTICLE)), np.float32), np.zeros(n, np.int64)
    else:
        padded = _matrix(rows, layout.particles, MAX_PARTICLES * len(PARTICLE))
        padded = padded.reshape(n, MAX_PARTICLES, len(PARTICLE))
        # A particle has a flag of its kind above 0, standardised or not; padding has none.
        real = (padded[:, :, _KINDS] > 0).any(axis=2)
        particles, counts = padded[real], real.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    finite = np.isfinite(hlf).all(axis=1)
    finite[np.repeat(np.arange(n), counts)[~np.isfinite(particles).all(axis=1)]] = False
    labelled = (label >= 0) & (label < len(config.classes))
    good = finite & labelled
    block = EventBlock(hlf, particles, offsets, label.astype(np.int8), part.event_id)
    block = block if good.all() else block[good]
    place = np.full(len(block), SPLITS.index(split))
    if split == "train":
        fractions = {"train": 1 - config.val_fraction, "val": config.val_fraction}
        place = split_index(block.event_id, fractions)
    blocks = by_split_and_class(block, place, SPLITS, config.classes)
    rejected = {_NO_LABEL: int((~labelled).sum()), _NOT_FINITE: int((labelled & ~finite).sum())}
    rejected = {reason: n_events for reason, n_events in rejected.items() if n_events}
    return blocks, Ledger(n, len(block), rejected)


def _matrix(batch: pa.RecordBatch, name: str, width: int) -> np.ndarray:
    """Return a column of lists, lists of lists or Spark vectors, (n, width) float32."""
    column = batch.column(name)
    if pa.types.is_struct(column.type):  # Spark's VectorUDT; the published vectors are dense
        column = column.field("values")
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False).astype(np.float32)
    if values.size != len(batch) * width:
        what = f"{values.size / max(len(batch), 1):g} values per row, not {width}"
        raise DataError(f"column {name!r}: {what}. Give one of the published files.")
    return values.reshape(len(batch), width)


def _labels(batch: pa.RecordBatch, name: str, n_classes: int) -> np.ndarray:
    """Return the number of the class, or -1 for none, from a number or a one-hot list."""
    column = batch.column(name)
    if pa.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.int64)
    one_hot = _matrix(batch, name, n_classes)
    valid = (one_hot.sum(axis=1) == 1) & (one_hot.max(axis=1) == 1)
    return np.where(valid, one_hot.argmax(axis=1), -1)
