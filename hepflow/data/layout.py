"""Layout of a feature store: its arrays, and how rows are divided among parts.

Part N is shard N of each array of events, and of ``particles``. So a part has room for a fixed
number of rows; those that it does not use are not on disk.
"""

from hepflow.data.arrays import Layout
from hepflow.data.blocks import StoreSpec

RANGES = "ranges"
"""Array of the rows of the events of each split and class."""
RANGE_COLUMNS = ("split", "class", "first_event", "events", "first_particle", "particles")
"""Columns of ``ranges``; splits and classes are positions in their lists."""
ARRAYS = ("hlf", "particles", "offsets", "label", "event_id", RANGES)
# With a power of two rows, all columns of a chunk fall on the same cache lines, and transposing it
# takes three times as long.
_EVENTS = {"rows_per_chunk": 2_000, "chunks_per_shard": 32}
_PARTICLES = {"rows_per_chunk": 16_000, "chunks_per_shard": 4_096}
ROWS_PER_PART = _EVENTS["rows_per_chunk"] * _EVENTS["chunks_per_shard"]
"""Rows of a part in the arrays of events."""
PARTICLES_PER_PART = _PARTICLES["rows_per_chunk"] * _PARTICLES["chunks_per_shard"]
"""Rows of a part in ``particles``."""
MOST_EVENTS = ROWS_PER_PART - 1
"""Events of a part: ``offsets`` has one row more than there are events."""


def layouts(spec: StoreSpec) -> dict[str, Layout]:
    """Return the arrays that parts are shards of."""
    return {
        "hlf": Layout("<f4", **_EVENTS, columns=len(spec.hlf)),
        "particles": Layout("<f4", **_PARTICLES, columns=len(spec.particles)),
        "offsets": Layout("<i8", **_EVENTS),
        "label": Layout("<i1", **_EVENTS),
        "event_id": Layout("<i8", **_EVENTS),
    }
