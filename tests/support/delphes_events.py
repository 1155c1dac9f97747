"""Events for tests: from dicts, from ROOT files, at random; as awkward arrays and as a dataset."""

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.schema import COLLECTIONS, EVENTS_SCHEMA_VERSION
from hepflow.system.files import write_json

TYPES = {"float32": pa.float32(), "int32": pa.int32()}
COLLECTION_TYPES = {
    name: pa.list_(
        pa.field(
            "element",
            pa.struct([pa.field(f, TYPES[kind], nullable=False) for f, kind in fields.items()]),
            nullable=False,
        )
    )
    for name, fields in COLLECTIONS.items()
}
SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=False) for name, kind in COLLECTION_TYPES.items()]
)


def event(**collections):
    """A plain event: a dict of collections, those not given empty."""
    return {name: collections.get(name, []) for name in COLLECTIONS}


def track(pt, eta=0.0, phi=0.0, pid=211, charge=1, vertex=(0.0, 0.0, 0.0)):
    return {
        "PID": pid,
        "Charge": charge,
        "PT": pt,
        "Eta": eta,
        "Phi": phi,
        **dict(zip("XYZ", vertex, strict=True)),
    }


def neutral(et, eta=0.0, phi=0.0):
    return {"ET": et, "Eta": eta, "Phi": phi}


def lepton(pt, eta=0.0, phi=0.0, charge=-1):
    return {"PT": pt, "Eta": eta, "Phi": phi, "Charge": charge}


def jet(pt, eta=0.0, btag=0):
    return {"PT": pt, "Eta": eta, "Phi": 0.0, "Mass": 5.0, "BTag": btag}


def to_awkward(events):
    """Plain events as Parquet would give them, rounded to 32 bits."""
    return ak.from_arrow(to_arrow(events))


def to_arrow(events):
    return pa.table(
        [pa.array([e[name] for e in events], kind) for name, kind in COLLECTION_TYPES.items()],
        schema=SCHEMA,
    )


def from_root(path, stop=None):
    """Events of a ROOT file, read as simply as can be."""
    tree = uproot.open(path)["Delphes"]
    names = set(tree.keys(full_paths=False))
    collections = {}
    for name, fields in COLLECTIONS.items():
        source = name if f"{name}.{next(iter(fields))}" in names else "Muon"
        arrays = tree.arrays([f"{source}.{field}" for field in fields], entry_stop=stop)
        collections[name] = ak.zip(
            {
                field: ak.values_astype(arrays[f"{source}.{field}"], kind)
                for field, kind in fields.items()
            }
        )
    return ak.zip(collections, depth_limit=1)


def random_event(rng, n_tracks=30, n_photons=8, n_hadrons=12, electrons=1, muons=0, scale=1.0):
    """An event whose candidates crowd in part around its first lepton."""

    def angles():
        near = rng.random() < 0.3
        return {
            "Eta": float(rng.normal(0.5, 0.2 if near else 2.0)),
            "Phi": float(rng.uniform(-0.4, 0.4) if near else rng.uniform(-np.pi, np.pi)),
        }

    def leptons(n):
        return [
            {
                **lepton(23.0 + float(rng.exponential(20.0)), charge=int(rng.choice([-1, 1]))),
                **angles(),
            }
            for _ in range(n)
        ]

    tracks = [
        {
            **track(
                scale * (0.3 + float(rng.exponential(1.0))),
                pid=int(rng.choice([211, -211, 13])),
                charge=int(rng.choice([-1, 1])),
            ),
            **angles(),
        }
        for _ in range(n_tracks)
    ]
    for t in tracks:
        t["X"], t["Y"], t["Z"] = (float(v) for v in rng.normal(0.0, [0.02, 0.02, 50.0]))
    photons, hadrons = (
        [{**neutral(scale * (0.5 + float(rng.exponential(2.0)))), **angles()} for _ in range(n)]
        for n in (n_photons, n_hadrons)
    )
    jets = [
        jet(float(rng.exponential(40.0)), float(rng.normal(0.0, 2.0)), int(rng.integers(0, 4)))
        for _ in range(int(rng.integers(0, 6)))
    ]
    met = [{"MET": float(rng.exponential(30.0)), "Phi": float(rng.uniform(-np.pi, np.pi))}]
    return event(
        EFlowTrack=tracks,
        EFlowPhoton=photons,
        EFlowNeutralHadron=hadrons,
        Electron=leptons(electrons),
        MuonTight=leptons(muons),
        Jet=jets,
        MissingET=met,
    )


def random_events(n, seed=0, **sizes):
    rng = np.random.default_rng(seed)
    return [
        random_event(rng, electrons=int(rng.integers(0, 3)), muons=int(rng.integers(0, 3)), **sizes)
        for _ in range(n)
    ]


def write_fragment(
    folder: Path,
    name: str,
    events: pa.Table,
    label: int,
    sample: str,
    row_group_size: int = 100_000,
) -> int:
    """One Parquet file of a dataset; how many events it holds."""
    n = events.num_rows
    ids = event_ids(name.encode(), np.arange(n))
    flat = {
        "sample": [sample] * n,
        "label": pa.array([label] * n, pa.int32()),
        "event_id": ids,
        "file": [name] * n,
        "entry": np.arange(n),
    }
    table = pa.table({**flat, **{column: events[column] for column in COLLECTIONS}})
    (folder / sample).mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / sample / f"{name}.parquet", row_group_size=row_group_size)
    return n


def write_marker(
    folder: Path, n_events: int, classes=("qcd", "ttbar", "wjets"), version=EVENTS_SCHEMA_VERSION
) -> None:
    about = {
        "schema_version": version,
        "classes": list(classes),
        "provenance": "made by a test",
        "ledger": Ledger(n_events, n_events).to_dict(),
    }
    fragments = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.parquet"))
    write_json(folder / "_hepflow.json", {**about, "files": [], "fragments": fragments})


def write_dataset(
    folder: Path,
    fragments: int = 4,
    events: int = 20,
    seed: int = 0,
    classes=("qcd", "ttbar", "wjets"),
    **options,
) -> Path:
    """Write random events, ``events`` per fragment; the classes take fragments in turn."""
    total = 0
    for i in range(fragments):
        label = i % len(classes)
        total += write_fragment(
            folder,
            f"part-{i:03d}",
            to_arrow(random_events(events, seed + i)),
            label,
            classes[label],
            **options,
        )
    write_marker(folder, total, classes)
    return folder
