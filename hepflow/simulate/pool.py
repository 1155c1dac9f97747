"""The pool that every job draws from: minimum-bias events, and decays of heavy hadrons.

It is generated once, and kept in the user's cache in a .npz file named by its identity. Samples of
all seeds share it, as runs of Delphes share a file of minimum-bias events. Multiplicities of these
vary by 124 %, so their mean is known to 1 % from 16,000 of them, and to 6 % from 500.
"""

import io
import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from hepflow.data.provenance import digest
from hepflow.errors import DataError, HepflowError
from hepflow.simulate.decays import BOTTOM, CHARM, Library, join
from hepflow.simulate.particles import Particles
from hepflow.simulate.pythia import decay_library, minimum_bias
from hepflow.system import processes, seal
from hepflow.system.publishing import put
from hepflow.system.storage import read_bytes, user_cache
from hepflow.system.terminal import counted

log = logging.getLogger(__name__)

VERSION = 2
SEED = 1
_COMMON, _RARE = 8000, 500
_RARE_SPECIES = (541, 5132, 5232, 5332, 4132, 4232, 4332)
_CHUNK = 1000  # events per seed, whatever the number of processes


class Pool(NamedTuple):
    """Minimum-bias events, decays, and the identity of both."""

    identity: str
    events: Particles
    decays: Library


def identity_of(n_events: int, seed: int) -> str:
    """Return the identity of the pool that `make_pool` would return."""
    return digest("pool", VERSION, n_events, seed)


def place(output: Path, identity: str) -> Path:
    """Return the path of a pool: in the user's cache, or in the output if there is none."""
    name = f"pool-{identity}.npz"
    try:
        return user_cache("pools") / name
    except (OSError, RuntimeError, DataError):  # no home, or one that is not writable
        return output / f".{name}"


def ensure_pool(path: Path, n_events: int, seed: int, jobs: int) -> None:
    """Write a pool unless there is one."""
    if path.is_file():
        again = "It is generated again."
        try:
            if seal.check_file(path, again):
                log.info("%s is up to date: a minimum-bias pool", path)
                return
            log.warning("%s: damaged: it has no checksum. %s", path, again)
        except DataError as error:
            log.warning("%s", error)
    start = time.perf_counter()
    log.info("generating %s for a pool, once", counted(n_events, "minimum-bias event"))
    save(path, make_pool(n_events, seed, jobs))
    log.info("wrote the pool %s in %.0f s", path, time.perf_counter() - start)


def make_pool(n_events: int, seed: int, jobs: int = 1) -> Pool:
    """Generate minimum-bias events, and decays of every weakly decaying heavy hadron.

    The events do not depend on the number of ``jobs``, parallel processes.
    """
    counts = [min(_CHUNK, n_events - first) for first in range(0, n_events, _CHUNK)]
    seeds = [seed + _CHUNK + i for i in range(len(counts))]
    if jobs > 1 and len(counts) > 1:
        chunks = _in_processes(counts, seeds, min(jobs, len(counts)))
    else:
        chunks = [minimum_bias(*chunk) for chunk in zip(counts, seeds, strict=True)]
    common = [kind for kind in BOTTOM + CHARM if kind not in _RARE_SPECIES]
    parts = []
    for k, leptonic in enumerate((False, True)):  # a third of the decays is leptonic
        n_common, n_rare = (1 + k) * _COMMON, (1 + k) * _RARE
        parts.append(decay_library(common, n_common, seed + 2 * k + 1, leptonic))
        parts.append(decay_library(_RARE_SPECIES, n_rare, seed + 2 * k + 2, leptonic))
    return Pool(identity_of(n_events, seed), Particles.joined(chunks), join(parts))


def _in_processes(counts: list[int], seeds: list[int], jobs: int) -> list[Particles]:
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, context, processes.begin, (int,))
    try:
        return list(executor.map(minimum_bias, counts, seeds))
    except BrokenProcessPool as error:
        what = "a process that generates minimum-bias events died (out of memory, or a crash in"
        raise HepflowError(f"{what} Pythia). Run the command again, with fewer --jobs.") from error
    finally:
        executor.shutdown(cancel_futures=True)


def save(path: Path, pool: Pool) -> None:
    """Write a pool whole or not at all, in single precision: finer than any detector."""
    arrays: dict[str, Any] = {"identity": np.array(pool.identity)}
    for group, columns in (("events", vars(pool.events)), ("decays", pool.decays._asdict())):
        for name, column in columns.items():
            single = column.astype(np.float32) if column.dtype == np.float64 else column
            arrays[f"{group}_{name}"] = single
    content = io.BytesIO()
    np.savez(content, **arrays)  # compression takes 7 s, and a fifth off its 50 MB
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
            is_decay = group == "decays" and column.dtype == np.float32
            groups[group][name] = column.astype(np.float64) if is_decay else column
        return Pool(identity, Particles(**groups["events"]), Library(**groups["decays"]))
    except (OSError, KeyError, ValueError, TypeError, EOFError, BadZipFile) as error:
        advice = "Leave out --input to generate one."
        raise DataError(f"{path}: not a minimum-bias pool ({error}). {advice}") from error
