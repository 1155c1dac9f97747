"""Small ROOT files in Delphes layout with known content, and ways to damage them."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from hepflow.data.identity import event_ids
from hepflow.physics.skim import has_lepton
from hepflow.reading.delphes import DelphesFile
from hepflow.schema import COLLECTIONS
from hepflow_bench.copies import copy_as_new

N_PARTICLES = {
    "EFlowTrack": 30,
    "EFlowPhoton": 12,
    "EFlowNeutralHadron": 10,
    "Electron": 1,
    "MuonTight": 1,
    "Jet": 4,
}


def random_events(n: int, rng: np.random.Generator) -> dict[str, ak.Array]:
    """Collections of ``n`` events; about half of the events have a lepton above 23 GeV."""
    return {name: _collection(name, fields, n, rng) for name, fields in COLLECTIONS.items()}


def write_copies(template: Path, raw: Path, n: int) -> None:
    """Write ``n`` copies of a file with identities of their own, in turn of two classes."""
    for number in range(n):
        place = raw / ("qcd", "ttbar")[number % 2] / f"{number:02d}.root"
        copy_as_new(template, place, number + 1)


def write_delphes(
    path: Path,
    clusters: Sequence[int],
    seed: int = 0,
    leave_out: Sequence[str] = (),
    reshape: Callable[[dict[str, ak.Array]], dict[str, ak.Array]] = dict,
    tree_name: str = "Delphes",
    cycles: int = 1,
    **changed: Any,
) -> Path:
    """Write one basket per branch and cluster; ``clusters`` are their numbers of events.

    The tree has a number of ``cycles``, each with other events.
    ``changed`` replaces columns of the first cluster, ``reshape`` changes the layout of every one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    first = reshape(random_events(1, rng))
    types = {
        name: str(column.type.content) for name, column in first.items() if name not in leave_out
    }
    naming: dict[str, Any] = {
        "counter_name": lambda name: f"{name}_size",
        "field_name": lambda outer, inner: f"{outer}.{inner}",
    }
    with uproot.recreate(path) as file:
        for _ in range(cycles):
            tree = file.mktree(tree_name, types, **naming)
            for number, n in enumerate(clusters):
                events = reshape(random_events(n, rng)) | (changed if number == 0 else {})
                if n:
                    tree.extend({name: events[name] for name in types})
    return path


def corrupt_basket(path: Path, branch: str = "EFlowTrack.PT", basket: int = 0) -> Path:
    """Overwrite the compressed bytes of one basket."""
    with uproot.open(path) as file:
        where = file["Delphes"][branch]
        seek, size = (
            int(where.member("fBasketSeek")[basket]),
            int(where.member("fBasketBytes")[basket]),
        )
    content = bytearray(path.read_bytes())
    content[seek + size // 2 : seek + size] = b"\xff" * (size - size // 2)
    path.write_bytes(content)
    return path


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike those of pytest, and without a blank.

    Servers of other projects do not take a blank in a path.
    """
    place = "/tmp" if " " in tempfile.gettempdir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def _collection(name: str, fields: dict[str, str], n: int, rng: np.random.Generator) -> ak.Array:
    counts = np.ones(n, dtype=int) if name == "MissingET" else rng.poisson(N_PARTICLES[name], n)
    total = int(counts.sum())
    values = {field: _values(field, kind, total, rng) for field, kind in fields.items()}
    return ak.unflatten(ak.zip(values), counts)


def _values(field: str, kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if field == "BTag":
        return rng.integers(0, 8, n).astype(np.uint32)
    if kind == "int32":
        return rng.integers(-1, 2, n).astype(np.int32)
    return rng.exponential(20.0, n).astype(np.float32)


def passing_ids(raw: Path) -> list[int]:
    """Return the ids of the events below a folder that ingest keeps."""
    found = []
    for path in raw.rglob("*.root"):
        with DelphesFile(str(path)) as file:
            for start, stop, events in file.iterate(0, file.n_entries):
                found += event_ids(file.uuid, np.arange(start, stop))[has_lepton(events)].tolist()
    return sorted(found)
