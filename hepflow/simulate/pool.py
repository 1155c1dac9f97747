"""The pool that every job draws from: minimum-bias events, and decays of heavy hadrons.

It is generated once and kept in a .npz file in the output folder.
"""

import io
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from hepflow.data.provenance import digest
from hepflow.errors import DataError
from hepflow.simulate.decays import BOTTOM, CHARM, Library, join
from hepflow.simulate.particles import Particles
from hepflow.simulate.pythia import decay_library, minimum_bias
from hepflow.system import seal
from hepflow.system.publishing import put
from hepflow.system.storage import read_bytes

log = logging.getLogger(__name__)

VERSION = 1
_COMMON, _RARE = 8000, 500
_RARE_SPECIES = (541, 5132, 5232, 5332, 4132, 4232, 4332)


class Pool(NamedTuple):
    """Minimum-bias events, decays, and the identity of both."""

    identity: str
    events: Particles
    decays: Library


def identity_of(n_events: int, seed: int) -> str:
    """Return the identity of the pool that `make_pool` would return."""
    return digest("pool", VERSION, n_events, seed)


def ensure_pool(path: Path, n_events: int, seed: int) -> None:
    """Write a pool unless there is one."""
    if path.is_file():
        log.info("%s is up to date: a minimum-bias pool", path)
        return
    start = time.perf_counter()
    save(path, make_pool(n_events, seed))
    seconds = time.perf_counter() - start
    log.info("wrote %d minimum-bias events to the pool %s in %.0f s", n_events, path, seconds)


def make_pool(n_events: int, seed: int) -> Pool:
    """Generate minimum-bias events, and decays of every weakly decaying heavy hadron."""
    parts = []
    for k, (species, leptonic) in enumerate(((BOTTOM + CHARM, False), (BOTTOM, True))):
        common = [kind for kind in species if kind not in _RARE_SPECIES]
        rare = [kind for kind in species if kind in _RARE_SPECIES]
        parts.append(decay_library(common, _COMMON, seed + 2 * k + 1, leptonic))
        parts.append(decay_library(rare, _RARE, seed + 2 * k + 2, leptonic))
    return Pool(identity_of(n_events, seed), minimum_bias(n_events, seed), join(parts))


def save(path: Path, pool: Pool) -> None:
    """Write a pool whole or not at all, in single precision: finer than any detector."""
    arrays: dict[str, Any] = {"identity": np.array(pool.identity)}
    for group, columns in (("events", vars(pool.events)), ("decays", pool.decays._asdict())):
        for name, column in columns.items():
            single = column.astype(np.float32) if column.dtype == np.float64 else column
            arrays[f"{group}_{name}"] = single
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    put(path, seal.sealed_zip(content.getvalue()))


def load(path: Path) -> Pool:
    """Read a pool; raise a DataError if the file is missing or not a pool."""
    try:
        groups: dict[str, dict[str, np.ndarray]] = {"events": {}, "decays": {}}
        content = read_bytes(path)
        seal.check(content, path, "Delete it, and run `hepflow simulate` without --input.")
        with np.load(io.BytesIO(content)) as file:
            columns = dict(file)
        identity = str(columns.pop("identity"))
        for key, column in columns.items():
            group, _, name = key.partition("_")
            double = column.astype(np.float64) if column.dtype == np.float32 else column
            groups[group][name] = double
        return Pool(identity, Particles(**groups["events"]), Library(**groups["decays"]))
    except (OSError, KeyError, ValueError, TypeError, EOFError, BadZipFile) as error:
        advice = "Leave out --input to generate one."
        raise DataError(f"{path}: not a minimum-bias pool ({error}). {advice}") from error
