"""A stage without hepflow, in one process.

Usage: `python -m hepflow_bench.rivals STAGE [NET] INPUTS OUTPUT EPOCHS`.

``ingest`` reads the same branches with uproot, applies the same cuts and writes Parquet with
pyarrow. ``train NET`` follows the reference in PyTorch: a DataLoader over a TensorDataset, batches
of 128, torch.nn.GRU over events padded to 801 particles, all in memory before the clock starts; it
neither validates nor saves anything. Both write a run.json with the events and the seconds.
"""

import sys
import time
from itertools import zip_longest
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import torch
import uproot
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hepflow.data.runs import RECORD
from hepflow.data.store import EventStore
from hepflow.schema import COLLECTIONS, HLF, MAX_PARTICLES, PARTICLE
from hepflow.system.files import write_json
from hepflow_bench.cases import BATCH

LONG_ENOUGH_S = 20.0
MOST_PADDED = 10_000
"""Maximum events in memory, of 61 kB each."""
# the cuts of hepflow.physics.skim, written again: an independent version must not share them
LEPTON_PT = 23.0
SOFTEST = (("EFlowTrack", "PT", 0.5), ("EFlowPhoton", "ET", 1.0), ("EFlowNeutralHadron", "ET", 1.0))


def ingest(raw: Path, output: Path) -> int:
    """Convert ROOT files to Parquet, file by file; return the number of events read."""
    n_events = 0
    for path in sorted(raw.glob("*/*.root")):
        with uproot.open(path) as file:
            arrays = file["Delphes"].arrays(
                [f"{name}.{field}" for name, fields in COLLECTIONS.items() for field in fields]
            )
        n_events += len(arrays)
        events = {
            name: ak.zip({field: arrays[f"{name}.{field}"] for field in fields})
            for name, fields in COLLECTIONS.items()
        }
        passed = ak.any(events["Electron"].PT > LEPTON_PT, axis=1) | ak.any(
            events["MuonTight"].PT > LEPTON_PT, axis=1
        )
        events = {name: column[passed] for name, column in events.items()}
        for name, field, cut in SOFTEST:
            events[name] = events[name][events[name][field] > cut]
        table = ak.to_arrow_table(
            ak.zip(events, depth_limit=1), extensionarray=False, list_to32=True
        )
        (output / path.parent.name).mkdir(parents=True, exist_ok=True)
        pq.write_table(
            table, output / path.parent.name / f"{path.stem}.parquet", compression="zstd"
        )
    return n_events


class Stock(nn.Module):
    """The three nets of 2019, made of PyTorch's layers."""

    def __init__(self, net: str) -> None:
        super().__init__()
        self.net = net
        n_hlf, n_particle, hidden = len(HLF), len(PARTICLE), 50
        self.gru = nn.GRU(n_particle, hidden, batch_first=True)
        self.drop = nn.Dropout(0.2)
        heads: dict[str, list[nn.Module]] = {
            "hlf": [
                *(nn.Linear(n_hlf, 50), nn.ReLU(), nn.Linear(50, 20), nn.ReLU()),
                *(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 3)),
            ],
            "sequence": [nn.Linear(hidden, 3)],
            "inclusive": [nn.Linear(hidden + n_hlf, 25), nn.ReLU(), nn.Linear(25, 3)],
        }
        self.head = nn.Sequential(*heads[net])

    def forward(self, hlf: Tensor, particles: Tensor) -> Tensor:
        """Return (events, 3) logits of (events, 14) and (events, 801, 19) features."""
        if self.net == "hlf":
            return self.head(hlf)
        summary = self.drop(self.gru(particles)[1][-1])
        return self.head(
            summary if self.net == "sequence" else torch.cat([summary, self.drop(hlf)], dim=1)
        )


def train(net: str, store: Path, epochs: int) -> tuple[int, float]:
    """Train, for `LONG_ENOUGH_S` at most; return the number of events and the seconds."""
    loader = DataLoader(
        TensorDataset(*_padded(EventStore.open(store), particles=net != "hlf")),
        batch_size=BATCH,
        shuffle=True,
    )
    model = Stock(net)
    optimizer = torch.optim.Adam(model.parameters())
    n_events, start = 0, time.perf_counter()
    for _ in range(epochs):
        for hlf, particles, label in loader:
            if time.perf_counter() - start > LONG_ENOUGH_S:
                break
            optimizer.zero_grad()
            loss: Tensor = functional.cross_entropy(model(hlf, particles), label)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            n_events += len(label)
    return n_events, time.perf_counter() - start


def _padded(store: EventStore, *, particles: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return standardised (N, 14), zero-padded (N, 801, 19) or unused (N, 0), and (N) labels."""
    in_turn = zip_longest(*(store.ranges("train", name) for name in store.spec.classes))
    ranges = [rows for of_each in in_turn for rows in of_each if rows is not None]
    blocks, n_events = [], 0
    for rows in ranges:
        if particles and n_events > MOST_PADDED:
            break
        blocks.append(store.read(rows, particles=particles))
        n_events += rows.n_events
    hlf = np.concatenate([block.hlf for block in blocks])
    label = np.concatenate([block.label for block in blocks]).astype(np.int64)
    whole = np.zeros(
        (len(label), MAX_PARTICLES, len(PARTICLE)) if particles else (len(label), 0),
        dtype=np.float32,
    )
    if particles:
        event = 0
        for block in blocks:
            for begin, end in zip(block.offsets[:-1], block.offsets[1:], strict=True):
                whole[event, : end - begin] = block.particles[begin:end]
                event += 1
    hlf = (hlf - hlf.mean(axis=0)) / np.maximum(hlf.std(axis=0), 1e-6)
    return torch.from_numpy(hlf), torch.from_numpy(whole), torch.from_numpy(label)


def main(stage: str, *rest: str) -> None:
    """Run a stage and record its events and seconds."""
    *net, inputs, folder, epochs = rest
    output = Path(folder)
    output.mkdir(parents=True)
    if stage == "train":
        n_events, seconds = train(net[0], Path(inputs) / "features.zarr", int(epochs))
    else:
        start = time.perf_counter()
        n_events = ingest(Path(inputs) / "raw", output)
        seconds = time.perf_counter() - start
    write_json(output / RECORD, {"events_trained": n_events, "wall_s": seconds})


if __name__ == "__main__":
    main(*sys.argv[1:])
