"""The hard processes at 13 TeV, each a stream of batches of events with a lepton that may pass.

- ``ttbar``: gg, qqbar -> t tbar with at least one W -> e, mu or tau.
- ``wjets``: qqbar' -> W -> e, mu or tau; jets come from the parton shower, with the first emission
  corrected to the matrix element.
- ``qcd``: 2 -> 2 scattering with a heavy quark, its hadrons decayed many times until a lepton is
  isolated (see ``decays.py``).

The same seed gives the same stream, whatever the size of the files that it is cut into.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import pythia8mc

from hepflow.physics.skim import LEPTON_PT
from hepflow.simulate.decays import BOTTOM, CHARM, Candidate, Library, products, try_decays
from hepflow.simulate.particles import Event, Events, Particles, pt_eta_phi
from hepflow.simulate.pythia import EventRecord, start

# Generator filter of ttbar and wjets. The detector smears pT by 1-3 %, so a lepton 3 GeV below the
# trigger's cut practically never passes.
LEPTON_MIN_PT, LEPTON_MAX_ETA = LEPTON_PT - 3.0, 4.0
# qcd: scattering and quark pT; softer quarks rarely give a lepton of 22 GeV
QCD_MIN_PT_HAT, QUARK_MIN_PT = 30.0, 30.0
TRIES = 24  # decays per event, if they are natural: a tenth of the accepted events use up theirs

_TOP = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")
_NONE = np.zeros(0, np.int64)
_W = ("WeakSingleBoson:ffbar2W = on", "24:onMode = off", "24:onIfAny = 11 13 15")


class _Vetoes(pythia8mc.UserHooks):
    """Vetoes hard events without the wanted particles, and showered ones without a hard one."""

    def __init__(self, wanted: tuple[int, ...], min_pt: float) -> None:
        super().__init__()
        self.hard, self._wanted, self._min_pt = 0, wanted, min_pt

    def canVetoProcessLevel(self) -> bool:  # noqa: N802 - Pythia's name
        return True

    def doVetoProcessLevel(self, process: pythia8mc.Event) -> bool:  # noqa: N802
        self.hard += 1
        return not any(process[i].idAbs() in self._wanted for i in range(5, process.size()))

    def canVetoPartonLevel(self) -> bool:  # noqa: N802
        return True

    def doVetoPartonLevel(self, event: pythia8mc.Event) -> bool:  # noqa: N802
        """Leptons are final here, photon radiation included; a tau's is softer than the tau."""
        for i in range(event.size() - 1, 0, -1):
            entry = event[i]
            if entry.isFinal() and entry.idAbs() in self._wanted and entry.pT() > self._min_pt:
                return False
        return True


class Process(ABC):
    """A stream of events."""

    batch: int
    held: tuple[int, ...] = ()  # species of hadrons that Pythia leaves to the library

    def __init__(
        self, settings: Sequence[str], seed: int, wanted: tuple[int, ...], min_pt: float
    ) -> None:
        self.keep_records = False  # in `Events.records`
        self.showered, self.kept = 0, 0  # events fully generated, past the vetoes, and yielded
        self.weight = 0.0  # sum over the showered of their probability to be kept in nature
        self.vetoes = _Vetoes(wanted, min_pt)
        self._pythia = start(settings, seed, self.vetoes)

    @abstractmethod
    def _accept(self, event: Event) -> tuple[Event | None, float, np.ndarray]:
        """Return the event to keep, if any, and its probability to be kept in nature.

        Last come the numbers of products of its held hadrons, which are the end of the event.
        """

    def batches(self) -> Iterator[Events]:
        """Yield batches of kept events without end; none is empty."""
        while True:
            record = EventRecord(self._pythia.nextBatch(self.batch))
            particles, heavy = record.particles(self._pythia), record.heavy()
            self.showered += len(particles)
            events, labels, records = [], [], []
            for i, quarks in enumerate(heavy):
                event, probability, counts = self._accept(particles.event(i))
                self.weight += probability
                if event is not None:
                    events.append(event)
                    labels.append(quarks)
                    if self.keep_records:
                        made = tuple(column[len(column) - counts.sum() :] for column in event)
                        records.append(record.whole(i, np.array(self.held), counts, made))
            self.kept += len(events)
            if events:
                yield Events(Particles.of(events), labels, records)

    def cross_section_pb(self) -> float:
        """Return the leading-order cross-section of the kept events, filters included."""
        past_vetoes = self._pythia.infoPython().sigmaGen() * 1e9  # from mb
        return past_vetoes * self.weight / max(self.showered, 1)


class LeptonicProcess(Process):
    """ttbar or W + jets: keeps events with an electron or a muon within the generator filter."""

    batch = 50

    def __init__(self, settings: Sequence[str], seed: int) -> None:
        super().__init__(settings, seed, (11, 13, 15), LEPTON_MIN_PT)

    def _accept(self, event: Event) -> tuple[Event | None, float, np.ndarray]:
        pdg, _, momentum, _ = event
        pt, eta, _ = pt_eta_phi(momentum[np.isin(np.abs(pdg), (11, 13))])
        passes = bool(np.any((pt > LEPTON_MIN_PT) & (np.abs(eta) < LEPTON_MAX_ETA)))
        return (event, 1.0, _NONE) if passes else (None, 0.0, _NONE)


class MultijetProcess(Process):
    """QCD with heavy quarks, decayed until a lepton is isolated."""

    batch = 100

    def __init__(
        self, settings: Sequence[str], seed: int, quarks: Literal["b", "bc"], library: Library
    ) -> None:
        self.held = BOTTOM if quarks == "b" else BOTTOM + CHARM
        self._library = library
        hard = ["gg2bbbar", "qqbar2bbbar", "qg2qg", "qq2qq"]
        hard += ["gg2ccbar", "qqbar2ccbar"] if quarks == "bc" else []
        on = [f"HardQCD:{name} = on" for name in hard]
        undecayed = [f"{kind}:mayDecay = off" for kind in self.held]
        settings = (*settings, *on, f"PhaseSpace:pTHatMin = {QCD_MIN_PT_HAT}", *undecayed)
        super().__init__(settings, seed, (5,) if quarks == "b" else (4, 5), QUARK_MIN_PT)
        self._rng = np.random.default_rng([seed, 1])

    def _accept(self, event: Event) -> tuple[Event | None, float, np.ndarray]:
        pdg, _, momentum, vertex = event
        held = np.isin(np.abs(pdg), self.held)
        hadrons, visible = momentum[held], np.stack(pt_eta_phi(momentum[~held]), axis=1)
        how = (self._rng, Candidate(), self._library, TRIES, True)
        passed, probability, decay, rotation = try_decays(*how, pdg[held], hadrons, visible)
        if not passed:
            return None, probability, _NONE
        made = products(self._library, decay, rotation, pdg[held], hadrons, vertex[held])
        rest = [column[~held] for column in event]
        joined = tuple(map(np.concatenate, zip(rest, made, strict=True)))
        return joined, probability, np.diff(self._library.offsets)[decay]


def make_process(
    name: str, seed: int, mpi: bool, quarks: Literal["b", "bc"], library: Library
) -> Process:
    """Return a process; ``mpi``: multi-parton interactions; ``quarks``, ``library``: for qcd."""
    settings = () if mpi else ("PartonLevel:MPI = off",)
    if name == "qcd":
        return MultijetProcess(settings, seed, quarks, library)
    return LeptonicProcess(settings + {"ttbar": _TOP, "wjets": _W}[name], seed)
