"""What every job draws from: minimum-bias events, and decays of heavy hadrons. Made once, kept in one .npz file beside the output."""

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hepflow.data.provenance import digest
from hepflow.errors import DataError
from hepflow.simulate.decays import BOTTOM, CHARM, Library, join
from hepflow.simulate.particles import Particles
from hepflow.simulate.pythia import decay_library, minimum_bias
from hepflow.system.files import whole

log = logging.getLogger(__name__)

VERSION = 1
_COMMON, _RARE = 8000, 500
_RARE_SPECIES = (541, 5132, 5232, 5332, 4132, 4232, 4332)
_PARTICLE_FIELDS = ("offsets", "pdg", "charge", "momentum", "vertex")


class Pool(NamedTuple):
    """Minimum-bias events, decays, and the identity of both."""

    identity: str
    events: Particles
    decays: Library


def identity_of(n_events: int, seed: int) -> str:
    """Identity of the pool that these would make."""
    return digest("pool", VERSION, n_events, seed)


def ensure_pool(path: Path, n_events: int, seed: int) -> None:
    """Make a pool where there is none."""
    if path.is_file():
        log.info("%s is up to date: a minimum-bias pool", path)
        return
    start = time.perf_counter()
    pool = make_pool(n_events, seed)
    save(path, pool)
    log.info(
        "made a pool of %d minimum-bias events in %.0f s: %s",
        n_events,
        time.perf_counter() - start,
        path,
    )


def make_pool(n_events: int, seed: int) -> Pool:
    """Generate minimum-bias events, and decays of every weakly decaying heavy hadron.

    Parameters
    ----------
    n_events : int
    seed : int
    """
    groups = [
        (species, leptonic) for species, leptonic in ((BOTTOM + CHARM, False), (BOTTOM, True))
    ]
    parts = []
    for k, (species, leptonic) in enumerate(groups):
        common = tuple(kind for kind in species if kind not in _RARE_SPECIES)
        rare = tuple(kind for kind in species if kind in _RARE_SPECIES)
        parts.append(decay_library(common, _COMMON, seed + 2 * k + 1, leptonic))
        parts.append(decay_library(rare, _RARE, seed + 2 * k + 2, leptonic))
    return Pool(identity_of(n_events, seed), minimum_bias(n_events, seed), join(parts))


def save(path: Path, pool: Pool) -> None:
    """Write a pool whole or not at all."""
    arrays: dict[str, Any] = {
        f"events_{name}": _narrow(getattr(pool.events, name)) for name in _PARTICLE_FIELDS
    }
    arrays |= {f"decays_{name}": _narrow(value) for name, value in pool.decays._asdict().items()}
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, identity=np.array(pool.identity), **arrays)


def load(path: Path) -> Pool:
    """Read a pool.

    Raises
    ------
    DataError
        The file is missing or not a pool.
    """
    try:
        with np.load(path) as file:
            events = Particles(
                **{name: _widen(file[f"events_{name}"]) for name in _PARTICLE_FIELDS}
            )
            decays = Library(**{name: _widen(file[f"decays_{name}"]) for name in Library._fields})
            return Pool(str(file["identity"]), events, decays)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not a minimum-bias pool ({error}). Leave --input out to have one made."
        ) from error


def _narrow(array: np.ndarray) -> np.ndarray:
    """Half the bytes on disk: single precision is finer than any detector."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _widen(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array
