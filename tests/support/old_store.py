"""A store of version 1 of the format, written with zarr alone."""

import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from hepflow.data.blocks import EventBlock
from hepflow.data.store import EventStore


def old_store(path: Path, store: EventStore) -> EventStore:
    """Write the events of a store in version 1: a group per part, split and class."""
    about = {**store.attributes, "schema_version": 1, "settings": store.spec.settings}
    del about["requires"], about["parts"]
    root = zarr.create_group(path)
    for number, record in store.records.items():
        name = f"part-{number}"
        rows = []
        for one in store.parts.get(number, []):
            group = root.create_group(f"{one.split}/{one.class_name}/{name}")
            block = store.read(one)
            for array in EventBlock.__dataclass_fields__:
                _write(group, array, getattr(block, array))
            sizes = {"n_events": one.n_events, "n_particles": one.n_particles}
            rows.append({"split": one.split, "class_name": one.class_name, "name": name, **sizes})
        (path / "_parts").mkdir(exist_ok=True)
        sources = "".join(chain.from_iterable(record["sources"].items()))
        old = {"parts": rows, "ledger": record["ledger"], "moments": record["moments"]}
        text = json.dumps({**old, "source": sources})
        (path / "_parts" / f"{name}.json").write_text(text)
    root.attrs["hepflow"] = {**about, **asdict(store.spec)}
    return EventStore.open(path)


def _write(group: zarr.Group, name: str, values: np.ndarray) -> None:
    rows = max(1, min(16_000, len(values)))
    n_chunks = max(1, min(64, -(-len(values) // rows)))
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(rows, *values.shape[1:]),
        shards=(rows * n_chunks, *values.shape[1:]),
        filters=[TransposeCodec(order=(1, 0))] if values.ndim == 2 else None,
        compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[...] = values
