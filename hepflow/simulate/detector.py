"""Generated events -> what Delphes would write: tracks, photons, neutral hadrons, leptons, jets and missing ET.

The modules run in the order of Delphes' CMS Phase-II card (see ``card.py``). The promise: the collections and their order are Delphes'
(jets and leptons by falling pT, energy flow from -eta to +eta), and the same events with the same generator give the same output.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import awkward as ak
import numpy as np

from hepflow.schema import COLLECTIONS
from hepflow.simulate import card
from hepflow.simulate.btag_card import WORKING_POINTS
from hepflow.simulate.calorimeter import ECAL, HCAL, EnergyFlow, measure, tower_index
from hepflow.simulate.jets import cluster, flavours, median_density, tag
from hepflow.simulate.particles import Events, Particles, offsets_of, pt_eta_phi
from hepflow.simulate.pileup import Overlaid, overlay
from hepflow.simulate.tracking import ELECTRON, MUON, Tracks, evaluate, find_tracks, propagate

# what is written, as Delphes would, though softer than anything a later stage reads
MIN_TRACK_PT = 0.5
MIN_TOWER_ET = 1.0
# BTag is unsigned in Delphes' files
_DTYPES = {"BTag": "uint32"}


@dataclass(frozen=True)
class _Reconstructed:
    """One event after the energy flow, before jets."""

    collections: dict[str, dict[str, np.ndarray]]
    jet_inputs: np.ndarray
    density: float


def simulate(
    rng: np.random.Generator, events: Events, pool: Particles, pileup: float, soft: float
) -> dict[str, ak.Array]:
    """Overlay pile-up and pass events through the detector.

    Parameters
    ----------
    rng : Generator
    events : Events
    pool : Particles
        Minimum-bias events.
    pileup, soft : float
        Mean number of minimum-bias events on other vertices, and on the event's own (a fast underlying event; 0 for none).

    Returns
    -------
    dict
        Delphes collection -> (events, var) records, as ``hepflow.schema.COLLECTIONS`` has them.
    """
    done = [
        _reconstruct(rng, overlay(rng, events.particles.event(i), pool, pileup, soft))
        for i in range(len(events.particles))
    ]
    inputs = np.concatenate([event.jet_inputs for event in done])
    jets, jet_offsets = cluster(
        inputs, offsets_of(np.array([len(event.jet_inputs) for event in done]))
    )
    for i, (event, heavy) in enumerate(zip(done, events.heavy, strict=True)):
        event.collections["Jet"] = _jets(
            rng, jets[jet_offsets[i] : jet_offsets[i + 1]], event.density, heavy
        )
    return {
        name: _collect([event.collections[name] for event in done], fields)
        for name, fields in COLLECTIONS.items()
    }


def _reconstruct(rng: np.random.Generator, event: Overlaid) -> _Reconstructed:
    """Tracks, towers, leptons and missing ET of one event."""
    outer = propagate(
        event.charge, event.momentum, event.vertex, card.FIELD_TESLA, card.RADIUS, card.HALF_LENGTH
    )
    _, outer_eta, outer_phi = pt_eta_phi(outer)
    found = find_tracks(rng, event.pdg, event.charge, event.momentum, outer_eta)
    track_eta, track_phi, track_pdg = (
        outer_eta[found.particle],
        outer_phi[found.particle],
        event.pdg[found.particle],
    )
    particles = (event.pdg, event.momentum[:, 3], outer_eta, outer_phi)
    photons = measure(
        rng, ECAL, particles, (track_pdg, found.energy, found.resolution, track_eta, track_phi)
    )
    found_ecal = _rescale(found, photons.scale)
    neutrals = measure(
        rng,
        HCAL,
        particles,
        (track_pdg, found_ecal.energy, found_ecal.resolution, track_eta, track_phi),
    )
    tracks = _rescale(found_ecal, neutrals.scale)
    order = _eflow_order(track_eta, track_phi)
    collections = {
        "EFlowTrack": _tracks(event, tracks, order),
        "EFlowPhoton": _towers(photons),
        "EFlowNeutralHadron": _towers(neutrals),
        "Electron": _leptons(rng, event, tracks, order, outer_eta, ELECTRON),
        "MuonTight": _leptons(rng, event, found, np.arange(len(found.pt)), outer_eta, MUON),
        "MissingET": _missing_et(tracks, order, photons, neutrals),
    }
    inputs, density = _jet_inputs(event, tracks, order, photons, neutrals)
    return _Reconstructed(collections, inputs, density)


def _rescale(tracks: Tracks, scale: np.ndarray) -> Tracks:
    """Tracks with their momenta scaled and their masses kept."""
    momentum2 = (tracks.pt * np.cosh(tracks.eta)) ** 2
    return tracks._replace(
        pt=tracks.pt * scale, energy=np.sqrt(tracks.energy**2 + momentum2 * (scale**2 - 1))
    )


def _eflow_order(eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Tracks from tower to tower of the HCAL, from -eta to +eta, as Delphes leaves them; those that miss it are left out."""
    tower = tower_index(HCAL.towers, eta, phi)
    order = np.argsort(tower, kind="stable")
    return order[tower[order] >= 0]


def _tracks(event: Overlaid, tracks: Tracks, order: np.ndarray) -> dict[str, np.ndarray]:
    """EFlowTrack of one event: measured momenta, and the true vertex as Delphes gives it."""
    order = order[tracks.pt[order].astype(np.float32) > MIN_TRACK_PT]
    source = tracks.particle[order]
    x, y, z = event.vertex[source].T
    return {
        "PID": event.pdg[source],
        "Charge": event.charge[source],
        "PT": tracks.pt[order],
        "Eta": tracks.eta[order],
        "Phi": tracks.phi[order],
        "X": x,
        "Y": y,
        "Z": z,
    }


def _towers(flow: EnergyFlow) -> dict[str, np.ndarray]:
    keep = flow.et.astype(np.float32) > MIN_TOWER_ET
    return {"ET": flow.et[keep], "Eta": flow.eta[keep], "Phi": flow.phi[keep]}


def _leptons(
    rng: np.random.Generator,
    event: Overlaid,
    tracks: Tracks,
    order: np.ndarray,
    outer_eta: np.ndarray,
    species: int,
) -> dict[str, np.ndarray]:
    """Electrons or muons of one event: tracks of that kind that pass the identification, by falling pT."""
    order = order[np.abs(event.pdg[tracks.particle[order]]) == species]
    efficiency = card.ELECTRON_ID if species == ELECTRON else card.MUON_ID
    order = order[
        rng.random(len(order))
        < evaluate(efficiency, tracks.pt[order], outer_eta[tracks.particle[order]])
    ]
    order = order[np.argsort(-tracks.pt[order], kind="stable")]
    return {
        "PT": tracks.pt[order],
        "Eta": tracks.eta[order],
        "Phi": tracks.phi[order],
        "Charge": event.charge[tracks.particle[order]],
    }


def _missing_et(
    tracks: Tracks, order: np.ndarray, photons: EnergyFlow, neutrals: EnergyFlow
) -> dict[str, np.ndarray]:
    """Minus the vector sum of the energy flow, pile-up included."""
    pt = np.concatenate([tracks.pt[order], photons.et, neutrals.et])
    phi = np.concatenate([tracks.phi[order], photons.phi, neutrals.phi])
    px, py = -np.sum(pt * np.cos(phi)), -np.sum(pt * np.sin(phi))
    return {"MET": np.array([np.hypot(px, py)]), "Phi": np.array([np.arctan2(py, px)])}


def _jet_inputs(
    event: Overlaid, tracks: Tracks, order: np.ndarray, photons: EnergyFlow, neutrals: EnergyFlow
) -> tuple[np.ndarray, float]:
    """Four-momenta (n, 4) that jets are made of, and their median pT density (GeV)."""
    source = tracks.particle[order]
    own = order[
        ~event.pileup[source]
        | (np.abs(event.vertex[source, 2] - event.z) <= card.VERTEX_RESOLUTION)
    ]
    pt = np.concatenate([tracks.pt[own], photons.et, neutrals.et])
    eta = np.concatenate([tracks.eta[own], photons.eta, neutrals.eta])
    phi = np.concatenate([tracks.phi[own], photons.phi, neutrals.phi])
    energy = np.concatenate([tracks.energy[own], (pt * np.cosh(eta))[len(own) :]])
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy], axis=1)
    return momentum, median_density(pt, eta, phi)


def _jets(
    rng: np.random.Generator, clustered: np.ndarray, density: float, heavy: np.ndarray
) -> dict[str, np.ndarray]:
    """Jets of one event: pile-up subtracted, above 15 GeV, tagged, by falling pT.

    Parameters
    ----------
    clustered : (jets, 4), px py pz E in GeV
    """
    raw_pt, eta, phi = pt_eta_phi(clustered)
    scale = 1 - density * np.pi * card.JET_RADIUS**2 / np.maximum(raw_pt, 1e-9)
    pt = raw_pt * scale
    mass = scale * np.sqrt(
        np.maximum(clustered[:, 3] ** 2 - np.sum(clustered[:, :3] ** 2, axis=1), 0)
    )
    order = np.argsort(-pt, kind="stable")
    order = order[pt[order] > card.JET_MIN_PT]
    bits = tag(
        rng,
        WORKING_POINTS,
        pt[order],
        eta[order],
        flavours(eta[order], phi[order], _near(heavy), card.FLAVOUR_CONE),
    )
    return {
        "PT": pt[order],
        "Eta": eta[order],
        "Phi": phi[order],
        "Mass": mass[order],
        "BTag": bits,
    }


def _near(heavy: np.ndarray) -> np.ndarray:
    """The heavy hadrons that may label a jet; they stand for the partons that Delphes looks for."""
    return heavy[(heavy[:, 0] > card.FLAVOUR_MIN_PT) & (np.abs(heavy[:, 1]) < card.FLAVOUR_MAX_ETA)]


def _collect(events: list[dict[str, np.ndarray]], fields: Mapping[str, str]) -> ak.Array:
    """One jagged array of records from the events' own."""
    counts = [len(next(iter(event.values()))) for event in events]
    columns = {
        name: np.concatenate([event[name] for event in events]).astype(_DTYPES.get(name, kind))
        for name, kind in fields.items()
    }
    return ak.unflatten(ak.zip(columns), counts)
