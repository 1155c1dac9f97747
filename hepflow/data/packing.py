"""Pieces of any size -> parts of a store: few and large, so that a store has few files."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from hepflow.data.layout import MOST_EVENTS

Piece = TypeVar("Piece")
PART_BYTES = 1 << 30
"""Bytes of a part at most, uncompressed."""
_FEWEST, _SMALLEST = 64, 16 << 20


def part_bytes(total: int, most: int = PART_BYTES) -> int:
    """Return the bytes per part of a store of ``total`` bytes.

    A store of less than 64 large parts has smaller ones, of 16 MiB or more, so that many workers
    have a task.
    """
    return min(most, max(_SMALLEST, total // _FEWEST))


def packed(
    pieces: Iterable[Piece], most_bytes: int, size: Callable[[Piece], tuple[int, int]]
) -> list[list[Piece]]:
    """Return the pieces, in their order, in groups that fit into a part of ``most_bytes``.

    ``size`` gives the bytes and events of a piece. A larger one is a group of its own.
    """
    groups: list[list[Piece]] = []
    n_bytes = n_events = 0
    for piece in pieces:
        more_bytes, more_events = size(piece)
        n_bytes, n_events = n_bytes + more_bytes, n_events + more_events
        if not groups or n_bytes > most_bytes or n_events > MOST_EVENTS:
            groups.append([])
            n_bytes, n_events = more_bytes, more_events
        groups[-1].append(piece)
    return groups
