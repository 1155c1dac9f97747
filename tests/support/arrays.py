"""An array of its own, as the parts of a store are written."""

from pathlib import Path

import numpy as np

from hepflow.data.arrays import Layout, ShardWriter


def write_array(
    path: Path, values: np.ndarray, rows_per_chunk: int | None = None, chunks_per_shard: int = 3
) -> Layout:
    """Write an array, (rows) or (rows, columns), shard by shard; by default as one chunk."""
    path.mkdir(parents=True)
    columns = values.shape[1] if values.ndim == 2 else None
    size = rows_per_chunk or max(1, len(values))
    layout = Layout(values.dtype.str, size, chunks_per_shard if rows_per_chunk else 1, columns)
    layout.describe(path, len(values))
    for shard, first in enumerate(range(0, len(values), layout.rows_per_shard)):
        with ShardWriter(layout.shard_path(path, shard), layout) as writer:
            writer.append(values[first : first + layout.rows_per_shard])
            writer.finish()
    return layout
