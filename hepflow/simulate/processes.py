"""The hard processes at 13 TeV, each a stream of batches of events with a lepton that may pass the trigger.

- ``ttbar``: gg, qqbar -> t tbar with at least one W -> e, mu or tau.
- ``wjets``: qqbar' -> W -> e, mu or tau, jets from the parton shower (the first emission corrected to the matrix element).
- ``qcd``: 2 -> 2 scattering with a heavy quark, its hadrons decayed again and again until a lepton is isolated (see ``decays.py``).

The promise: the same seed gives the same stream, however it is cut into batches afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pythia8mc

from hepflow.simulate.decays import BOTTOM, CHARM, Candidate, Library, products, try_decays
from hepflow.simulate.particles import Events, Particles, offsets_of, pt_eta_phi, take
from hepflow.simulate.pythia import Record, start

BATCH = 50
QCD_BATCH = 100
# generator filter of ttbar and wjets: a lepton that the trigger (pT > 23 GeV) may see
LEPTON_MIN_PT, LEPTON_MAX_ETA = 20.0, 4.0
# qcd: scattering and quark pT; a lepton of 22 GeV hardly comes from softer quarks
QCD_MIN_PT_HAT, QUARK_MIN_PT = 30.0, 30.0
TRIES = {"b": 10, "bc": 30}

_MPI_OFF = ("PartonLevel:MPI = off",)
_TOP = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")
_W = ("WeakSingleBoson:ffbar2W = on", "24:onMode = off", "24:onIfAny = 11 13 15")
_LEPTONS = (11, 13, 15)


@dataclass
class Counts:
    """What a process has made so far.

    ``hard``: scatterings drawn; ``showered``: those past the vetoes, fully generated; ``kept``: events handed out; ``weight``: the sum over
    the showered of their chance to be kept in nature.
    """

    hard: int = 0
    showered: int = 0
    kept: int = 0
    weight: float = 0.0


class Process(Protocol):
    """A stream of events, with its counts and cross-section."""

    counts: Counts

    def batches(self) -> Iterator[Events]:
        """Endless batches of kept events, none empty."""

    def cross_section_pb(self) -> float:
        """Leading-order cross-section of the kept events, filters included."""


class _LeptonHooks(pythia8mc.UserHooks):
    """Vetoes hard events without a charged lepton, and showered ones without a lepton hard enough to pass."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def canVetoProcessLevel(self) -> bool:  # noqa: N802 - Pythia's name
        return True

    def doVetoProcessLevel(self, process: pythia8mc.Event) -> bool:  # noqa: N802
        self._counts.hard += 1
        return not any(process[i].idAbs() in _LEPTONS for i in range(5, process.size()))

    def canVetoPartonLevel(self) -> bool:  # noqa: N802
        return True

    def doVetoPartonLevel(self, event: pythia8mc.Event) -> bool:  # noqa: N802
        """Leptons are final here, photon radiation included; a tau's is always softer than the tau."""
        for i in range(event.size() - 1, 0, -1):
            entry = event[i]
            if entry.isFinal() and entry.idAbs() in _LEPTONS and entry.pT() > LEPTON_MIN_PT:
                return False
        return True


class _HeavyQuarkHooks(pythia8mc.UserHooks):
    """Vetoes scatterings without a heavy quark, and showered ones without a hard enough one."""

    def __init__(self, counts: Counts, flavours: tuple[int, ...]) -> None:
        super().__init__()
        self._counts, self._flavours = counts, flavours

    def canVetoProcessLevel(self) -> bool:  # noqa: N802
        return True

    def doVetoProcessLevel(self, process: pythia8mc.Event) -> bool:  # noqa: N802
        self._counts.hard += 1
        return process[5].idAbs() not in self._flavours and process[6].idAbs() not in self._flavours

    def canVetoPartonLevel(self) -> bool:  # noqa: N802
        return True

    def doVetoPartonLevel(self, event: pythia8mc.Event) -> bool:  # noqa: N802
        for i in range(event.size() - 1, 0, -1):
            entry = event[i]
            if entry.idAbs() in self._flavours and entry.isFinal() and entry.pT() > QUARK_MIN_PT:
                return False
        return True


class LeptonicProcess:
    """ttbar or W + jets."""

    def __init__(self, settings: tuple[str, ...], seed: int) -> None:
        self.counts = Counts()
        self._hooks = _LeptonHooks(self.counts)
        self._pythia = start(settings, seed, self._hooks)

    def batches(self) -> Iterator[Events]:
        """See ``Process``."""
        while True:
            record = Record(self._pythia.nextBatch(BATCH))
            particles, heavy = record.particles(self._pythia), record.heavy()
            keep = has_lepton(particles)
            self.counts.showered += len(particles)
            self.counts.kept += int(keep.sum())
            self.counts.weight += float(keep.sum())
            if keep.any():
                yield Events(
                    pick(particles, keep),
                    [rows for rows, kept in zip(heavy, keep, strict=True) if kept],
                )

    def cross_section_pb(self) -> float:
        """See ``Process``."""
        return _cross_section_pb(self._pythia, self.counts)


class MultijetProcess:
    """QCD with heavy quarks, decayed until a lepton is isolated."""

    def __init__(
        self, settings: tuple[str, ...], seed: int, quarks: Literal["b", "bc"], library: Library
    ) -> None:
        self.counts = Counts()
        self._hooks = _HeavyQuarkHooks(self.counts, (5,) if quarks == "b" else (4, 5))
        self._held = BOTTOM if quarks == "b" else BOTTOM + CHARM
        self._library, self._force, self._tries = library, quarks == "b", TRIES[quarks]
        stable = [f"{kind}:mayDecay = off" for kind in self._held]
        hard = ["HardQCD:gg2bbbar", "HardQCD:qqbar2bbbar", "HardQCD:qg2qg", "HardQCD:qq2qq"]
        hard += ["HardQCD:gg2ccbar", "HardQCD:qqbar2ccbar"] if quarks == "bc" else []
        on = [f"{name} = on" for name in hard]
        self._pythia = start(
            (*settings, *on, f"PhaseSpace:pTHatMin = {QCD_MIN_PT_HAT}", *stable), seed, self._hooks
        )
        self._rng = np.random.default_rng([seed, 1])

    def batches(self) -> Iterator[Events]:
        """See ``Process``."""
        while True:
            record = Record(self._pythia.nextBatch(QCD_BATCH))
            particles, heavy = record.particles(self._pythia), record.heavy()
            kept = [(self._decay(*particles.event(i)), heavy[i]) for i in range(len(particles))]
            self.counts.showered += len(particles)
            events = [(event, rows) for event, rows in kept if event is not None]
            self.counts.kept += len(events)
            if events:
                yield Events(_join([event for event, _ in events]), [rows for _, rows in events])

    def _decay(
        self, pdg: np.ndarray, charge: np.ndarray, momentum: np.ndarray, vertex: np.ndarray
    ) -> tuple[np.ndarray, ...] | None:
        """The event with its heavy hadrons decayed and a lepton isolated, if a try led to one."""
        held = np.isin(np.abs(pdg), self._held)
        hadrons, born = momentum[held], vertex[held]
        visible = np.stack(pt_eta_phi(momentum[~held]), axis=1)
        passed, probability, decay, rotation = try_decays(
            self._rng,
            Candidate(),
            self._library,
            self._tries,
            self._force,
            pdg[held],
            hadrons,
            visible,
        )
        self.counts.weight += probability
        if not passed:
            return None
        made = products(self._library, decay, rotation, pdg[held], hadrons, born)
        rest = (pdg[~held], charge[~held], momentum[~held], vertex[~held])
        return tuple(np.concatenate(pair) for pair in zip(rest, made, strict=True))

    def cross_section_pb(self) -> float:
        """See ``Process``."""
        return _cross_section_pb(self._pythia, self.counts)


def make_process(
    name: str, seed: int, mpi: bool, quarks: Literal["b", "bc"], library: Library
) -> Process:
    """The process of a class.

    Parameters
    ----------
    name : str
        ttbar, wjets or qcd.
    seed : int
    mpi : bool
        Whether Pythia adds multi-parton interactions.
    quarks : "b" or "bc"
        Heavy quarks of qcd.
    library : Library
        Decays for qcd.
    """
    settings = () if mpi else _MPI_OFF
    if name == "qcd":
        return MultijetProcess(settings, seed, quarks, library)
    return LeptonicProcess(settings + {"ttbar": _TOP, "wjets": _W}[name], seed)


def has_lepton(particles: Particles) -> np.ndarray:
    """(events,) mask: an electron or a muon with pT > 20 GeV and |eta| < 4."""
    pt, eta, _ = pt_eta_phi(particles.momentum)
    good = (
        np.isin(np.abs(particles.pdg), (11, 13))
        & (pt > LEPTON_MIN_PT)
        & (np.abs(eta) < LEPTON_MAX_ETA)
    )
    running = np.concatenate([[0], np.cumsum(good)])
    return np.diff(running[particles.offsets]) > 0


def pick(particles: Particles, keep: np.ndarray) -> Particles:
    """The events of which the (events,) mask is true."""
    counts = np.diff(particles.offsets)
    chosen = take(particles, np.repeat(keep, counts))
    return Particles(
        offsets_of(counts[keep]), chosen.pdg, chosen.charge, chosen.momentum, chosen.vertex
    )


def _join(events: list[tuple[np.ndarray, ...]]) -> Particles:
    """Particles from events of (pdg, charge, momentum, vertex)."""
    pdg, charge, momentum, vertex = (np.concatenate(column) for column in zip(*events, strict=True))
    return Particles(
        offsets_of(np.array([len(event[0]) for event in events])), pdg, charge, momentum, vertex
    )


def _cross_section_pb(pythia: pythia8mc.Pythia, counts: Counts) -> float:
    """Pythia's own is that past its vetoes, in mb; what the filters after it keep is ``weight``."""
    return pythia.infoPython().sigmaGen() * 1e9 * counts.weight / max(counts.showered, 1)
