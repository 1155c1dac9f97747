"""Every name in the data: classes, Delphes collections and fields, features and their units. Written once, here."""

from collections.abc import Mapping
from dataclasses import dataclass

CLASSES = ("qcd", "ttbar", "wjets")
"""The default classes; a class's label is its position. Data sets carry their own list, which wins over this one."""

EVENTS_SCHEMA_VERSION = 1
STORE_SCHEMA_VERSION = 1
PREDICTIONS_SCHEMA_VERSION = 1
METRICS_SCHEMA_VERSION = 1
SCORES_SCHEMA_VERSION = 2

SPLITS = ("train", "val", "test")
DEFINITIONS = ("corrected", "reference")

TREE = "Delphes"

FLOAT, INT = "float32", "int32"
COLLECTIONS: Mapping[str, Mapping[str, str]] = {
    "EFlowTrack": {
        "PID": INT,
        "Charge": INT,
        "PT": FLOAT,
        "Eta": FLOAT,
        "Phi": FLOAT,
        "X": FLOAT,
        "Y": FLOAT,
        "Z": FLOAT,
    },
    "EFlowPhoton": {"ET": FLOAT, "Eta": FLOAT, "Phi": FLOAT},
    "EFlowNeutralHadron": {"ET": FLOAT, "Eta": FLOAT, "Phi": FLOAT},
    "Electron": {"PT": FLOAT, "Eta": FLOAT, "Phi": FLOAT, "Charge": INT},
    "MuonTight": {"PT": FLOAT, "Eta": FLOAT, "Phi": FLOAT, "Charge": INT},
    "Jet": {"PT": FLOAT, "Eta": FLOAT, "Phi": FLOAT, "Mass": FLOAT, "BTag": INT},
    "MissingET": {"MET": FLOAT, "Phi": FLOAT},
}
"""Collection -> field -> type, as Delphes names them. One ``list<struct>`` Parquet column a collection."""

ALIASES: Mapping[str, str] = {"MuonTight": "Muon"}
"""Collection -> the one read in its place where a file does not have it."""

OPTIONAL: Mapping[str, Mapping[str, float]] = {"Jet": {"Mass": 0.0}}
"""Collection -> field -> the value it gets where a file does not have it. No feature is made of these; any other field must be there."""

EVENT_COLUMNS: Mapping[str, str] = {
    "sample": "string",
    "label": INT,
    "event_id": "int64",
    "file": "string",
    "entry": "int64",
}
"""The flat Parquet columns beside the collections. ``sample`` is the class name, ``entry`` the row of ``file``'s tree."""


@dataclass(frozen=True)
class Feature:
    """A column of the store: its name and its unit (``"1"`` for a pure number)."""

    name: str
    unit: str


HLF = (
    Feature("HT", "GeV"),
    Feature("MET", "GeV"),
    Feature("PhiMET", "rad"),
    Feature("MT", "GeV"),
    Feature("nJets", "1"),
    Feature("nBJets", "1"),
    Feature("LepPt", "GeV"),
    Feature("LepEta", "1"),
    Feature("LepPhi", "rad"),
    Feature("LepIsoCh", "1"),
    Feature("LepIsoGamma", "1"),
    Feature("LepIsoNeu", "1"),
    Feature("LepCharge", "e"),
    Feature("LepIsEle", "1"),
)
"""The high-level features of an event, in the order of the published datasets (``MT`` is in GeV^2 under ``reference``)."""

PARTICLE = (
    Feature("Energy", "GeV"),
    Feature("Px", "GeV"),
    Feature("Py", "GeV"),
    Feature("Pz", "GeV"),
    Feature("Pt", "GeV"),
    Feature("Eta", "1"),
    Feature("Phi", "rad"),
    Feature("vtxX", "mm"),
    Feature("vtxY", "mm"),
    Feature("vtxZ", "mm"),
    Feature("ChPFIso", "1"),
    Feature("GammaPFIso", "1"),
    Feature("NeuPFIso", "1"),
    Feature("isChHad", "1"),
    Feature("isNeuHad", "1"),
    Feature("isGamma", "1"),
    Feature("isEle", "1"),
    Feature("isMu", "1"),
    Feature("Charge", "e"),
)
"""The low-level features of a particle, in the order of the published datasets."""

MAX_TRACKS, MAX_PHOTONS, MAX_NEUTRALS = 450, 150, 200
MAX_PARTICLES = 1 + MAX_TRACKS + MAX_PHOTONS + MAX_NEUTRALS
