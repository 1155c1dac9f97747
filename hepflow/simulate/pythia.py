"""Everything that talks to Pythia8: settings, vetoes, and its event records as flat arrays."""

from collections.abc import Sequence

import awkward as ak
import numpy as np
import pythia8mc

from hepflow.errors import HepflowError
from hepflow.simulate.decays import BOTTOM, CHARM, Library, join
from hepflow.simulate.particles import Particles, offsets_of, pt_eta_phi

CM_ENERGY_GEV = 13000.0
# particles that live longer than this (mm) reach the detector, as in the files that experiments give to Delphes
MAX_TAU_MM = 10.0
_NEUTRINOS = (12, 14, 16)
_COMMON = (
    "Print:quiet = on",
    f"Beams:eCM = {CM_ENERGY_GEV}",
    "Random:setSeed = on",
    "ParticleDecays:limitTau0 = on",
    f"ParticleDecays:tau0Max = {MAX_TAU_MM}",
)
# Delphes' generatePileUp.cmnd; the perturbative diffraction that takes 15 s to initialise is left out by the mass limit
_MINIMUM_BIAS = ("SoftQCD:all = on", "Diffraction:mMinPert = 20000")


def start(
    settings: Sequence[str], seed: int, hooks: pythia8mc.UserHooks | None = None
) -> pythia8mc.Pythia:
    """An initialised Pythia.

    Parameters
    ----------
    settings : sequence of str
        Lines such as ``"Top:gg2ttbar = on"``.
    seed : int
        Any; it is folded into the range that Pythia takes.
    hooks : UserHooks, optional
        Vetoes. The caller keeps them alive.
    """
    pythia = pythia8mc.Pythia("", False)
    for line in (*_COMMON, f"Random:seed = {1 + seed % 900_000_000}", *settings):
        if not pythia.readString(line):
            raise HepflowError(
                f"Pythia does not know the setting {line!r}: is another version than 8.3 installed?"
            )
    if hooks is not None:
        pythia.addUserHooksPtr(hooks)
    if not pythia.init():
        raise HepflowError(f"Pythia does not start with the settings {'; '.join(settings)}")
    return pythia


class Record:
    """A batch of Pythia's event records, every entry of every event, in flat arrays.

    Attributes
    ----------
    counts : (events,) entries of each event
    pdg, status : (n,)
    momentum : (n, 4), px py pz E in GeV
    vertex : (n, 4), production point x y z and ct in mm
    """

    def __init__(self, batch: ak.Array) -> None:
        entries = ak.flatten(batch.prt)
        self.counts = ak.to_numpy(ak.num(batch.prt.id))
        self.pdg = ak.to_numpy(entries.id)
        self.status = ak.to_numpy(entries.status)
        axes = ("px", "py", "pz", "e")
        self.momentum = np.stack([ak.to_numpy(entries.p[axis]) for axis in axes], axis=1)
        # None stands for the origin
        self.vertex = np.stack(
            [ak.to_numpy(ak.fill_none(entries.vProd[axis], 0.0)) for axis in axes], axis=1
        )

    @property
    def visible(self) -> np.ndarray:
        """(n,) mask of the final particles but for neutrinos."""
        return (self.status > 0) & ~np.isin(np.abs(self.pdg), _NEUTRINOS)

    def particles(self, pythia: pythia8mc.Pythia) -> Particles:
        """Its visible particles."""
        keep = self.visible
        running = np.concatenate([[0], np.cumsum(keep)])
        pdg = self.pdg[keep].astype(np.int32)
        return Particles(
            running[offsets_of(self.counts)],
            pdg,
            charges(pythia, pdg),
            self.momentum[keep],
            np.ascontiguousarray(self.vertex[keep, :3]),
        )

    def heavy(self) -> list[np.ndarray]:
        """For each event, its heavy hadrons as ``Events`` has them."""
        kind = np.abs(self.pdg)
        flavour = np.where(np.isin(kind, BOTTOM), 5.0, np.where(np.isin(kind, CHARM), 4.0, 0.0))
        keep = flavour > 0
        rows = np.stack([*pt_eta_phi(self.momentum[keep]), flavour[keep]], axis=1)
        running = np.concatenate([[0], np.cumsum(keep)])
        return np.split(rows, running[offsets_of(self.counts)][1:-1])


def charges(pythia: pythia8mc.Pythia, pdg: np.ndarray) -> np.ndarray:
    """Electric charges, (n,) int8 in units of e."""
    kinds, inverse = np.unique(pdg, return_inverse=True)
    return np.array([round(pythia.particleData.charge(int(kind))) for kind in kinds], np.int8)[
        inverse
    ]


def minimum_bias(n_events: int, seed: int) -> Particles:
    """Minimum-bias events (inelastic and elastic), multi-parton interactions and all."""
    pythia = start(_MINIMUM_BIAS, seed)
    return Record(pythia.nextBatch(n_events)).particles(pythia)


def decay_library(species: Sequence[int], n_decays: int, seed: int, leptonic: bool) -> Library:
    """Decays of hadrons at rest.

    Parameters
    ----------
    species : sequence of int
        Hadrons, by their positive pdg code.
    n_decays : int
        Decays of each.
    seed : int
    leptonic : bool
        Whether only decays straight to an electron or a muon are kept.
    """
    pythia = start(("ProcessLevel:all = off",), seed)
    parts = []
    for kind in species:
        if leptonic:
            pythia.readString(f"{kind}:onMode = off")
            pythia.readString(f"{kind}:onIfAny = 11 13")
        entry = pythia.particleData.particleDataEntryPtr(kind)
        channels = [entry.channel(i) for i in range(entry.sizeChannels())]
        # mode 1: on; 2: on for the particle only, as for mixing B0, of which the antiparticle's channels (3) are listed too
        branching = sum(channel.bRatio() for channel in channels if channel.onMode() in (1, 2))
        parts.append(
            _decays_at_rest(pythia, kind, n_decays)._replace(
                leptonic=np.array([leptonic]), branching=np.array([branching])
            )
        )
    return join(parts)


def _decays_at_rest(pythia: pythia8mc.Pythia, kind: int, n_decays: int) -> Library:
    """One species' decays: all its hadrons in one event record, told apart by following the daughters."""
    mass = pythia.particleData.m0(kind)
    pythia.event.reset()
    for _ in range(n_decays):
        pythia.event.append(kind, 1, 0, 0, 0.0, 0.0, 0.0, mass, mass)
    batch = pythia.nextBatch(1)
    record = Record(batch)
    mother = ak.to_numpy(batch.prt[0].mother1)
    ancestor = np.arange(len(mother))
    while (ancestor > n_decays).any():
        ancestor = np.where(ancestor > n_decays, mother[ancestor], ancestor)
    keep = np.flatnonzero(record.visible & (np.arange(len(mother)) > n_decays))
    keep = keep[np.argsort(ancestor[keep], kind="stable")]
    counts = np.bincount(ancestor[keep] - 1, minlength=n_decays)
    pdg = record.pdg[keep].astype(np.int32)
    return Library(
        species=np.array([kind]),
        leptonic=np.array([False]),
        branching=np.array([1.0]),
        first=np.array([0, n_decays]),
        offsets=offsets_of(counts),
        pdg=pdg,
        charge=charges(pythia, pdg),
        momentum=record.momentum[keep],
        vertex=record.vertex[keep],
    )
