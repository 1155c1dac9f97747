"""A stand-in for DelphesHepMC3, for the plumbing alone: a detector that sees everything.

It reads HepMC3 text by the rules of Delphes' own reader, which differ from those of a library: an
event is complete once as many vertices and particles have come as its first line says. What it
writes says nothing about Delphes. Tests of the real program need the variable DELPHES.
"""

import os
import re
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import awkward as ak
import numpy as np

from hepflow.schema import COLLECTIONS
from hepflow.simulate.writer import write_events

BREAK, CRASH, HANG, SHORT, DIM, BLIND = (
    f"STAND_IN_{what}" for what in ("BREAK", "CRASH", "HANG", "SHORT", "DIM", "BLIND")
)
"""Variables: what goes wrong at a file whose name has the value in it.

It ends with an error, dies, hangs with its process id in a file, or writes half of the events; or
it finds leptons in one event out of four, or in none.
"""
_ALL = (BREAK, CRASH, HANG, SHORT, DIM, BLIND)
_NEUTRINOS = (12, 14, 16)
_NEUTRAL = (22, 111, 130, 310, 2112, 3122, 3322, 91, *_NEUTRINOS)


@dataclass
class Event:
    """One event: rows of (pdg, status, px, py, pz, E), and the vertex of each."""

    number: int
    vertices: int
    particles: int
    units: str = ""
    rows: list[tuple[float, ...]] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    positions: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """The condition of DelphesHepMC3Reader: the root vertex counts too."""
        return len(self.positions) == self.vertices + 1 and len(self.rows) == self.particles

    def final(self) -> np.ndarray:
        """Rows of pdg, px, py, pz, E, x, y, z, t of the particles of status 1."""
        kept = [
            (row[0], *row[2:], *self.positions[origin])
            for row, origin in zip(self.rows, self.origins, strict=True)
            if row[1] == 1
        ]
        return np.array(kept)


def read_as_delphes(path: Path) -> Iterator[Event]:
    """Yield the events of a file."""
    event = None
    for line in path.read_text().splitlines():
        words = line.split()
        if line.startswith("E "):
            event = Event(*map(int, words[1:4]))
        elif event is None:
            continue
        elif line.startswith("U "):
            event.units = " ".join(words[1:3])
        elif line.startswith("V "):
            place = line.partition("@")[2].split()
            event.positions[int(words[1])] = tuple(map(float, place)) or (0.0,) * 4
        elif line.startswith("P "):
            event.rows.append(tuple(map(float, (words[3], words[9], *words[4:8]))))
            event.origins.append(int(words[2]))
            event.positions.setdefault(int(words[2]), (0.0,) * 4)
        else:
            continue
        if event.ready:
            yield event
            event = None


def detect(events: list[Event], seed: int, every: int) -> dict[str, ak.Array]:
    """Return the collections: all visible particles, smeared, and no jets.

    There are leptons in every fourth event, or whatever ``every`` is; in none if it is 0.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[Mapping[str, np.ndarray]]] = {name: [] for name in COLLECTIONS}
    for number, event in enumerate(events):
        lucky = every > 0 and number % every == 0
        pdg, px, py, pz, _, x, y, z, _ = event.final().T
        pt = np.hypot(px, py) * rng.normal(1.0, 0.01, len(px))
        eta, phi = np.arcsinh(pz / np.maximum(np.hypot(px, py), 1e-9)), np.arctan2(py, px)
        kind, seen = np.abs(pdg).astype(int), np.abs(eta) < 4
        charge = np.where(np.isin(kind, (11, 13)), -1, 1) * np.sign(pdg)
        everything = {"PT": pt, "ET": pt, "Eta": eta, "Phi": phi, "PID": pdg, "Charge": charge}
        everything |= {"X": x, "Y": y, "Z": z}
        masks = {
            "EFlowTrack": seen & ~np.isin(kind, _NEUTRAL),
            "EFlowPhoton": seen & (kind == 22),
            "EFlowNeutralHadron": seen & np.isin(kind, (130, 310, 2112, 3122, 3322)),
            "Electron": seen & (kind == 11) & lucky,
            "MuonTight": seen & (kind == 13) & lucky,
            "Jet": np.zeros(len(pdg), bool),
        }
        for name, mask in masks.items():
            zero = np.zeros(len(pdg))
            columns = {one: everything.get(one, zero)[mask] for one in COLLECTIONS[name]}
            found[name].append(columns)
        found["MissingET"].append({"MET": np.ones(1), "Phi": np.zeros(1)})
    types = {"BTag": "uint32"}
    made = {}
    for name, fields in COLLECTIONS.items():
        columns = {
            one: np.concatenate([part[one] for part in found[name]]).astype(types.get(one, kind))
            for one, kind in fields.items()
        }
        counts = [len(next(iter(part.values()))) for part in found[name]]
        made[name] = ak.unflatten(ak.zip(columns), counts)
    return made


def install(folder: Path) -> Path:
    """Write the program into a folder, which is for the variable DELPHES."""
    program = folder / "DelphesHepMC3"
    root = Path(__file__).parents[2]
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from tests.support.stand_in_delphes import main\nsys.exit(main(*sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    return program


def main(card: str = "", output: str = "", *inputs: str) -> int:
    """Do what DelphesHepMC3 does with its arguments, as far as a caller can see."""
    if not inputs:
        print(" Usage: DelphesHepMC3 config_file output_file [input_file(s)]")
        return 1
    wrong = {what for what in _ALL if os.environ.get(what, "\n") in output}
    text = Path(card).read_text()
    seed = int(re.findall(r"^set RandomSeed \{(\d+)\}", text, re.MULTILINE)[-1])
    for name in re.findall(r"^\s*source (\S+)", text, re.MULTILINE):
        (Path(card).parent / name).read_text()
    for name in re.findall(r"^set ::\w+::PileUpFile \{(.*)\}", text, re.MULTILINE):
        Path(name).read_bytes()
    if Path(output).exists():
        print(f"** ERROR: can't create output file {output}", file=sys.stderr)
        return 1
    events = [event for name in inputs for event in read_as_delphes(Path(name))]
    print("** INFO: initializing module PileUpMerger\r** 50% processed\r", flush=True)
    if BREAK in wrong:
        Path(output).write_bytes(b"root, half of it")
        print("** ERROR: something is wrong in event 7", file=sys.stderr)
        return 1
    if CRASH in wrong:
        os.abort()
    if HANG in wrong:
        Path(os.environ["STAND_IN_PID"]).write_text(str(os.getpid()))
        time.sleep(600)
    if SHORT in wrong:  # as after a SIGINT
        events = events[: len(events) // 2]
    every = 0 if BLIND in wrong else 4 if DIM in wrong else 1
    write_events(Path(output), detect(events, seed, every), uuid.uuid4())
    return 0
