"""`hepflow import-cern`: the published SparkDLTrigger Parquet datasets -> the same jagged store that `hepflow features` writes.

Three layouts are known (github.com/cerndb/SparkDLTrigger, Data/README.md): ``HLF_input`` and ``encoded_label``; the same with
``GRU_input``; and ``hfeatures``, ``lfeatures``, ``label``, the output of the first step. The values stay as they are published:
``HLF_input`` is scaled to [0, 1] and ``GRU_input`` standardised event by event, padding included; only the padding rows are left out.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from hepflow.config.tools import ImportConfig
from hepflow.data.blocks import EventBlock, StoreSpec
from hepflow.data.events import fingerprint
from hepflow.data.identity import event_ids, split_index
from hepflow.data.ledger import Ledger
from hepflow.data.output import refuse_to_replace
from hepflow.data.provenance import digest
from hepflow.data.store import EventStore
from hepflow.errors import ConfigError, DataError
from hepflow.schema import HLF, MAX_PARTICLES, PARTICLE, Feature
from hepflow.system import locks
from hepflow.system.terminal import MESSAGES

log = logging.getLogger(__name__)

_KINDS = [i for i, feature in enumerate(PARTICLE) if feature.name.startswith("is")]
_NOT_FINITE, _NO_LABEL = "features not finite", "no such label"


@dataclass(frozen=True)
class Layout:
    """Names of the columns of one of the published layouts."""

    hlf: str
    label: str
    particles: str | None
    scaled: bool
    """Whether the values were scaled, so that they have no units."""


def run(config: ImportConfig) -> None:
    """Import the training and the test dataset."""
    sources = [
        (split, path) for split in ("train", "test") for path in _files(getattr(config, split))
    ]
    layout = _common_layout([path for _, path in sources])
    spec = _spec(config, layout, sources)
    with locks.exclusive(config.output):
        if not config.overwrite:
            _check_replaceable(config.output, spec)
        store = EventStore.create(config.output, spec)
        there = store.done()
        with Progress(console=MESSAGES) as progress:
            bar = progress.add_task(
                "importing", total=sum(pq.read_metadata(path).num_rows for _, path in sources)
            )
            for split, path in sources:
                for name, first, batch in _batches(split, path, config.rows_per_part):
                    if name not in there:
                        _import_batch(
                            store,
                            layout,
                            name,
                            _identities(split, path, first, len(batch)),
                            batch,
                            split,
                            config,
                        )
                    progress.advance(bar, len(batch))
        ledger = store.finalise()
    log.info("wrote %s: %s; %s", config.output, store.summary(), ledger.summary())


def _check_replaceable(path: Path, spec: StoreSpec) -> None:
    """Refuse to replace a finished store that other files or settings have made.

    Raises
    ------
    ConfigError
        It is one.
    """
    try:
        there = EventStore.open(path).spec
    except DataError:
        return
    before, now = (
        {name: getattr(side, name) for name in ("classes", "definitions", "physics")}
        for side in (there, spec)
    )
    refuse_to_replace(path, "a store", before, now)
    if there.provenance != spec.provenance:
        raise ConfigError(
            f"{path} holds a store of other files, or of other --val-fraction or --rows-per-part. Give another --output, or --overwrite."
        )


def without_padding(particles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Particles that are there, and how many each event has.

    Parameters
    ----------
    particles : (n, 801, 19)
        Padded with zeros, or with what standardising made of them.

    Returns
    -------
    (particles of all events, 19), (n)
        A particle has one of its five kinds set, which is above 0 standardised or not; padding has none.
    """
    real = (particles[:, :, _KINDS] > 0).any(axis=2)
    return particles[real], real.sum(axis=1)


def _files(path: Path) -> list[Path]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    files = [file for file in files if file.is_file() and not file.name.startswith(("_", "."))]
    if not files:
        raise DataError(
            f"{path}: no Parquet files here. Download one of the datasets (see docs/import-cern.md)."
        )
    return files


def _common_layout(files: list[Path]) -> Layout:
    layouts = {path: _layout(path) for path in files}
    first = layouts[files[0]]
    for path, layout in layouts.items():
        if layout != first:
            raise DataError(
                f"{path}: has other columns than {files[0]}. Import datasets of one layout at a time."
            )
    return first


def _layout(path: Path) -> Layout:
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a Parquet file ({error}). Download it again.") from error
    if {"HLF_input", "encoded_label"} <= set(names):
        return Layout(
            "HLF_input", "encoded_label", "GRU_input" if "GRU_input" in names else None, scaled=True
        )
    if {"hfeatures", "label"} <= set(names):
        return Layout(
            "hfeatures", "label", "lfeatures" if "lfeatures" in names else None, scaled=False
        )
    raise DataError(
        f"{path}: neither HLF_input and encoded_label nor hfeatures and label are among its columns ({', '.join(names)})"
    )


def _spec(config: ImportConfig, layout: Layout, sources: list[tuple[str, Path]]) -> StoreSpec:
    units: Mapping[str, str] = {} if layout.scaled else {"MT": "GeV^2"}
    hlf, particles = (
        tuple(Feature(f.name, "1" if layout.scaled else units.get(f.name, f.unit)) for f in fs)
        for fs in (HLF, PARTICLE)
    )
    inputs = digest([(split, fingerprint(path)) for split, path in sources])
    physics = f"SparkDLTrigger, columns {layout.hlf} and {layout.particles or 'no particles'}"
    settings = digest(config.classes, config.val_fraction, config.rows_per_part)
    return StoreSpec(
        config.classes,
        hlf,
        particles,
        "reference",
        digest(inputs, settings),
        physics=physics,
        input=inputs,
    )


def _batches(split: str, path: Path, n_rows: int) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    stem = f"{split}--{path.stem.split('.')[0]}-{fingerprint(path)}"
    first = 0
    with pq.ParquetFile(path) as file:
        for number, batch in enumerate(file.iter_batches(n_rows)):
            yield f"{stem}--{number:05d}", first, batch
            first += len(batch)


def _identities(split: str, path: Path, first: int, n: int) -> np.ndarray:
    """The published files do not say which event is which: split, file and row stand in."""
    return event_ids(
        f"{split}/{path.name} {fingerprint(path)}".encode(), np.arange(first, first + n)
    )


def _import_batch(
    store: EventStore,
    layout: Layout,
    name: str,
    event_id: np.ndarray,
    batch: pa.RecordBatch,
    split: str,
    config: ImportConfig,
) -> None:
    n = len(batch)
    hlf = _matrix(batch, layout.hlf, len(HLF))
    label = _labels(batch, layout.label, len(config.classes))
    if layout.particles is None:
        particles, counts = np.empty((0, len(PARTICLE)), np.float32), np.zeros(n, np.int64)
    else:
        padded = _matrix(batch, layout.particles, MAX_PARTICLES * len(PARTICLE))
        particles, counts = without_padding(padded.reshape(n, MAX_PARTICLES, len(PARTICLE)))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    finite = np.isfinite(hlf).all(axis=1)
    finite[np.repeat(np.arange(n), counts)[~np.isfinite(particles).all(axis=1)]] = False
    labelled = (label >= 0) & (label < len(config.classes))
    good = finite & labelled
    held_out = (
        split_index(event_id, {"train": 1 - config.val_fraction, "val": config.val_fraction})
        if split == "train"
        else np.zeros(n)
    )
    block = EventBlock(hlf, particles, offsets, label.astype(np.int8), event_id)
    places = product(
        enumerate(("train", "val") if split == "train" else ("test",)), enumerate(config.classes)
    )
    wanted = {
        (name, class_name): np.flatnonzero(good & (held_out == i) & (label == j))
        for (i, name), (j, class_name) in places
    }
    blocks = {place: block[events] for place, events in wanted.items() if len(events)}
    rejected = {_NO_LABEL: int((~labelled).sum()), _NOT_FINITE: int((labelled & ~finite).sum())}
    store.write_part(
        name,
        blocks,
        Ledger(n, int(good.sum()), {reason: count for reason, count in rejected.items() if count}),
    )


def _matrix(batch: pa.RecordBatch, name: str, width: int) -> np.ndarray:
    """A column of lists, lists of lists or Spark vectors, as (n, width) float32."""
    column = batch.column(name)
    if pa.types.is_struct(
        column.type
    ):  # Spark's VectorUDT; the published vectors of features are dense
        column = column.field("values")
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False).astype(np.float32)
    if values.size != len(batch) * width:
        raise DataError(
            f"column {name!r}: {values.size / max(len(batch), 1):g} values a row, not {width}. Is it one of the published files?"
        )
    return values.reshape(len(batch), width)


def _labels(batch: pa.RecordBatch, name: str, n_classes: int) -> np.ndarray:
    """The number of the class, -1 where there is none; from a number or from a one-hot list."""
    column = batch.column(name)
    if pa.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.int64)
    one_hot = _matrix(batch, name, n_classes)
    return np.where(
        (one_hot.sum(axis=1) == 1) & (one_hot.max(axis=1) == 1), one_hot.argmax(axis=1), -1
    )
