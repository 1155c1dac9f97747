"""All names in the data: classes, Delphes collections and fields, features and their units."""

from collections.abc import Mapping
from dataclasses import dataclass

CLASSES = ("qcd", "ttbar", "wjets")
"""Default classes; the label is the position. Datasets carry their own list, which wins."""

EVENTS_SCHEMA_VERSION = 1
STORE_SCHEMA_VERSION = 2
PREDICTIONS_SCHEMA_VERSION = 1
METRICS_SCHEMA_VERSION = 1
COMPARISON_SCHEMA_VERSION = 1
SCORES_SCHEMA_VERSION = 3

SPLITS = ("train", "val", "test")
DEFINITIONS = ("corrected", "reference")

TREE = "Delphes"

FLOAT, INT = "float32", "int32"
_DIRECTION = {"Eta": FLOAT, "Phi": FLOAT}
_TRACK = {"PID": INT, "Charge": INT, "PT": FLOAT, **_DIRECTION, "X": FLOAT, "Y": FLOAT, "Z": FLOAT}
_LEPTON = {"PT": FLOAT, **_DIRECTION, "Charge": INT}
COLLECTIONS: Mapping[str, Mapping[str, str]] = {
    "EFlowTrack": _TRACK,
    "EFlowPhoton": {"ET": FLOAT, **_DIRECTION},
    "EFlowNeutralHadron": {"ET": FLOAT, **_DIRECTION},
    "Electron": _LEPTON,
    "MuonTight": _LEPTON,
    "Jet": {"PT": FLOAT, **_DIRECTION, "Mass": FLOAT, "BTag": INT},
    "MissingET": {"MET": FLOAT, "Phi": FLOAT},
}
"""Collection -> field -> type, in Delphes' names. Each is one ``list<struct>`` Parquet column."""

ALIASES: Mapping[str, str] = {"MuonTight": "Muon"}
"""Collection -> the one that is read instead if a file lacks it."""

OPTIONAL: Mapping[str, Mapping[str, float]] = {"Jet": {"Mass": 0.0}}
"""Collection -> field -> value if a file lacks it. No feature uses it; the rest is required."""

EVENT_COLUMNS: Mapping[str, str] = {
    "sample": "string",
    "label": INT,
    "event_id": "int64",
    "file": "string",
    "entry": "int64",
}
"""Flat Parquet columns next to the collections: ``sample`` is the class name, ``entry`` the row in
the tree of ``file``."""


@dataclass(frozen=True)
class Feature:
    """A column of the store: its name and its unit (``"1"`` for a pure number)."""

    name: str
    unit: str


def _features(text: str) -> tuple[Feature, ...]:
    parts = (word.partition("/") for word in text.split())
    return tuple(Feature(name, unit or "1") for name, _, unit in parts)


HLF = _features("""
    HT/GeV MET/GeV PhiMET/rad MT/GeV nJets nBJets
    LepPt/GeV LepEta LepPhi/rad LepIsoCh LepIsoGamma LepIsoNeu LepCharge/e LepIsEle
""")
"""High-level features of an event, in the order of the published datasets (``MT`` is in GeV^2 under
``reference``)."""

PARTICLE = _features("""
    Energy/GeV Px/GeV Py/GeV Pz/GeV Pt/GeV Eta Phi/rad vtxX/mm vtxY/mm vtxZ/mm
    ChPFIso GammaPFIso NeuPFIso isChHad isNeuHad isGamma isEle isMu Charge/e
""")
"""Low-level features of a particle, in the order of the published datasets."""

MAX_TRACKS, MAX_PHOTONS, MAX_NEUTRALS = 450, 150, 200
MAX_PARTICLES = 1 + MAX_TRACKS + MAX_PHOTONS + MAX_NEUTRALS
