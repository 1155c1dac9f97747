"""Delphes-like random events, for benchmarks on machines without data."""

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.identity import event_ids
from hepflow.data.ledger import Ledger
from hepflow.schema import EVENTS_SCHEMA_VERSION
from hepflow.system.files import write_json

CLASSES = ("qcd", "ttbar", "wjets")


def events(n: int, seed: int = 0) -> ak.Array:
    """Return events that pass the trigger: 440 candidates each, a quarter of them in four jets.

    As in simulated events with 20 pile-up interactions, an event has 270 tracks, 60 photons and 110
    neutral hadrons above threshold, and about 800 pairs closer than the isolation cone.
    """
    rng = np.random.default_rng(seed)
    axes = rng.uniform([-2.5, -np.pi], [2.5, np.pi], (n, 4, 2))

    def candidates(mean: float, threshold: float, momentum: str) -> dict[str, ak.Array]:
        counts = rng.poisson(mean, n)
        of_event = np.repeat(np.arange(n), counts)
        total = len(of_event)
        in_jet = rng.random(total) < 0.25
        axis = axes[of_event, rng.integers(0, 4, total)]
        eta = np.where(in_jet, axis[:, 0] + rng.normal(0, 0.25, total), rng.uniform(-4, 4, total))
        phi = np.where(
            in_jet, axis[:, 1] + rng.normal(0, 0.25, total), rng.uniform(-np.pi, np.pi, total)
        )
        phi = (phi + np.pi) % (2 * np.pi) - np.pi
        pt = threshold * (1 + rng.pareto(1.8, total))
        columns = {momentum: pt, "Eta": eta, "Phi": phi}
        if momentum == "PT":
            sign = rng.choice([-1, 1], total)
            columns |= {"PID": 211 * sign, "Charge": sign}
            columns |= {
                axis_name: rng.normal(0, width, total)
                for axis_name, width in (("X", 0.02), ("Y", 0.02), ("Z", 53.0))
            }
        return {name: ak.unflatten(_narrow(values), counts) for name, values in columns.items()}

    def fixed(number: int, **columns: np.ndarray) -> ak.Array:
        return ak.zip(
            {
                name: ak.unflatten(_narrow(values.ravel()), np.full(n, number))
                for name, values in columns.items()
            }
        )

    ones = rng.choice([-1, 1], (n, 1))
    jets = {
        "PT": rng.exponential(60, (n, 4)),
        "Eta": axes[:, :, 0],
        "Phi": axes[:, :, 1],
        "Mass": rng.exponential(8, (n, 4)),
    }
    far = np.full((n, 1), 4.3)  # isolates the lepton: jets end at 2.5
    collections = {
        "EFlowTrack": ak.zip(candidates(270, 0.5, "PT")),
        "EFlowPhoton": ak.zip(candidates(60, 1.0, "ET")),
        "EFlowNeutralHadron": ak.zip(candidates(110, 1.0, "ET")),
        "Electron": fixed(
            1,
            PT=60 + rng.exponential(20, (n, 1)),
            Eta=far,
            Phi=rng.uniform(-np.pi, np.pi, (n, 1)),
            Charge=ones,
        ),
        "MuonTight": fixed(0, PT=far[:0], Eta=far[:0], Phi=far[:0], Charge=ones[:0]),
        "Jet": fixed(4, **jets, BTag=rng.integers(0, 2, (n, 4))),
        "MissingET": fixed(
            1, MET=rng.exponential(30, (n, 1)), Phi=rng.uniform(-np.pi, np.pi, (n, 1))
        ),
    }
    return ak.zip(collections, depth_limit=1)


def write(folder: Path, chunk: ak.Array, fragments: int) -> None:
    """Write a dataset like ingest's: the same events ``fragments`` times, with new event_ids."""
    n = len(chunk)
    files = []
    columns = {
        name: ak.to_arrow(chunk[name], extensionarray=False, list_to32=True)
        for name in chunk.fields
    }
    for i in range(fragments):
        sample = CLASSES[i % len(CLASSES)]
        name = f"part-{i:05d}"
        flat = {
            "sample": [sample] * n,
            "label": pa.array([i % len(CLASSES)] * n, pa.int32()),
            "event_id": event_ids(name.encode(), np.arange(n)),
        }
        (folder / sample).mkdir(parents=True, exist_ok=True)
        table = pa.table({**flat, "file": [name] * n, "entry": np.arange(n), **columns})
        files.append(f"{sample}/{name}.parquet")
        pq.write_table(table, folder / files[-1], compression="zstd", row_group_size=1000)
    about = {
        "schema_version": EVENTS_SCHEMA_VERSION,
        "classes": list(CLASSES),
        "provenance": f"generated {n} x {fragments}",
    }
    write_json(
        folder / "_hepflow.json",
        {
            **about,
            "ledger": Ledger(n * fragments, n * fragments).to_dict(),
            "files": [],
            "fragments": files,
        },
    )


def _narrow(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int32 if np.issubdtype(values.dtype, np.integer) else np.float32)
