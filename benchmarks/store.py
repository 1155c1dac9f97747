"""Which compression the store should use: bytes an event, and events a second of one core written and read.

Chunks are those of the store, 16,384 particles. CPU time, so that a busy machine distorts least; medians of several turns.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import awkward as ak
import generated
import numpy as np
from numcodecs import Blosc, blosc
from rich.console import Console
from rich.table import Table

from hepflow.fragments import open_events, read_fragment
from hepflow.ledger import Ledger
from hepflow.physics.features import FeatureSet, compute
from hepflow.schema import HLF, MAX_PARTICLES, PARTICLE
from hepflow.store import ROWS_PER_CHUNK, EventBlock, EventStore, StoreSpec

PADDED = MAX_PARTICLES * len(PARTICLE) * 4
SHUFFLES = {"none": Blosc.NOSHUFFLE, "bytes": Blosc.SHUFFLE, "bits": Blosc.BITSHUFFLE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer codecs, in under a minute")
    parser.add_argument("--events", type=Path, help="a dataset of `hepflow ingest`; default: generated events")
    arguments = parser.parse_args()
    blosc.use_threads = False
    events = some_events(arguments.events) if arguments.events else generated.events(2000)
    features = compute(events)
    table = Table("order", "codec", "level", "shuffle", "block", "bytes an event", "of padded", "written, events/s", "read, events/s")
    for options in choices(quick=arguments.quick):
        measure(features, table, *options)
    Console().print(table)
    print(json.dumps(whole_store(features)))


def choices(*, quick: bool) -> list[tuple[bool, str, int, str, int]]:
    """Transposed, codec, level, shuffle, block size."""
    codecs = [("zstd", 1), ("zstd", 3), ("lz4", 5)] if quick else [("zstd", 1), ("zstd", 3), ("zstd", 5), ("lz4", 1), ("lz4", 5)]
    first = [(transposed, *codec, shuffle, 0) for transposed, codec, shuffle in product((False, True), codecs, SHUFFLES)]
    return [*first, *((True, *codec, size) for codec, size in product([("zstd", 1, "bytes"), ("lz4", 5, "bits")], (2**16, 2**18, 2**20)))]


def some_events(folder: Path) -> ak.Array:
    """The first 2,000 events of a dataset, of all its classes."""
    fragments = open_events(folder, 2**26).fragments
    return ak.concatenate([read_fragment(fragment)[: 2000 // len(fragments) + 1] for fragment in fragments[:: -(-len(fragments) // 40)]])


def measure(features: FeatureSet, table: Table, transposed: bool, name: str, level: int, shuffle: str, block: int) -> None:
    x, n_events = features.particles, len(features.index)
    chunks = [x[i : i + ROWS_PER_CHUNK] for i in range(0, len(x), ROWS_PER_CHUNK)]
    codec = Blosc(name, level, SHUFFLES[shuffle], block)

    def encode() -> list[bytes]:
        return [codec.encode(np.ascontiguousarray(chunk.T if transposed else chunk)) for chunk in chunks]

    encoded = encode()
    size = sum(map(len, encoded)) / n_events
    written, read = n_events / cpu(encode), n_events / cpu(lambda: [codec.decode(part) for part in encoded])
    order = "columns" if transposed else "rows"
    table.add_row(
        order, name, str(level), shuffle, str(block or "auto"), f"{size:,.0f}", f"{size / PADDED:.3f}", f"{written:,.0f}", f"{read:,.0f}"
    )


def whole_store(features: FeatureSet) -> dict[str, float]:
    """What the store does, through zarr, all arrays together."""
    n = len(features.index)
    block = EventBlock(features.hlf, features.particles, features.offsets, np.zeros(n, np.int8), np.arange(n))
    with tempfile.TemporaryDirectory() as folder:
        store = EventStore.create(Path(folder) / "s.zarr", StoreSpec(("qcd",), HLF, PARTICLE, "corrected", "benchmark"))

        def write() -> None:
            store.write_part("a", {("train", "qcd"): block}, Ledger(n, n))

        written = n / cpu(write)
        store.finalise()
        (part,) = EventStore.open(store.path).parts("train", "qcd")
        read = n / cpu(lambda: store.read(part))
        size = sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()) / n
    return {"bytes_vs_padded": size / PADDED, "written_per_second": written, "read_per_second": read}


def cpu(function: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main()
