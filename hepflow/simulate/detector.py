"""Generated events -> the collections of Delphes: tracks, photons, neutral hadrons, leptons, jets.

A parametric detector: it has no material and no showers, but the efficiencies, resolutions and
thresholds of Delphes' CMS Phase-II card (see ``card.py``), applied in the card's order::

    overlay -> propagate -> find_tracks -> ECAL -> HCAL -> leptons, missing ET -> PUPPI -> jets
    pile-up    helices      efficiency,    towers, excess                         weights  anti-kt,
                            smearing       over the tracks                                 b-tags

Collections and their order are Delphes' (jets and leptons by falling pT, energy flow from -eta to
+eta). The same events with the same generator give the same output.
"""

import awkward as ak
import numpy as np

from hepflow.physics.skim import NEUTRAL_ET, TRACK_PT
from hepflow.schema import COLLECTIONS
from hepflow.simulate import card
from hepflow.simulate.calorimeter import EnergyFlow, measure, tower_index
from hepflow.simulate.jets import cluster, flavours, tag
from hepflow.simulate.particles import (
    BeamSpot,
    Events,
    Overlaid,
    Particles,
    offsets_of,
    overlay,
    pt_eta_phi,
)
from hepflow.simulate.puppi import LEPTON, NEUTRAL, PILE_UP, VERTEX, weighted
from hepflow.simulate.tracking import ELECTRON, MUON, Tracks, find_tracks, propagate

# BTag is unsigned in Delphes' files
_DTYPES = {"BTag": "uint32"}
_Collection = dict[str, np.ndarray]


def simulate(
    rng: np.random.Generator,
    events: Events,
    pool: Particles,
    pileup: float,
    soft: float,
    beam_spot: BeamSpot = "gaussian",
) -> dict[str, ak.Array]:
    """Overlay pile-up, and return Delphes collection -> (events, var) records of COLLECTIONS.

    ``pileup`` and ``soft`` are the mean numbers of minimum-bias events, from the ``pool``, on other
    vertices and on the event's own (a fast underlying event; 0 for none). Tracks and towers softer
    than the cuts of `hepflow.physics.skim` are left out.
    """
    collections, inputs = [], []
    for i in range(len(events.particles)):
        event = overlay(rng, events.particles.event(i), pool, pileup, soft, beam_spot)
        found, momentum = _reconstruct(rng, event)
        collections.append(found)
        inputs.append(momentum)
    jets, offsets = cluster(np.concatenate(inputs), offsets_of([len(each) for each in inputs]))
    for i, found in enumerate(collections):
        found["Jet"] = _jets(rng, jets[offsets[i] : offsets[i + 1]], events.heavy[i])
    made = {}
    for name, fields in COLLECTIONS.items():
        parts = [found[name] for found in collections]
        columns = {
            field: np.concatenate([part[field] for part in parts]).astype(_DTYPES.get(field, kind))
            for field, kind in fields.items()
        }
        made[name] = ak.unflatten(ak.zip(columns), [len(part["Phi"]) for part in parts])
    return made


def _reconstruct(
    rng: np.random.Generator, event: Overlaid
) -> tuple[dict[str, _Collection], np.ndarray]:
    """Return an event's collections before jets, and the momenta that make the jets."""
    _, eta, phi = pt_eta_phi(propagate(event.charge, event.momentum, event.vertex))
    found = find_tracks(rng, event.pdg, event.charge, event.momentum, eta)
    hits = (event.pdg, event.momentum[:, 3], eta, phi)
    i = found.particle
    pdg, at_wall = event.pdg[i], (eta[i], phi[i])
    photons = measure(rng, card.ECAL, hits, (pdg, found.energy, found.resolution, *at_wall))
    tracks = _rescaled(found, photons.scale)
    neutrals = measure(rng, card.HCAL, hits, (pdg, tracks.energy, tracks.resolution, *at_wall))
    tracks = _rescaled(tracks, neutrals.scale)

    # Delphes leaves the tracks in the order of the HCAL's towers; those that miss it are dropped.
    tower = tower_index(card.HCAL.towers, *at_wall)
    order = np.argsort(tower, kind="stable")
    order = order[tower[order] >= 0]
    hard = order[tracks.pt[order].astype(np.float32) > TRACK_PT]
    x, y, z = event.vertex[i[hard]].T
    smeared = photons.et * (1 + card.PHOTON_RESOLUTION * rng.standard_normal(len(photons.et)))
    flow = [photons._replace(et=smeared), neutrals]
    pt = np.concatenate([tracks.pt[order], *(part.et for part in flow)])
    phi = np.concatenate([tracks.phi[order], *(part.phi for part in flow)])
    px, py = -np.sum(pt * np.cos(phi)), -np.sum(pt * np.sin(phi))
    vertex = {"X": x, "Y": y, "Z": z}  # the true one, as in Delphes
    collections = {
        "EFlowTrack": {**_kinematics(tracks, hard, event), "PID": pdg[hard], **vertex},
        "EFlowPhoton": _towers(photons),
        "EFlowNeutralHadron": _towers(neutrals),
        "Electron": _leptons(rng, event, tracks, order, eta, ELECTRON),
        "MuonTight": _leptons(rng, event, found, np.arange(len(i)), eta, MUON),
        "MissingET": {"MET": np.array([np.hypot(px, py)]), "Phi": np.array([np.arctan2(py, px)])},
    }
    return collections, _jet_inputs(event, tracks, order, flow)


def _jet_inputs(
    event: Overlaid, tracks: Tracks, order: np.ndarray, flow: list[EnergyFlow]
) -> np.ndarray:
    """Return the weighted momenta, (n, 4) px py pz E in GeV, of tracks and neutral particles."""
    i = tracks.particle[order]
    near = np.abs(event.vertex[i, 2] - event.z) <= card.VERTEX_RESOLUTION
    track_origin = np.where(event.pileup[i] & ~near, PILE_UP, VERTEX)
    is_lepton = np.isin(np.abs(event.pdg[i]), (ELECTRON, MUON))
    n_neutral = sum(len(part.et) for part in flow)
    origin = np.append(np.where(is_lepton, LEPTON, track_origin), np.full(n_neutral, NEUTRAL))
    pt = np.concatenate([tracks.pt[order], *(part.et for part in flow)])
    eta = np.concatenate([tracks.eta[order], *(part.eta for part in flow)])
    phi = np.concatenate([tracks.phi[order], *(part.phi for part in flow)])
    mass2 = tracks.energy[order] ** 2 - (tracks.pt[order] * np.cosh(tracks.eta[order])) ** 2
    mass = np.append(np.sqrt(np.maximum(mass2, 0.0)), np.zeros(n_neutral))
    return weighted(pt, eta, phi, mass, origin, event.n_vertices)


def _rescaled(tracks: Tracks, scale: np.ndarray) -> Tracks:
    """Return tracks with scaled momenta and the same masses."""
    momentum2 = (tracks.pt * np.cosh(tracks.eta)) ** 2
    energy = np.sqrt(tracks.energy**2 + momentum2 * (scale**2 - 1))
    return tracks._replace(pt=tracks.pt * scale, energy=energy)


def _kinematics(tracks: Tracks, order: np.ndarray, event: Overlaid) -> _Collection:
    charge = event.charge[tracks.particle[order]]
    momentum = {"PT": tracks.pt[order], "Eta": tracks.eta[order], "Phi": tracks.phi[order]}
    return {**momentum, "Charge": charge}


def _towers(flow: EnergyFlow) -> _Collection:
    keep = flow.et.astype(np.float32) > NEUTRAL_ET
    return {"ET": flow.et[keep], "Eta": flow.eta[keep], "Phi": flow.phi[keep]}


def _leptons(
    rng: np.random.Generator,
    event: Overlaid,
    tracks: Tracks,
    order: np.ndarray,
    outer_eta: np.ndarray,
    species: int,
) -> _Collection:
    """Return the tracks of a species that pass the identification, by falling pT."""
    order = order[np.abs(event.pdg[tracks.particle[order]]) == species]
    table = card.ELECTRON_ID if species == ELECTRON else card.MUON_ID
    efficiency = table.at(tracks.pt[order], outer_eta[tracks.particle[order]])
    order = order[rng.random(len(order)) < efficiency]
    return _kinematics(tracks, order[np.argsort(-tracks.pt[order], kind="stable")], event)


def _jets(rng: np.random.Generator, clustered: np.ndarray, heavy: np.ndarray) -> _Collection:
    """Return the jets of one event: tagged, by falling pT; ``heavy`` quarks as in `Events`."""
    pt, eta, phi = pt_eta_phi(clustered)
    mass2 = clustered[:, 3] ** 2 - np.sum(clustered[:, :3] ** 2, axis=1)
    mass = np.sqrt(np.maximum(mass2, 0))
    order = np.argsort(-pt, kind="stable")
    pt, eta, phi, mass = pt[order], eta[order], phi[order], mass[order]
    labels = (heavy[:, 0] > card.FLAVOUR_MIN_PT) & (np.abs(heavy[:, 1]) < card.FLAVOUR_MAX_ETA)
    flavour = flavours(eta, phi, heavy[labels], card.FLAVOUR_CONE)
    bits = tag(rng, card.BTAG, pt, eta, flavour)
    return {"PT": pt, "Eta": eta, "Phi": phi, "Mass": mass, "BTag": bits}
