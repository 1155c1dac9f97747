"""Some of the events of a class, if there are more than wanted: pieces in a random order.

The order is that of a hash of the seed and the place of a piece, and the first pieces are taken
whole, until they have enough events that pass. So the sample depends neither on the sizes of reads
nor on the order of files, and little more is read than is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from hepflow.evaluate.datasets.sources import Piece, Rows, Source

LEAST_SHARE = 0.2  # least share of passing events that is expected, so that reads stay small


@dataclass(frozen=True)
class Sample:
    """Events of one class of a dataset."""

    rows: Rows
    n_there: int
    """Events of the class in the dataset; of events, before the trigger."""
    n_pieces: int
    """Pieces that the events are of."""
    whole: bool
    """Whether these are all events of the class that pass."""


def take(
    source: Source, class_name: str, limit: int, seed: int, advance: Callable[[int], None]
) -> Sample:
    """Read at most ``limit`` events of a class; ``advance`` is told of the events that were read.

    A class without any event gives an empty sample.
    """
    pieces = sorted(
        source.pieces(class_name),
        key=lambda piece: blake2b(f"{seed} {piece.key}".encode(), digest_size=8).digest(),
    )
    found: list[Rows] = []
    n_read = n_kept = 0
    while len(found) < len(pieces) and n_kept < limit:
        share = max(n_kept / n_read, LEAST_SHARE) if n_read else 1.0
        wanted, chosen = n_read + (limit - n_kept) / share, list[Piece]()
        while len(found) + len(chosen) < len(pieces) and n_read < wanted:
            chosen.append(pieces[len(found) + len(chosen)])
            n_read += chosen[-1].n_events
        by_key = {}
        for piece, own in source.read(chosen, class_name):
            by_key[piece.key] = own
            advance(piece.n_events)
        found += [by_key[piece.key] for piece in chosen]
        n_kept = sum(map(len, found))
    n_pieces, n_used = 0, 0
    while n_pieces < len(found) and n_used < limit:
        n_used += len(found[n_pieces])
        n_pieces += 1
    n_there = sum(piece.n_events for piece in pieces)
    whole = n_pieces == len(pieces) and n_used <= limit
    none = Rows(np.empty((0, 0), np.float32), np.empty(0, np.int64))
    rows = Rows.joined(found[:n_pieces])[:limit] if found else none
    return Sample(rows, n_there, n_pieces, whole)
