"""Who an event is, and which split it belongs to: functions of the file's UUID and the entry, and of nothing else.

Neither the path, nor the partitioning, nor files added later can change them.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SPLIT_SALT = np.uint64(0x5851F42D4C957F2D)
_FOLD_SALT = np.uint64(0x14057B7EF767814F)


def event_ids(file_uuid: bytes, entries: np.ndarray) -> np.ndarray:
    """64-bit identities of entries of one file.

    Parameters
    ----------
    file_uuid : bytes
        The UUID in the ROOT file's header, which a copy or a move keeps.
    entries : (n,) integers
        Rows of the tree.

    Returns
    -------
    (n,) int64
        Distinct within a file by construction (the mixing is a bijection), and between files but for the chance
        of any 64-bit hash: about 1e-4 for 54 million events.
    """
    key = np.uint64(int.from_bytes(hashlib.blake2b(file_uuid, digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        return _mix(entries.astype(np.uint64) * _GOLDEN + key).view(np.int64)


def split_index(event_id: np.ndarray, fractions: Mapping[str, float]) -> np.ndarray:
    """Which of the splits each event belongs to.

    Parameters
    ----------
    event_id : (n,) int64
    fractions : mapping
        Split name -> share of the events; the shares add up to 1.

    Returns
    -------
    (n,) int64
        Position in ``fractions``.
    """
    uniform = _mix(event_id.view(np.uint64) ^ _SPLIT_SALT) / 2.0**64
    edges = np.cumsum(list(fractions.values()))
    return np.searchsorted(edges[:-1], uniform, side="right")


def fold_index(event_id: np.ndarray, n_folds: int) -> np.ndarray:
    """Which of equal folds each event belongs to, whatever its split.

    Parameters
    ----------
    event_id : (n,) int64
    n_folds : int

    Returns
    -------
    (n,) int64
        From 0 to ``n_folds`` - 1.
    """
    return (_mix(event_id.view(np.uint64) ^ _FOLD_SALT) % np.uint64(n_folds)).astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
