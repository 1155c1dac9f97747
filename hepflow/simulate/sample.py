"""One job: one class, one file. The job alone says what comes out, so that neither the other jobs nor their number can."""

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np

from hepflow.physics.selection import passes
from hepflow.simulate.detector import simulate
from hepflow.simulate.pileup import SOFT_EVENTS
from hepflow.simulate.pool import Pool, load
from hepflow.simulate.processes import Process, make_process
from hepflow.simulate.writer import write_events
from hepflow.system import processes
from hepflow.system.files import read_json, write_json

VERSION = 1
"""Raised when the same settings would give other events, so that older files are made anew."""
_NAMESPACE = uuid.UUID("6f1d4a52-2f0e-5f0c-9a53-0d6c1b6a7e11")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A file to make: ``target`` selected events of class ``name`` and those rejected on the way."""

    name: str
    index: int
    target: int
    seed: int
    pileup: float
    underlying_event: Literal["overlay", "mpi"]
    qcd_quarks: Literal["b", "bc"]
    pool: Path
    pool_identity: str
    folder: Path

    @property
    def path(self) -> Path:
        """The ROOT file."""
        return self.folder / self.name / f"{self.name}_{self.index:04d}.root"

    @property
    def sidecar(self) -> Path:
        """The JSON file beside it."""
        return self.path.with_suffix(".json")

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the events, but for how many there are: more of them begin with the same."""
        settings = {
            "version": VERSION,
            "class": self.name,
            "index": self.index,
            "seed": self.seed,
            "pileup": self.pileup,
            "underlying_event": self.underlying_event,
            "pool": self.pool_identity,
        }
        return settings | ({"qcd_quarks": self.qcd_quarks} if self.name == "qcd" else {})

    @property
    def up_to_date(self) -> bool:
        """Whether the file is there, made with these settings, and as long as it is to be."""
        return (
            self.path.is_file()
            and self.made_alike
            and bool(read_json(self.sidecar)["selected"] == self.target)
        )

    @property
    def made_alike(self) -> bool:
        """Whether the file, of whatever length, was made with these settings."""
        return self.sidecar.is_file() and bool(read_json(self.sidecar)["settings"] == self.settings)


def make_sample(sample: Sample, progress: Callable[[int], None]) -> None:
    """Generate, detect and write one file.

    Parameters
    ----------
    sample : Sample
    progress : callable
        Told the number of events selected since it was last called.
    """
    start = time.perf_counter()
    text = f"{sample.name}/{sample.index}/{sample.seed}"
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    pool = _load_pool(sample.pool)
    process = make_process(
        sample.name, seed, sample.underlying_event == "mpi", sample.qcd_quarks, pool.decays
    )
    collections = _generate(sample, process, pool, np.random.default_rng(seed), progress)
    identity = uuid.uuid5(_NAMESPACE, repr(sorted(sample.settings.items())))
    sample.path.parent.mkdir(parents=True, exist_ok=True)
    sample.sidecar.unlink(missing_ok=True)  # it vouches for the file of before
    write_events(sample.path, collections, identity)
    written, cross_section = len(collections["Jet"]), process.cross_section_pb()
    about = {
        "settings": sample.settings,
        "file": sample.path.name,
        "uuid": str(identity),
        "selected": sample.target,
        "written": written,
        "generated": {
            "hard": process.counts.hard,
            "showered": process.counts.showered,
            "kept": process.counts.kept,
        },
        "filter_efficiency": process.counts.weight / process.counts.hard,
        "cross_section_pb": {
            "generated": cross_section,
            "selected": cross_section * sample.target / written,
        },
        "job_seed": seed,
        "versions": processes.versions(("hepflow", "pythia8mc", "fastjet", "uproot")),
        "elapsed_s": round(time.perf_counter() - start, 2),
    }
    write_json(sample.sidecar, about)


def _generate(
    sample: Sample,
    process: Process,
    pool: Pool,
    rng: np.random.Generator,
    progress: Callable[[int], None],
) -> dict[str, ak.Array]:
    """Events up to the last one selected that is wanted, as Delphes collections."""
    soft = 0.0 if sample.underlying_event == "mpi" else SOFT_EVENTS
    parts: list[dict[str, ak.Array]] = []
    selected = 0
    for events in process.batches():
        made = simulate(rng, events, pool.events, sample.pileup, soft)
        places = np.flatnonzero(passes(ak.zip(made, depth_limit=1)))[: sample.target - selected]
        selected += len(places)
        progress(len(places))
        if selected == sample.target:
            parts.append({name: part[: places[-1] + 1] for name, part in made.items()})
            break
        parts.append(made)
    return {name: ak.concatenate([part[name] for part in parts]) for name in parts[0]}


@lru_cache(maxsize=1)
def _load_pool(path: Path) -> Pool:
    return load(path)
