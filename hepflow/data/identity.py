"""Identity and split of an event: functions of the file's UUID and the entry only.

Neither the path, nor the partitioning, nor files added later can change them.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SPLIT_SALT = np.uint64(0x5851F42D4C957F2D)
_FOLD_SALT = np.uint64(0x14057B7EF767814F)


def event_ids(file_uuid: bytes, entries: np.ndarray) -> np.ndarray:
    """Return the identities of entries of one file, (n,) int64.

    They differ within a file by construction (the mixing is a bijection). For 54 million events of
    many files, the chance that any two are equal is 1e-4, as for any hash of 64 bits. The UUID is
    that in the header of the ROOT file: a copy or a move keeps it.
    """
    key = np.uint64(int.from_bytes(hashlib.blake2b(file_uuid, digest_size=8).digest(), "little"))
    with np.errstate(over="ignore"):
        return _mix(entries.astype(np.uint64) * _GOLDEN + key).view(np.int64)


def split_index(event_id: np.ndarray, fractions: Mapping[str, float]) -> np.ndarray:
    """Return the position of each event's split in ``fractions``, which add up to 1, (n,) int64."""
    uniform = _mix(event_id.view(np.uint64) ^ _SPLIT_SALT) / 2.0**64
    edges = np.cumsum(list(fractions.values()))
    return np.searchsorted(edges[:-1], uniform, side="right")


def fold_index(event_id: np.ndarray, n_folds: int) -> np.ndarray:
    """Return the fold of each event, from 0 and independent of its split, (n,) int64."""
    return (_mix(event_id.view(np.uint64) ^ _FOLD_SALT) % np.uint64(n_folds)).astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Apply SplitMix64's finaliser (Steele, Lea, Flood 2014), a bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
