"""The interface to Pythia 8: settings, vetoes, and its event records as flat arrays."""

from collections.abc import Sequence
from functools import cache

import awkward as ak
import numpy as np
import pythia8mc

from hepflow.errors import HepflowError
from hepflow.simulate.decays import Library, join
from hepflow.simulate.particles import Event, Particles, Record, offsets_of, pt_eta_phi
from hepflow.simulate.tracking import may_reach

CM_ENERGY_GEV = 13000.0
# Particles that live longer than this (mm) reach the detector, as in the files that experiments
# give to Delphes.
MAX_TAU_MM = 10.0
_SEEDS = 900_000_000  # of Pythia
_NEUTRINOS = (12, 14, 16)
_COMMON = ["Print:quiet = on", f"Beams:eCM = {CM_ENERGY_GEV}", "Random:setSeed = on"]
_COMMON += ["ParticleDecays:limitTau0 = on", f"ParticleDecays:tau0Max = {MAX_TAU_MM}"]
# Delphes' generatePileUp.cmnd. Perturbative diffraction takes 7 s to initialise, and makes 5 % of
# the tracks.
_MINIMUM_BIAS = ("SoftQCD:all = on",)


def start(
    settings: Sequence[str], seed: int, hooks: pythia8mc.UserHooks | None = None
) -> pythia8mc.Pythia:
    """Return an initialised Pythia. The caller keeps the ``hooks`` alive."""
    pythia = pythia8mc.Pythia("", False)
    for line in (*_COMMON, f"Random:seed = {1 + seed % _SEEDS}", *settings):
        if not pythia.readString(line):
            raise HepflowError(f"Pythia rejects the setting {line!r}. Install a version 8.3.")
    if hooks is not None:
        pythia.addUserHooksPtr(hooks)
    if not pythia.init():
        raise HepflowError(f"Pythia does not start with the settings {'; '.join(settings)}")
    return pythia


class EventRecord:
    """A batch of Pythia's event records, every entry of every event, in flat arrays.

    ``momentum`` is (n, 4) px py pz E in GeV, ``vertex`` (n, 4) production point x y z and ct in mm,
    and ``visible`` a mask of the final particles except neutrinos.
    """

    def __init__(self, batch: ak.Array) -> None:
        self._entries, axes = ak.flatten(batch.prt), ("px", "py", "pz", "e")
        entries = self._entries
        self.counts = ak.to_numpy(ak.num(batch.prt.id))
        self.pdg, self.status = ak.to_numpy(entries.id), ak.to_numpy(entries.status)
        self.momentum = np.stack([ak.to_numpy(entries.p[axis]) for axis in axes], axis=1)
        produced = [ak.fill_none(entries.vProd[axis], 0.0) for axis in axes]  # None is the origin
        self.vertex = np.stack([ak.to_numpy(values) for values in produced], axis=1)
        self.visible = (self.status > 0) & ~np.isin(np.abs(self.pdg), _NEUTRINOS)

    def particles(self, pythia: pythia8mc.Pythia) -> Particles:
        """Return the visible particles."""
        keep = self.visible
        pdg, vertex = self.pdg[keep].astype(np.int32), np.ascontiguousarray(self.vertex[keep, :3])
        rest = charges(pythia, pdg), self.momentum[keep], vertex
        return Particles(self._offsets(keep), pdg, *rest)

    def heavy(self) -> list[np.ndarray]:
        """Return the heavy quarks of each event, at every step, as ``Events`` has them."""
        flavour = np.abs(self.pdg)
        keep = (flavour == 4) | (flavour == 5)
        rows = np.stack([*pt_eta_phi(self.momentum[keep]), flavour[keep]], axis=1)
        return np.split(rows, self._offsets(keep)[1:-1])

    def whole(self, i: int, held: np.ndarray, counts: np.ndarray, products: Event) -> Record:
        """Return event ``i`` whole, with ``counts`` (h,) products of its hadrons ``held``."""
        first, last = offsets_of(self.counts)[i : i + 2]
        rows = slice(first, last)
        entries = self._entries[rows]
        mothers = np.stack([ak.to_numpy(entries[f"mother{k}"]) for k in (1, 2)], axis=1)
        decayed = np.flatnonzero(self.visible[rows] & np.isin(np.abs(self.pdg[rows]), held))
        return Record(
            self.pdg[rows],
            self.status[rows],
            self.momentum[rows],
            self.vertex[rows],
            mothers,
            decayed,
            offsets_of(counts),
            products,
        )

    def _offsets(self, keep: np.ndarray) -> np.ndarray:
        """Return the offsets of the events among the entries kept."""
        return offsets_of(keep)[offsets_of(self.counts)]


def charges(pythia: pythia8mc.Pythia, pdg: np.ndarray) -> np.ndarray:
    """Return electric charges, (n,) int8 in units of e."""
    kinds, inverse = np.unique(pdg, return_inverse=True)
    charge = [round(pythia.particleData.charge(int(kind))) for kind in kinds]
    return np.array(charge, np.int8)[inverse]


@cache
def _soft_pythia() -> pythia8mc.Pythia:
    return start(_MINIMUM_BIAS, 0)


def minimum_bias(n_events: int, seed: int) -> Particles:
    """Return minimum-bias events (inelastic and elastic) with multi-parton interactions.

    Particles that cannot reach the detector, almost half of all, are left out.
    """
    pythia = _soft_pythia()
    pythia.rndm.init(1 + seed % _SEEDS)  # the same events, whatever it has generated before
    particles = EventRecord(pythia.nextBatch(n_events)).particles(pythia)
    return particles.where(may_reach(particles.momentum, particles.vertex))


def decay_library(species: Sequence[int], n_decays: int, seed: int, leptonic: bool) -> Library:
    """Return decays at rest: ``n_decays`` per species (pdg > 0), or those of them with e or mu.

    These come from any step: straight from the hadron, from a lighter hadron or from a tau.
    """
    pythia = start(("ProcessLevel:all = off",), seed)
    parts = []
    for kind in species:
        entry = pythia.particleData.particleDataEntryPtr(kind)
        channels = [entry.channel(i) for i in range(entry.sizeChannels())]
        # Mode 1: on; 2: on for the particle only, as for mixing B0, whose list also has the
        # channels of the antiparticle (3).
        branching = sum(channel.bRatio() for channel in channels if channel.onMode() in (1, 2))
        # All hadrons are entries 1 ... n_decays of one event record; daughters are traced back.
        mass = pythia.particleData.m0(kind)
        pythia.event.reset()
        for _ in range(n_decays):
            pythia.event.append(kind, 1, 0, 0, 0.0, 0.0, 0.0, mass, mass)
        batch = pythia.nextBatch(1)
        record, mother = EventRecord(batch), ak.to_numpy(batch.prt[0].mother1)
        ancestor = np.arange(len(mother))
        while (ancestor > n_decays).any():
            ancestor = np.where(ancestor > n_decays, mother[ancestor], ancestor)
        keep = np.flatnonzero(record.visible & (np.arange(len(mother)) > n_decays))
        keep = keep[np.argsort(ancestor[keep], kind="stable")]
        wanted = np.ones(n_decays, np.bool_)
        if leptonic:
            is_lepton = np.isin(np.abs(record.pdg[keep]), (11, 13))
            wanted = np.bincount(ancestor[keep] - 1, is_lepton, n_decays) > 0
            keep = keep[wanted[ancestor[keep] - 1]]
        n_wanted = int(wanted.sum())
        pdg = record.pdg[keep].astype(np.int32)
        kinds, with_lepton = np.array([kind]), np.array([leptonic])
        fractions, first = np.array([branching * n_wanted / n_decays]), np.array([0, n_wanted])
        offsets = offsets_of(np.bincount(ancestor[keep] - 1, minlength=n_decays)[wanted])
        particles = pdg, charges(pythia, pdg), record.momentum[keep], record.vertex[keep]
        parts.append(Library(kinds, with_lepton, fractions, first, offsets, *particles))
    return join(parts)
