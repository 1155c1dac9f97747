"""hepflow ingest beside a plain process that reads the same branches with uproot, skims them and writes Parquet with pyarrow.

python benchmarks/ingest.py [--quick]: a table, and as the last line one JSON object. The two take turns on the same files; medians.
Wall time is what counts, on a machine that has nothing else to do; the CPU time of all processes, the JVM's too, is there for others.
Not counted, but printed: starting Spark and its Python workers, once a run whatever its size.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import psutil
import pyarrow.parquet as pq
import uproot
from rich.console import Console
from rich.table import Table

from hepflow.config import IngestConfig, SparkConfig
from hepflow.ingest.fragment import RECORDS, Settings, run_task
from hepflow.ingest.job import run
from hepflow.ingest.share import Access
from hepflow.ingest.splits import SourceFile, Split
from hepflow.ledger import read_json
from hepflow.schema import COLLECTIONS
from hepflow.spark import session

CORES = 2
MEAN = {"EFlowTrack": 340, "EFlowPhoton": 480, "EFlowNeutralHadron": 390, "Electron": 0.5, "MuonTight": 0.7, "Jet": 4}
"""Objects an event, as in Delphes with pile-up 20."""
MEAN_PT = {"EFlowTrack": 0.9, "EFlowPhoton": 0.5, "EFlowNeutralHadron": 0.7, "Electron": 20, "MuonTight": 25, "Jet": 40}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = write_files(root / "raw" / "qcd", n_files=16 if quick else 40, n_events=400)
        found = compare(root, files, n_events=400 * len(files), repeats=3 if quick else 5)
        if not quick:
            found |= {"peak_mb_by_file_mb": peaks(root), "cost_of_many_files": many_files(root)}
    print(json.dumps(found))


def compare(root: Path, files: Sequence[Path], n_events: int, repeats: int) -> dict[str, float]:
    config = IngestConfig(input=root / "raw", output=root / "ours", samples={"qcd": ("qcd",)}, spark=SparkConfig(master=f"local[{CORES}]"))
    started = time.perf_counter()
    ways: dict[str, tuple[Path, Callable[[], None]]] = {
        "hepflow, Spark": (config.output, lambda: run(config)),
        "uproot + pyarrow": (root / "plain", lambda: plain(files, root / "plain")),
        "hepflow, no Spark": (root / "alone", lambda: alone(files, root / "alone")),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    with session(config.spark, "benchmark"):
        fresh(config.output, lambda: run(config))
        start = time.perf_counter() - started
        for _ in range(repeats):
            for name, (output, work) in ways.items():
                before = cpu_seconds()
                wall[name].append(fresh(output, work) * (CORES if name == "hepflow, Spark" else 1))
                cpu[name].append(cpu_seconds() - before)
    output = config.output
    about = read_json(output / "_hepflow.json")
    written = sum((output / name).stat().st_size for name in about["fragments"]) / about["n_events"]
    rival = "uproot + pyarrow"
    by_wall, by_cpu = ({name: n_events / statistics.median(times) for name, times in found.items()} for found in (wall, cpu))
    table = Table("", "events/s a core", "ratio", "events a CPU second", "ratio", title=f"{n_events:,} events in {len(files)} files")
    for name in ways:
        ratios = (f"{rates[name] / rates[rival]:.2f}" for rates in (by_wall, by_cpu))
        table.add_row(name, f"{by_wall[name]:,.0f}", next(ratios), f"{by_cpu[name]:,.0f}", next(ratios))
    console = Console()
    console.print(table)
    floats = float32_size(output, about["fragments"]) / about["n_events"]
    console.print(
        f"starting Spark and a first run: {start:.1f} s; {written:,.0f} bytes an event, {written / floats:.2f} of its 4-byte numbers"
    )
    return {
        "ingest_vs_plain_per_core": round(by_wall["hepflow, Spark"] / by_wall[rival], 3),
        "ingest_vs_plain_per_cpu_second": round(by_cpu["hepflow, Spark"] / by_cpu[rival], 3),
        "bytes_vs_float32": round(written / floats, 3),
    }


def cpu_seconds() -> float:
    """Of this process and all it started: Python workers and the JVM."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def plain(files: Sequence[Path], output: Path) -> None:
    """What one would write first."""
    output.mkdir(parents=True)
    for path in files:
        with uproot.open(path) as file:
            arrays = file["Delphes"].arrays([f"{name}.{field}" for name, fields in COLLECTIONS.items() for field in fields])
        events = {name: ak.zip({field: arrays[f"{name}.{field}"] for field in fields}) for name, fields in COLLECTIONS.items()}
        passed = ak.any(events["Electron"].PT > 23, axis=1) | ak.any(events["MuonTight"].PT > 23, axis=1)
        events = {name: column[passed] for name, column in events.items()}
        for name, field, cut in (("EFlowTrack", "PT", 0.5), ("EFlowPhoton", "ET", 1.0), ("EFlowNeutralHadron", "ET", 1.0)):
            events[name] = events[name][events[name][field] > cut]
        table = ak.to_arrow_table(ak.zip(events, depth_limit=1), extensionarray=False, list_to32=True)
        pq.write_table(table, output / f"{path.stem}.parquet", compression="zstd")


def alone(files: Sequence[Path], output: Path) -> None:
    """Our task in this process: what Spark adds is the difference."""
    (output / RECORDS).mkdir(parents=True)
    settings = Settings(output, ("qcd",), Access())
    for path in files:
        run_task([Split(SourceFile("qcd", path.name, str(path), path.stat().st_size, "1"))], settings)


def peaks(root: Path) -> dict[str, int]:
    """Peak memory of a process that ingests one share of a large file, by the size of the file."""
    found = {}
    for n_blocks in (10, 50, 200):
        path = write_files(root / "large", 1, 400, n_blocks)[0]
        mb = path.stat().st_size >> 20
        code = f"from benchmarks.ingest import peak_of_a_share; peak_of_a_share({str(path)!r})"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        found[str(mb)] = int(done.stdout)
        path.unlink()
    Console().print("peak memory of a task in MB, by megabytes of file:", found)
    return found


def peak_of_a_share(path: str) -> None:
    size = Path(path).stat().st_size
    count = -(-size // (128 << 20))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / RECORDS).mkdir()
        split = Split(SourceFile("qcd", "a.root", path, size, "1"), count // 2, count)
        run_task([split], Settings(Path(folder), ("qcd",), Access()))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)


def many_files(root: Path) -> dict[str, float]:
    """Seconds per 1,000 events, by the number of files that hold them."""
    found = {}
    for n_files in (10, 100, 1000):
        raw = root / f"many{n_files}"
        write_files(raw / "qcd", n_files, 20)
        config = IngestConfig(input=raw, output=root / "out", samples={"qcd": ("qcd",)}, spark=SparkConfig(master=f"local[{CORES}]"))
        with session(config.spark, "benchmark"):
            fresh(config.output, lambda config=config: run(config))
            found[str(n_files)] = round(fresh(config.output, lambda config=config: run(config)) / (n_files * 20) * 1000, 3)
    Console().print("seconds per 1,000 events, by number of files of 20 events:", found)
    return found


def fresh(output: Path, work: Callable[[], None]) -> float:
    subprocess.run(["rm", "-rf", output], check=True)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def float32_size(output: Path, fragments: Sequence[str]) -> int:
    """Bytes of all kept numbers of the collections, four each."""
    tables = (pq.read_table(output / name, columns=list(COLLECTIONS)) for name in fragments)
    return 4 * sum(len(table[name].combine_chunks().flatten()) * len(fields) for table in tables for name, fields in COLLECTIONS.items())


def write_files(folder: Path, n_files: int, n_events: int, n_blocks: int = 1) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    events = {name: collection(name, fields, n_events, rng) for name, fields in COLLECTIONS.items()}
    types = {name: str(column.type.content) for name, column in events.items()}
    paths = [folder / f"{number:05d}.root" for number in range(n_files)]
    for path in paths:
        with uproot.recreate(path) as file:
            tree = file.mktree(
                "Delphes", types, counter_name=lambda name: f"{name}_size", field_name=lambda outer, inner: f"{outer}.{inner}"
            )
            for _ in range(n_blocks):
                tree.extend(events)
    return paths


def collection(name: str, fields: dict[str, str], n: int, rng: np.random.Generator) -> ak.Array:
    counts = rng.poisson(MEAN[name], n) if name in MEAN else np.ones(n, dtype=int)
    values = {}
    for field, kind in fields.items():
        whole = kind == "int32"
        numbers = rng.integers(-1, 2, counts.sum()) if whole else rng.normal(0, 2, counts.sum())
        if field in {"PT", "ET", "MET"}:
            numbers = rng.exponential(MEAN_PT.get(name, 30), counts.sum())
        values[field] = numbers.astype(kind)
    return ak.unflatten(ak.zip(values), counts)


if __name__ == "__main__":
    main()
