"""Compression and coder of the store: bytes per event, events per second written and read.

The first table compresses the particles alone, chunk by chunk, into memory. The second compares the
store, all arrays in files, with the same arrays through zarr. CPU time of one core, which other
programs affect least; medians of several turns.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import generated
import numpy as np
import zarr
from numcodecs import Blosc
from numcodecs.bitround import BitRound
from rich.console import Console
from timing import medians, timed
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from hepflow.data.arrays import COMPRESSOR
from hepflow.data.blocks import FLOAT_BITS, EventBlock, StoreSpec
from hepflow.data.events import open_events, read_fragment
from hepflow.data.layout import layouts
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.physics.features import FeatureSet, compute_features
from hepflow.schema import HLF, MAX_PARTICLES, PARTICLE
from hepflow.system.terminal import show, table

PADDED = MAX_PARTICLES * len(PARTICLE) * 4
SHUFFLES = {"none": Blosc.NOSHUFFLE, "bytes": Blosc.SHUFFLE, "bits": Blosc.BITSHUFFLE}
SLICE = 256


class Choice(NamedTuple):
    codec: str
    level: int
    shuffle: str
    columns: bool = True
    rows: int = 16_000
    block: int = 2**21
    bits: int = FLOAT_BITS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer codecs, in under a minute")
    parser.add_argument(
        "--events", type=Path, help="a dataset of `hepflow ingest`; default: generated events"
    )
    arguments = parser.parse_args()
    events = (
        some_events(arguments.events)
        if arguments.events
        else generated.events(1000 if arguments.quick else 2000)
    )
    features = compute_features(events)
    rows = [measure(features, choice) for choice in choices(quick=arguments.quick)]
    columns = ("order", "codec", "shuffle", "rows per chunk", "block", "bits kept")
    columns += ("bytes per event", "of padded", "written/s", "read/s", "")
    show(table(columns, rows), console=Console(width=140))
    print(json.dumps(whole_store(features, 3 if arguments.quick else 7)))


def choices(*, quick: bool) -> list[Choice]:
    """Return codecs with every shuffle and order, and variations of the store's choice."""
    codecs = (
        [("zstd", 1), ("lz4", 5)]
        if quick
        else [("zstd", 1), ("zstd", 3), ("zstd", 5), ("lz4", 1), ("lz4", 5), ("blosclz", 5)]
    )
    varied = [
        Choice(*codec, shuffle, columns)
        for columns, codec, shuffle in product((False, True), codecs, SHUFFLES)
    ]
    best = Choice("zstd", 1, "bytes")
    varied += [best._replace(rows=rows) for rows in (4000, 8000, 2**14, 32000)]
    varied += [best._replace(block=block) for block in (0, 2**16, 2**18, 2**20)]
    return varied + [best._replace(bits=bits) for bits in (16, 12, 8)]


def some_events(folder: Path) -> ak.Array:
    """Return 2,000 events of a dataset, from all its classes."""
    fragments = open_events(folder, 2**26).fragments
    return ak.concatenate(
        [
            read_fragment(fragment)[: 2000 // len(fragments) + 1]
            for fragment in fragments[:: -(-len(fragments) // 40)]
        ]
    )


def measure(features: FeatureSet, choice: Choice) -> tuple[str, ...]:
    n_whole = len(features.particles) // choice.rows * choice.rows  # only whole chunks compare
    x = features.particles[:n_whole]
    n_events = len(features.index) * n_whole / len(features.particles)
    codec = Blosc(choice.codec, choice.level, SHUFFLES[choice.shuffle], choice.block, typesize=4)
    chunks = x.reshape(-1, choice.rows, x.shape[1])
    out = np.empty(chunks.shape[1:], np.float32)
    decoded = np.empty_like(out.T if choice.columns else out, order="C")

    def encode() -> list[bytes]:
        rounded = (
            chunks
            if choice.bits == FLOAT_BITS
            else BitRound(choice.bits).encode(chunks).view(np.float32)
        )
        return [
            codec.encode(np.ascontiguousarray(chunk.T if choice.columns else chunk))
            for chunk in rounded
        ]

    def decode() -> None:
        for part in encoded:
            codec.decode(part, out=decoded)
            out[...] = decoded.T if choice.columns else decoded

    encoded = encode()
    size = sum(map(len, encoded)) / n_events
    (written,), (read,) = cpu({"": encode}).values(), cpu({"": decode}).values()
    ours = Choice(COMPRESSOR["cname"], COMPRESSOR["clevel"], "bytes")
    return (
        "columns" if choice.columns else "rows",
        f"{choice.codec} {choice.level}",
        choice.shuffle,
        f"{choice.rows:,}",
        f"{choice.block:,}" if choice.block else "auto",
        str(choice.bits),
        f"{size:,.0f}",
        f"{size / PADDED:.3f}",
        f"{n_events / written:,.0f}",
        f"{n_events / read:,.0f}",
        "the store" if choice == ours else "",
    )


def whole_store(features: FeatureSet, repeats: int) -> dict[str, float]:
    """Compare the store with the same arrays written and read by zarr."""
    n = len(features.index)
    block = EventBlock(
        features.hlf, features.particles, features.offsets, np.zeros(n, np.int8), np.arange(n)
    )
    starts = range(0, n - n % SLICE, SLICE)
    with tempfile.TemporaryDirectory() as folder:
        store = StoreWriter.create(
            Path(folder) / "s.zarr", StoreSpec(("qcd",), HLF, PARTICLE, "corrected", "benchmark")
        )
        contenders = {
            "write, the store": lambda: store.write_part(
                0, {("train", "qcd"): block}, Ledger(n, n)
            ),
            "write, zarr": lambda: write_by_zarr(Path(folder) / "z.zarr", block),
        }
        seconds = cpu(contenders, repeats)
        store.finalise()
        opened, plain = EventStore.open(store.path), Path(folder) / "z.zarr"
        (rows,) = opened.ranges("train", "qcd")
        contenders = {
            "read whole, the store": lambda: opened.read(rows),
            "read whole, zarr": lambda: read_by_zarr(plain, 0, n),
            f"read by {SLICE}, the store": lambda: [
                opened.read(rows, start, start + SLICE) for start in starts
            ],
            f"read by {SLICE}, zarr": lambda: [
                read_by_zarr(plain, start, start + SLICE) for start in starts
            ],
        }
        seconds |= cpu(contenders, repeats)
        size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()) / n
    rates = {
        name: (len(starts) * SLICE if "by" in name else n) / value
        for name, value in seconds.items()
    }
    rows = [(name, f"{rate:,.0f}") for name, rate in rates.items()]
    title = f"{n:,} events, {size:,.0f} bytes each, load {os.getloadavg()[0]:.1f}"
    show(table(("files, all arrays", "events/s on one core"), rows, title))
    return {
        "bytes_vs_padded": size / PADDED,
        "written_per_second": rates["write, the store"],
        "read_per_second": rates[f"read by {SLICE}, the store"],
        "written_vs_zarr": rates["write, the store"] / rates["write, zarr"],
        "read_vs_zarr": rates[f"read by {SLICE}, the store"] / rates[f"read by {SLICE}, zarr"],
    }


def write_by_zarr(path: Path, block: EventBlock) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    spec = StoreSpec(("qcd",), HLF, PARTICLE, "corrected", "benchmark")
    for name, layout in layouts(spec).items():
        values = getattr(block, name)
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(layout.rows_per_chunk, *values.shape[1:]),
            shards=(layout.rows_per_shard, *values.shape[1:]),
            filters=[TransposeCodec(order=(1, 0))] if values.ndim == 2 else None,
            compressors=[BloscCodec(**COMPRESSOR), Crc32cCodec()],
            config={"write_empty_chunks": True},
        )
        array[...] = values


def read_by_zarr(path: Path, start: int, stop: int) -> None:
    group = zarr.open_group(path, mode="r")
    offsets = group["offsets"][start : stop + 1]
    for name in ("hlf", "label", "event_id"):
        group[name][start:stop]
    group["particles"][offsets[0] : offsets[-1]]


def cpu(contenders: dict[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Return the median CPU seconds of each, called in turn."""
    seconds = {name: partial(timed, call, time.process_time) for name, call in contenders.items()}
    return medians(seconds, repeats)


if __name__ == "__main__":
    main()
