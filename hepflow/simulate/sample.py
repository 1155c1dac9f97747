"""One job: one class, one file. Its events depend neither on other jobs nor on their number."""

import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from hepflow.config.stages import SimulateConfig
from hepflow.physics.selection import passes
from hepflow.simulate.delphes_card import Card
from hepflow.simulate.detector import simulate
from hepflow.simulate.particles import SOFT_EVENTS
from hepflow.simulate.pool import Pool, load
from hepflow.simulate.processes import Process, make_process
from hepflow.simulate.writer import write_events
from hepflow.system import processes
from hepflow.system.files import read_json, write_json
from hepflow.system.storage import make_folder, remove

VERSION = 2
"""Increased when the same settings would give other events, so that older files are replaced."""
_NAMESPACE = uuid.UUID("6f1d4a52-2f0e-5f0c-9a53-0d6c1b6a7e11")
_load_pool = lru_cache(maxsize=1)(load)


@dataclass(frozen=True)
class Sample:
    """A file to write: ``target`` selected events of a class, and those rejected in between."""

    config: SimulateConfig
    name: str
    index: int
    target: int
    pool: Path
    pool_identity: str
    card: Card | None = None
    """Delphes' card, if it is the detector."""

    @property
    def path(self) -> Path:
        """The ROOT file."""
        return self.config.output / self.name / f"{self.name}_{self.index:04d}.root"

    @property
    def sidecar(self) -> Path:
        """The JSON file next to it."""
        return self.path.with_suffix(".json")

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the events except their number: more begin with the same ones."""
        config = self.config
        settings: dict[str, Any] = {"version": VERSION, "class": self.name, "index": self.index}
        settings |= {"seed": config.seed, "pileup": config.pileup, "beam_spot": config.beam_spot}
        settings |= {"underlying_event": config.underlying_event, "pool": self.pool_identity}
        if self.card is not None:
            settings |= {"pileup": self.card.conditions, "card": self.card.identity}
        return settings | ({"qcd_quarks": config.qcd_quarks} if self.name == "qcd" else {})

    @property
    def soft(self) -> float:
        """Mean number of minimum-bias events that are the underlying event."""
        return 0.0 if self.config.underlying_event == "mpi" else SOFT_EVENTS

    @property
    def about(self) -> dict[str, Any]:
        """Content of the sidecar; empty if there is none."""
        return read_json(self.sidecar) if self.sidecar.is_file() else {}

    @property
    def requested(self) -> int:
        """Selected events that the file was made for: Delphes writes a few more."""
        about = self.about
        return int(about.get("requested", about["selected"]))

    @property
    def same_settings(self) -> bool:
        """True for a file of any length with these settings."""
        return bool(self.about.get("settings") == self.settings)

    @property
    def up_to_date(self) -> bool:
        """True for a file with these settings and this number of events."""
        same = self.path.is_file() and self.same_settings
        return same and self.requested == self.target


def start_process(sample: Sample) -> tuple[int, Pool, Process, np.random.Generator]:
    """Return the seed of a job, its pool, its process, and a generator for the rest."""
    config = sample.config
    text = f"{sample.name}/{sample.index}/{config.seed}"
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    mpi = config.underlying_event == "mpi"
    pool, rng = _load_pool(sample.pool), np.random.default_rng(seed)
    process = make_process(sample.name, seed, mpi, config.qcd_quarks, pool.decays)
    return seed, pool, process, rng


def make_sample(sample: Sample, progress: Callable[[int], None]) -> None:
    """Generate, detect and write one file; report newly selected events to ``progress``."""
    start, config = time.perf_counter(), sample.config
    seed, pool, process, rng = start_process(sample)
    parts: list[dict[str, ak.Array]] = []
    selected = 0
    batches = process.batches()
    while selected < sample.target:
        made = simulate(
            rng, next(batches), pool.events, config.pileup, sample.soft, config.beam_spot
        )
        chosen = np.flatnonzero(passes(ak.zip(made, depth_limit=1)))[: sample.target - selected]
        selected += len(chosen)
        progress(len(chosen))
        if selected == sample.target:  # the file ends with the last selected event
            made = {name: part[: chosen[-1] + 1] for name, part in made.items()}
        parts.append(made)
    collections = {name: ak.concatenate([part[name] for part in parts]) for name in parts[0]}
    identity = uuid.uuid5(_NAMESPACE, repr(sorted(sample.settings.items())))
    make_folder(sample.path.parent)
    remove(sample.sidecar, flush=True)  # it describes the file before
    write_events(sample.path, collections, identity)
    about = describe(sample, process, identity, seed, selected, len(collections["Jet"]))
    write_json(sample.sidecar, about | {"elapsed_s": round(time.perf_counter() - start, 2)})


def describe(
    sample: Sample, process: Process, identity: uuid.UUID, seed: int, selected: int, written: int
) -> dict[str, Any]:
    """Return the sidecar of a file with this number of events written, and selected among them."""
    generated_pb, hard = process.cross_section_pb(), process.vetoes.hard
    return {
        "settings": sample.settings,
        "file": sample.path.name,
        "uuid": str(identity),
        "selected": selected,
        "written": written,
        "generated": {"hard": hard, "showered": process.showered, "kept": process.kept},
        "filter_efficiency": process.weight / hard,
        "cross_section_pb": {
            "generated": generated_pb,
            "selected": generated_pb * selected / written,
        },
        "job_seed": seed,
        "versions": processes.versions(("hepflow", "pythia8mc", "fastjet", "uproot")),
    }
