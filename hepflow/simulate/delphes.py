"""Delphes as the detector: HepMC3 of the same generator -> DelphesHepMC3 with the user's card.

Of each file, some more events than needed are generated; if fewer than requested pass the trigger,
more are generated and Delphes runs again over all of them. Its output appears under the final name
once it has as many entries as there were events. The same settings give the same events, in a file
of another UUID, as ROOT draws that.
"""

import logging
import math
import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyhepmc
from pyhepmc import GenEvent

from hepflow.errors import DataError, HepflowError, MissingDependency
from hepflow.physics.selection import passes
from hepflow.reading.delphes import DelphesFile, Unreadable
from hepflow.simulate.delphes_card import Card
from hepflow.simulate.hepmc import to_hepmc, write_pileup
from hepflow.simulate.particles import Event, Particles, rotated
from hepflow.simulate.pool import load
from hepflow.simulate.processes import Process
from hepflow.simulate.sample import Sample, describe, start_process
from hepflow.system import processes
from hepflow.system.files import write_json
from hepflow.system.publishing import new_folder, whole
from hepflow.system.storage import make_folder, remove

log = logging.getLogger(__name__)

PROGRAM, FOLDER = "DelphesHepMC3", "DELPHES"
"""The program, and the variable with its folder if it is not on the PATH."""
EFFICIENCY = {"qcd": 0.45, "ttbar": 0.75, "wjets": 0.67}
"""Share of the generated events that pass, of the CMS Phase-II card."""
_MORE = 1.1  # events than these shares need
_TOO_FEW = 0.05  # of the requested events: no card for a lepton trigger
_LAST_LINES = 3


class Delphes(NamedTuple):
    """The program and the files that all jobs of a run use."""

    program: Path
    work: Path
    """Folder for the generated events, which the parent process removes."""
    pileup: Path | None
    """File of pile-up."""


def find_program() -> Path:
    """Return DelphesHepMC3, from the folder in the variable DELPHES or else from the PATH."""
    found = processes.program(PROGRAM, FOLDER)
    if found is None:
        where = f"the folder of the variable {FOLDER} ({os.environ.get(FOLDER, 'not set')})"
        advice = f"Install Delphes (https://delphes.github.io), and set {FOLDER} to its folder."
        raise MissingDependency(f"{PROGRAM} is neither on the PATH nor in {where}. {advice}")
    return found


def prepare(card: Card, program: Path, pool: Path) -> Delphes:
    """Return what the jobs share; make a file of pile-up from the pool if the card's is missing."""
    work = new_folder()
    if not card.merger or card.pileup is not None:
        return Delphes(program, work, card.pileup)
    made = work / "pool.pileup"
    events = load(pool).events
    write_pileup(made, events)
    text = "%s reads %s, which does not exist: pile-up comes from the pool of %s events"
    log.info(text, card.path, card.pileup_file, f"{len(events):,}")
    return Delphes(program, work, made)


def make_sample(delphes: Delphes, sample: Sample, progress: Callable[[int], None]) -> None:
    """Generate one file and run Delphes on it; report the selected events to ``progress``."""
    started, card = time.perf_counter(), sample.card
    assert card is not None, "the sample has no card"
    seed, pool, process, rng = start_process(sample)
    process.keep_records = True
    events = _events(process, pool.events, rng, sample.soft)
    settings: dict[str, object] = {"RandomSeed": 1 + seed % 900_000_000}
    if delphes.pileup is not None:
        settings[f"::{card.merger}::PileUpFile"] = delphes.pileup
    make_folder(sample.path.parent)
    wanted = math.ceil(_MORE * sample.target / EFFICIENCY[sample.name]) + 10
    inputs: list[Path] = []
    n_events = selected = 0
    with tempfile.TemporaryDirectory(dir=delphes.work) as folder, whole(sample.path) as draft:
        steering = card.copy_to(Path(folder), settings)
        while selected < sample.target:
            inputs.append(Path(folder) / f"events_{len(inputs)}.hepmc")
            with pyhepmc.open(inputs[-1], "w") as file:
                for event in islice(events, wanted - n_events):
                    file.write(event)
            n_events = wanted
            draft.unlink(missing_ok=True)  # Delphes replaces no file
            _run([delphes.program, steering, draft, *inputs], sample)
            identity, selected = _check(draft, n_events, sample)
            if selected < max(1, _TOO_FEW * sample.target):
                some = f"{selected} of {n_events:,} {sample.name} events pass the trigger"
                advice = "Choose another card, or lower its MeanPileUp"
                raise DataError(f"{card.path}: {some}, an isolated lepton. {advice}.")
            wanted = math.ceil(_MORE * n_events * sample.target / selected) + 10
        remove(sample.sidecar, flush=True)  # it describes the file before
    about = describe(sample, process, identity, seed, selected, n_events)
    about["requested"] = sample.target
    about["delphes"] = {
        "program": str(delphes.program),
        "version": _version(delphes.program),
        "card": str(card.path),
    }
    write_json(sample.sidecar, about | {"elapsed_s": round(time.perf_counter() - started, 2)})
    progress(sample.target)


def _events(
    process: Process, pool: Particles, rng: np.random.Generator, soft: float
) -> Iterator[GenEvent]:
    """Yield the generated events, each with its underlying event, without end."""
    number = 0
    for batch in process.batches():
        for record in batch.records:
            yield to_hepmc(number, record, list(_soft(rng, pool, soft)))
            number += 1


def _soft(rng: np.random.Generator, pool: Particles, mean: float) -> Iterator[Event]:
    """Yield the minimum-bias events of one underlying event, each rotated by a random angle."""
    for k in rng.integers(len(pool), size=rng.poisson(mean)):
        pdg, charge, momentum, vertex = pool.event(k)
        angle = rng.uniform(-np.pi, np.pi, 1)
        yield pdg, charge, rotated(momentum, angle), rotated(vertex, angle)


def _run(command: Sequence[Path], sample: Sample) -> None:
    """Run Delphes; an error has the end of its output. It ends with this process.

    It is in a session of its own, as after a Ctrl-C it would end well, with too few events.
    """
    output = command[1].with_suffix(".log")
    how = {"start_new_session": True, "preexec_fn": partial(processes.end_with, os.getpid())}
    with output.open("wb") as printed:
        streams = {"stdin": subprocess.DEVNULL, "stdout": printed, "stderr": subprocess.STDOUT}
        with (
            processes.terminated(),
            subprocess.Popen(command, **streams, **how) as process,  # type: ignore[call-overload]
        ):
            try:
                status = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                raise
    if status:
        ended = f"ended with status {status}"
        if status < 0:
            ended = f"was killed by {signal.Signals(-status).name}"
        text = output.read_bytes().decode(errors="replace").replace("\r", "\n")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        last = " / ".join(lines[-_LAST_LINES:])
        advice = "Finished files are kept: after a repair, run the same command again"
        raise HepflowError(f"{PROGRAM} {ended} for {sample.path.name}: {last}. {advice}.")


def _check(path: Path, n_events: int, sample: Sample) -> tuple[uuid.UUID, int]:
    """Return the file's UUID, and how many of its events pass the trigger; all must be there."""
    selected = 0
    try:
        with DelphesFile(str(path)) as file:
            if file.n_entries != n_events:
                found = f"{file.n_entries:,} of {n_events:,} events for {sample.path.name}"
                raise HepflowError(f"{PROGRAM} wrote {found}. Run the same command again.")
            for _, _, events in file.iterate(0, n_events):
                if isinstance(events, Unreadable):
                    raise events
                selected += int(passes(events).sum())
            return uuid.UUID(bytes=file.uuid), selected
    except Unreadable as error:
        raise HepflowError(f"{PROGRAM}'s output for {sample.path.name}: {error}") from error


def _version(program: Path) -> str:
    """Return what Delphes' file VERSION says; empty if there is none next to the program."""
    folder = program.resolve().parent
    files = [place / "VERSION" for place in (folder, folder.parent)]
    return next((file.read_text().strip() for file in files if file.is_file()), "")
