"""A generated event -> HepMC3, and the minimum-bias pool -> Delphes' file of pile-up.

The visible particles of status 1 are those that the parametric detector gets, with the same
momenta and production points. The rest is Pythia's record with its status codes: beams (4),
partons, decayed particles (2), neutrinos. What the library of decays (`decays`) and the pool lack
is filled in, so that momentum is conserved at every vertex that they add::

    B, status 2 ---+--- l, status 1             library: visible products and production points
                   +--- CLUSTER ---+--- K       the products at one displaced point, here of a D
                   |               +--- pi
                   +--- nu                      the momentum that is missing

Units are GeV and mm. pyhepmc writes events; Delphes reads them with DelphesHepMC3.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pyhepmc import GenEvent, GenParticle, GenVertex, Units

from hepflow.simulate.particles import Event, Particles, Record

FINAL, DECAYED, BEAM = 1, 2, 4
CLUSTER = 91
"""PDG code of a generator's own pseudo-particle: stands for what the products at a point are of."""
_LEAST_MISSING_GEV = 1e-3  # the pool is in single precision
_ON_PATH_MM = 1e-6
_SYSTEM, _INCOMING = 11, 12
_STRINGS = (*range(81, 90), *range(101, 107))
_DECAYS = (91, 92, 93, 94)
# Delphes' DelphesPileUpWriter: XDR, which is big-endian
_PILEUP = np.dtype([("pid", ">i4"), ("numbers", ">f4", 8)])


def to_hepmc(number: int, record: Record, soft: Sequence[Event] = ()) -> GenEvent:
    """Return an event, and ``soft`` minimum-bias events at its collision.

    Each of the latter is a `CLUSTER` without a production vertex: the pool has no beams.
    """
    event = GenEvent(Units.GEV, Units.MM)
    event.event_number = number
    status = _status(record)
    particles: list[GenParticle] = [
        GenParticle(tuple(momentum), int(pdg), int(code))
        for momentum, pdg, code in zip(record.momentum, record.pdg, status, strict=True)
    ]
    for particle, mass in zip(particles, _masses(record.momentum), strict=True):
        particle.generated_mass = mass
    _add_vertices(event, record, particles)
    for k, entry in enumerate(record.decayed):
        rows = slice(record.offsets[k], record.offsets[k + 1])
        products = tuple(column[rows] for column in record.products)
        born, momentum = record.vertex[entry], record.momentum[entry]
        point = _decay_point(products[3], born[:3], momentum[:3])
        start = np.append(point, born[3] + _ct(point - born[:3], momentum))
        _add_products(event, particles[entry], momentum, products, start)
    for products in soft:
        if len(products[0]):
            momentum = products[2].sum(axis=0)
            cluster = _particle(momentum, CLUSTER, DECAYED)
            _add_products(event, cluster, momentum, products, np.zeros(4))
    return event


def write_pileup(path: Path, pool: Particles) -> None:
    """Write the pool as Delphes' ``hepmc2pileup`` does: events, where each begins, their number."""
    rows = np.zeros(len(pool.pdg), _PILEUP)
    rows["pid"] = pool.pdg
    rows["numbers"] = np.column_stack([pool.vertex, np.zeros(len(rows)), pool.momentum])
    counts = np.diff(pool.offsets)
    begins = np.concatenate([[0], np.cumsum(4 + counts * _PILEUP.itemsize)[:-1]])
    with path.open("wb") as file:
        for i, count in enumerate(counts):
            file.write(np.array(count, ">i4").tobytes())
            file.write(rows[pool.offsets[i] : pool.offsets[i + 1]].tobytes())
        file.write(np.append(begins, len(pool)).astype(">i8").tobytes())


def _particle(momentum: np.ndarray, pdg: int, status: int) -> GenParticle:
    particle = GenParticle(tuple(momentum), int(pdg), status)
    particle.generated_mass = _masses(momentum[None])[0]
    return particle


def _masses(momentum: np.ndarray) -> list[float]:
    """Return the masses of (n, 4) momenta; 0 for those that rounding makes space-like."""
    squared = momentum[:, 3] ** 2 - np.sum(momentum[:, :3] ** 2, axis=1)
    return np.sqrt(np.maximum(squared, 0.0)).tolist()


def _status(record: Record) -> np.ndarray:
    """Return HepMC's status codes: Pythia's own, positive, for partons and carbon copies."""
    status = np.where(record.status > 0, FINAL, np.abs(record.status))
    status[record.status == -_INCOMING] = BEAM
    kind = np.abs(record.pdg)
    ones, tens, hundreds = kind % 10, kind // 10 % 10, kind // 100 % 10
    hadron = (kind > 100) & (kind < 1_000_000) & (ones > 0) & (tens > 0) & (hundreds > 0)
    hadron |= np.isin(kind, (130, 310))
    products = np.flatnonzero(np.isin(np.abs(record.status), _DECAYS))
    mother = record.mothers[products, 0]
    other = record.pdg[mother] != record.pdg[products]
    status[mother[other & (hadron | np.isin(kind, (13, 15)))[mother]]] = DECAYED
    status[record.decayed] = DECAYED
    return status


def _mothers(status: int, first: int, second: int) -> range | tuple[int, ...]:
    """Return the mothers of an entry, from the two numbers that Pythia keeps."""
    if abs(status) in {_SYSTEM, _INCOMING} or first == second == 0:
        return ()
    if second in {0, first}:
        return (first,)
    if abs(status) in _STRINGS and second > first:
        return range(first, second + 1)
    return (first, second)


def _graph(record: Record) -> tuple[dict[int, int], list[list[int]], list[list[int]]]:
    """Return the vertex that each entry enters, and the entries that enter and leave each vertex.

    An entry's production vertex is the end of its first mother; mothers that end nowhere else enter
    it too.
    """
    ends: dict[int, int] = {}
    incoming: list[list[int]] = []
    outgoing: list[list[int]] = []
    for i in range(1, len(record.pdg)):
        mothers = _mothers(record.status[i], *record.mothers[i].tolist())
        if not mothers:
            continue
        vertex = ends.get(mothers[0], len(incoming))
        if vertex == len(incoming):
            incoming.append([])
            outgoing.append([])
        new = [mother for mother in mothers if mother not in ends]
        ends.update(dict.fromkeys(new, vertex))
        incoming[vertex] += new
        outgoing[vertex].append(i)
    return ends, incoming, outgoing


def _add_vertices(event: GenEvent, record: Record, particles: Sequence[GenParticle]) -> None:
    """Add the vertices of Pythia's record, each behind those that its particles come from.

    Pythia lists the hard process before the showers that lead to it.
    """
    ends, incoming, outgoing = _graph(record)
    produced = {i for entries in outgoing for i in entries}
    missing = [len(produced.intersection(entries)) for entries in incoming]
    ready = [vertex for vertex, n in enumerate(missing) if n == 0]
    for vertex in ready:  # which grows
        placed = (record.vertex[i] for i in outgoing[vertex] if record.vertex[i].any())
        made = GenVertex(tuple(next(placed, np.zeros(4))))
        for i in incoming[vertex]:
            made.add_particle_in(particles[i])
        for i in outgoing[vertex]:
            made.add_particle_out(particles[i])
            if i in ends:
                missing[ends[i]] -= 1
                if missing[ends[i]] == 0:
                    ready.append(ends[i])
        event.add_vertex(made)
    assert len(ready) == len(incoming), "an entry of the record is its own ancestor"


def _decay_point(points: np.ndarray, born: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    """Return the point of a hadron's decay: the one of (k, 3) that is on its path.

    If none is, as all products at the decay are invisible, it is the point nearest to one of them.
    """
    if not len(points):
        return born
    unit = momentum / np.linalg.norm(momentum)
    off = np.linalg.norm(np.cross(points - born, unit), axis=1)
    nearest = points[np.argmin(off)]
    if off.min() < _ON_PATH_MM:
        return np.asarray(nearest)
    return born + max((nearest - born) @ unit, 0.0) * unit


def _ct(flight: np.ndarray, momentum: np.ndarray) -> float:
    """Return the time, times c in mm, of a flight with a momentum (4,)."""
    speed = np.linalg.norm(momentum[:3]) / momentum[3]
    return float(np.linalg.norm(flight) / max(speed, 1e-9))


def _add_products(
    event: GenEvent,
    mother: GenParticle,
    momentum: np.ndarray,
    products: Event,
    point: np.ndarray,
) -> None:
    """End a particle of this momentum, at ``point`` (x y z ct), in its products.

    Those at other points belong to clusters, and a neutrino takes the momentum that is missing.
    """
    pdg, _, momenta, vertex = products
    places, group = np.unique(vertex, axis=0, return_inverse=True)
    rows = [np.flatnonzero(group.ravel() == k) for k in range(len(places))]
    here = next((k for k, place in enumerate(places) if (place == point[:3]).all()), None)
    made = [[_particle(momenta[i], pdg[i], FINAL) for i in each] for each in rows]
    decay = GenVertex(tuple(point))
    decay.add_particle_in(mother)
    ends = []
    for k, place in enumerate(places):
        if k == here:
            for particle in made[k]:
                decay.add_particle_out(particle)
        else:
            total = momenta[rows[k]].sum(axis=0)
            cluster = _particle(total, CLUSTER, DECAYED)
            decay.add_particle_out(cluster)
            end = GenVertex((*place, point[3] + _ct(place - point[:3], total)))
            end.add_particle_in(cluster)
            for particle in made[k]:
                end.add_particle_out(particle)
            ends.append(end)
    missing = momentum - momenta.sum(axis=0)
    if missing[3] > _LEAST_MISSING_GEV:
        decay.add_particle_out(_particle(missing, _neutrino(pdg, momenta), FINAL))
    for vertex in (decay, *ends):
        event.add_vertex(vertex)


def _neutrino(pdg: np.ndarray, momenta: np.ndarray) -> int:
    """Return the neutrino of the hardest charged lepton: one stands for all that are missing."""
    leptons = np.flatnonzero(np.isin(np.abs(pdg), (11, 13)))
    if not len(leptons):
        return 16
    kind = int(pdg[leptons[np.argmax(momenta[leptons, 3])]])
    return -(kind + 1) if kind > 0 else 1 - kind
