"""The HepMC3 of generated events: what Delphes needs is there, and nothing else than was made."""

import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyhepmc", reason="pip install 'hepflow[delphes]'")
pytest.importorskip("pythia8mc", reason="pip install 'hepflow[delphes]'")
pytest.importorskip("fastjet", reason="pip install 'hepflow[delphes]'")

import pyhepmc

from hepflow.schema import CLASSES
from hepflow.simulate.decays import BOTTOM, CHARM, Library, join
from hepflow.simulate.hepmc import BEAM, CLUSTER, DECAYED, FINAL, to_hepmc, write_pileup
from hepflow.simulate.particles import Event, Particles
from hepflow.simulate.processes import Process, make_process
from hepflow.simulate.pythia import decay_library, minimum_bias
from tests.support.stand_in_delphes import read_as_delphes

pytestmark = [pytest.mark.slow, pytest.mark.pythia]
N = 5
NEUTRINOS = (12, 14, 16)
Row = tuple[float, ...]


@pytest.fixture(scope="module")
def library() -> Library:
    parts = [decay_library(BOTTOM + CHARM, 100, 1, leptonic=False)]
    return join([*parts, decay_library(BOTTOM, 100, 2, leptonic=True)])


@pytest.fixture(scope="module")
def pool() -> Particles:
    return minimum_bias(20, 3)


class Made:
    """Some events of a process: as the detector gets them, as HepMC, and what a file holds."""

    def __init__(self, name: str, library: Library, pool: Particles, folder: Path) -> None:
        def process() -> Process:
            return make_process(name, 5, False, "b", library)

        self.soft: list[list[Event]] = [[pool.event(k) for k in range(i % 3)] for i in range(N)]
        recorded = process()
        recorded.keep_records = True
        batches = recorded.batches()
        records = list(islice((one for batch in batches for one in batch.records), N))
        self.events = list(islice(self._events(process()), N))
        self.path = folder / f"{name}.hepmc"
        with pyhepmc.open(self.path, "w") as file:
            for i, record in enumerate(records):
                file.write(to_hepmc(i, record, self.soft[i]))
        with pyhepmc.open(self.path) as file:
            self.read = list(file)

    @staticmethod
    def _events(process: Process) -> Iterator[Event]:
        for batch in process.batches():
            assert not batch.records, "they were not asked for"
            for i in range(len(batch.particles)):
                yield batch.particles.event(i)


@pytest.fixture(scope="module")
def all_made(
    library: Library, pool: Particles, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Made]:
    return {name: Made(name, library, pool, tmp_path_factory.mktemp(name)) for name in CLASSES}


@pytest.fixture(params=CLASSES)
def made(request: pytest.FixtureRequest, all_made: dict[str, Made]) -> Made:
    return all_made[request.param]


def four(particle: Any) -> np.ndarray:
    momentum = particle.momentum
    return np.array([momentum.px, momentum.py, momentum.pz, momentum.e])


def total(particles: list[Any]) -> np.ndarray:
    return np.sum([four(one) for one in particles], axis=0) if particles else np.zeros(4)


def rows(event: Event) -> list[Row]:
    """Particles in an order of their own, rounded to what text holds."""
    pdg, _, momentum, vertex = event
    columns = np.column_stack([pdg, momentum, vertex])
    return sorted(map(tuple, np.round(columns, 9).tolist()))


def test_events_are_numbered_in_gev_and_mm(made: Made) -> None:
    assert [event.event_number for event in made.read] == list(range(N))
    for event in made.read:
        assert (event.momentum_unit, event.length_unit) == (pyhepmc.Units.GEV, pyhepmc.Units.MM)


def test_final_particles_are_those_that_the_detector_gets(made: Made) -> None:
    """The same momenta and production points, and neutrinos besides; so Delphes reads them too."""
    for event, soft, text in zip(made.events, made.soft, read_as_delphes(made.path), strict=True):
        final = text.final()
        seen = final[~np.isin(np.abs(final[:, 0]), NEUTRINOS)]
        expected = rows(tuple(map(np.concatenate, zip(event, *soft, strict=True))))
        assert sorted(map(tuple, np.round(seen[:, :8], 9).tolist())) == expected
        assert text.units == "GEV MM"


def test_delphes_reader_finds_the_particles_of_pyhepmc(made: Made) -> None:
    texts = list(read_as_delphes(made.path))
    assert [len(text.rows) for text in texts] == [len(event.particles) for event in made.read]
    for text, event in zip(texts, made.read, strict=True):
        status = sorted((int(row[0]), int(row[1])) for row in text.rows)
        assert status == sorted((one.pid, one.status) for one in event.particles)


def test_status_says_what_ends_and_what_does_not(made: Made) -> None:
    for event in made.read:
        beams = [one for one in event.particles if one.status == BEAM]
        assert [(one.pid, round(one.momentum.e)) for one in beams] == [(2212, 6500)] * 2
        for one in event.particles:
            assert (one.end_vertex is None) == (one.status == FINAL), one
            assert one.production_vertex.id or one.status == BEAM or one.pid == CLUSTER


def test_momentum_is_conserved_in_events_and_decays(made: Made) -> None:
    n_decays = 0
    for event in made.read:
        first = [one for one in event.particles if not one.production_vertex.id]
        final = [one for one in event.particles if one.status == FINAL]
        np.testing.assert_allclose(total(final), total(first), atol=0.02)  # of 13 TeV
        for vertex in event.vertices:
            if all(one.status == DECAYED for one in vertex.particles_in):
                out = total(list(vertex.particles_out))
                np.testing.assert_allclose(out, total(list(vertex.particles_in)), atol=2e-3)
                n_decays += 1
    assert n_decays > 10 * N


def test_masses_are_real(made: Made) -> None:
    """An electron has its mass, and no particle is faster than light."""
    for event in made.read:
        for one in event.particles:
            assert one.generated_mass >= 0
            if one.status == FINAL and abs(one.pid) == 211:
                assert one.generated_mass == pytest.approx(0.1396, abs=0.02)


def ancestors(particle: Any) -> Iterator[Any]:
    vertex = particle.production_vertex
    for one in vertex.particles_in if vertex is not None else ():
        yield one
        yield from ancestors(one)


def test_partons_hadrons_and_leptons_are_there_for_flavours_and_the_trigger(made: Made) -> None:
    """JetFlavorAssociation takes quarks and gluons of any status but 1, TauTagging taus too."""
    name = made.path.stem
    quarks = {"qcd": 5, "ttbar": 5, "wjets": 2}[name]
    origin = {"qcd": set(BOTTOM), "ttbar": {24}, "wjets": {24}}[name]
    from_origin = 0
    for event in made.read:
        partons = [one for one in event.particles if one.status != FINAL and abs(one.pid) <= 5]
        assert any(abs(one.pid) <= quarks and one.momentum.pt() > 10 for one in partons) or (
            name == "wjets"
        )
        if name != "wjets":
            assert any(abs(one.pid) == 5 and one.momentum.pt() > 10 for one in partons)
        hard = [
            one
            for one in event.particles
            if one.status == FINAL and abs(one.pid) in {11, 13} and one.momentum.pt() > 19
        ]
        assert hard, "every event that is kept has a lepton for the trigger"
        kinds = [{abs(above.pid) for above in ancestors(one)} for one in hard]
        from_origin += any(kind & origin for kind in kinds)
    assert from_origin >= N - 2, "a tau, a D, or a photon's may come first"


def test_hadrons_that_the_library_decays_fly_before(all_made: dict[str, Made]) -> None:
    found = all_made["qcd"]
    flights, neutrinos = [], 0
    for event in found.read:
        for one in event.particles:
            if abs(one.pid) in BOTTOM:
                assert one.status == DECAYED
                start, end = one.production_vertex.position, one.end_vertex.position
                flight = np.array([end.x - start.x, end.y - start.y, end.z - start.z])
                along = flight @ four(one)[:3] / np.linalg.norm(four(one)[:3])
                if abs(one.pid) in {511, 521}:
                    assert np.linalg.norm(flight) == pytest.approx(along, rel=1e-6)
                    flights.append(along / np.linalg.norm(four(one)[:3]) * one.generated_mass)
                    speed = np.linalg.norm(four(one)[:3]) / one.momentum.e
                    assert end.t - start.t == pytest.approx(along / speed, rel=1e-6)
                neutrinos += any(abs(out.pid) in NEUTRINOS for out in one.end_vertex.particles_out)
    assert len(flights) > N
    assert 0.2 < np.mean(flights) < 1.0, "c tau of B is 0.45 to 0.49 mm"
    assert neutrinos >= N - 2, "nearly each event has a semileptonic decay"


def test_the_pool_becomes_a_file_of_pileup(pool: Particles, tmp_path: Path) -> None:
    """Read by the rules of Delphes' DelphesPileUpReader."""
    write_pileup(tmp_path / "a.pileup", pool)
    content = (tmp_path / "a.pileup").read_bytes()
    (n,) = struct.unpack(">q", content[-8:])
    assert n == len(pool) == 20
    begins = struct.unpack(f">{n}q", content[-8 - 8 * n : -8])
    for i, begin in enumerate(begins):
        (size,) = struct.unpack_from(">i", content, begin)
        particles = list(struct.iter_unpack(">i8f", content[begin + 4 : begin + 4 + 36 * size]))
        pdg, _, momentum, vertex = pool.event(i)
        assert [one[0] for one in particles] == pdg.tolist()
        numbers = np.array([one[1:] for one in particles]).reshape(-1, 8)
        expected = np.column_stack([vertex, np.zeros(size), momentum])
        np.testing.assert_array_equal(numbers, expected.astype(np.float32).astype(float))
    assert begins[0] == 0
