"""`hepflow ingest` against a plain process with uproot and pyarrow on the same branches and cuts.

python benchmarks/ingest.py [--quick] prints a table and, as the last line, one JSON object. The
contenders run in turn on the same files; medians. Wall time decides on a machine without other
load; otherwise compare the CPU time of all processes, including the JVM. The start of Spark and its
Python workers, once per run whatever its size, is printed but not counted. If
pyspark-root-datasource can be imported (pip install --no-deps --target DIR pyspark-root-datasource,
PYTHONPATH=DIR), it reads some of the files as well. Without --quick: peak memory of a task by size
of the file, and cost per event by number of files.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import awkward as ak
import numpy as np
import psutil
import pyarrow.parquet as pq
import uproot

from hepflow.config.engines import SparkConfig
from hepflow.config.stages import IngestConfig
from hepflow.data.task_records import RECORDS
from hepflow.engines.spark import spark_session, worker_environment
from hepflow.ingest.job import run
from hepflow.ingest.task import Settings, run_task
from hepflow.reading.ranges import EntryRange, SourceFile
from hepflow.reading.reader import Access
from hepflow.schema import COLLECTIONS
from hepflow.system.files import read_json
from hepflow.system.terminal import show, table

CORES = 2
OURS, RIVAL, RIVALS, ALONE = (
    "hepflow, Spark",
    "uproot + pyarrow",
    f"{CORES} x uproot + pyarrow",
    "hepflow, no Spark",
)
OTHER = "pyspark-root-datasource"
EVENTS = 400
"""Events per basket of every branch."""
MEAN = {
    "EFlowTrack": 340,
    "EFlowPhoton": 480,
    "EFlowNeutralHadron": 390,
    "Electron": 0.5,
    "MuonTight": 0.7,
    "Jet": 4,
}
"""Objects per event, as in Delphes with 20 pile-up interactions."""
MEAN_PT = {
    "EFlowTrack": 0.9,
    "EFlowPhoton": 0.5,
    "EFlowNeutralHadron": 0.7,
    "Electron": 20,
    "MuonTight": 25,
    "Jet": 40,
}
TARGET = 128 << 20
MANY_BASKETS = 2
"""Baskets per file in the test with many files: 14 MB."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--files", type=int, help=f"number of files, of {4 * EVENTS} events each")
    parser.add_argument(
        "--sizes",
        type=float,
        nargs="*",
        default=[0.2, 1, 4],
        help="GB of the files for peak memory",
    )
    parser.add_argument(
        "--numbers",
        type=int,
        nargs="*",
        default=[10, 100, 1000],
        help="numbers of files for the cost per event",
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        n_files = given.files or (24 if given.quick else 48)
        files = write_files(root / "raw" / "qcd", n_files, n_baskets=4)
        found: dict[str, object] = dict(
            compare(root, files, n_events=4 * EVENTS * n_files, repeats=3 if given.quick else 5)
        )
        if not given.quick:
            found["peak_mb_by_file_gb"] = peaks(root, given.sizes)
            found["seconds_per_1000_events_by_files"] = many_files(root, given.numbers)
    print(json.dumps(found))


def compare(root: Path, files: Sequence[Path], n_events: int, repeats: int) -> dict[str, float]:
    config = IngestConfig(
        input=root / "raw",
        output=root / "ours",
        samples={"qcd": ("qcd",)},
        spark=SparkConfig(master=f"local[{CORES}]"),
    )
    ways: dict[str, tuple[Path, int, Callable[[], None]]] = {
        OURS: (config.output, CORES, lambda: run(config)),
        RIVAL: (root / "plain", 1, lambda: plain(files, root / "plain")),
        RIVALS: (root / "plains", CORES, lambda: plains(files, root / "plains")),
        ALONE: (root / "alone", 1, lambda: alone(files, root / "alone")),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    started = time.perf_counter()
    with spark_session(config.spark, "benchmark") as spark:
        fresh(config.output, lambda: run(config))
        first = time.perf_counter() - started
        for _ in range(repeats):
            for name, (output, cores, work) in ways.items():
                seconds, cpu = fresh(output, work)
                rates[name].append((n_events / seconds / cores, n_events / cpu))
        if find_spec("pyspark_root_datasource"):
            seconds, cpu = fresh(root / "other", lambda: other(spark, files[:2], root / "other"))
            rates[OTHER] = [(8 * EVENTS / seconds / CORES, 8 * EVENTS / cpu)]
    middle = {
        name: [statistics.median(column) for column in zip(*pairs, strict=True)]
        for name, pairs in rates.items()
    }
    rows = []
    for name, (wall, cpu) in middle.items():
        rival_wall, rival_cpu = middle[RIVAL]
        by_wall, by_cpu = f"{wall / rival_wall:.2f}", f"{cpu / rival_cpu:.2f}"
        rows.append((name, f"{wall:,.0f}", by_wall, f"{cpu:,.0f}", by_cpu))
    columns = ("", "events/s per core", "ratio", "events per CPU second", "ratio")
    show(table(columns, rows, f"{n_events:,} events in {len(files)} files"))
    written, floats = bytes_per_event(config.output)
    print(f"starting Spark, and a first run: {first:.1f} s")
    print(f"{written:,.0f} bytes per event, {written / floats:.2f} of four bytes per number")
    if OTHER not in middle:
        print(f"{OTHER} is not installed: left out")
    ours = middle[OURS]
    found = {
        "ingest_vs_plain_per_core": ours[0] / middle[RIVAL][0],
        "ingest_vs_plain_per_cpu_second": ours[1] / middle[RIVAL][1],
        "ingest_vs_plain_on_both_cores": ours[0] / middle[RIVALS][0],
        "bytes_vs_float32": written / floats,
    }
    if OTHER in middle:
        found["ingest_vs_pyspark_root_datasource"] = ours[0] / middle[OTHER][0]
    return {name: round(value, 3) for name, value in found.items()}


def plain(files: Sequence[Path], output: Path) -> None:
    """Read, skim and write as a first version would, in one process."""
    output.mkdir(parents=True)
    for path in files:
        with uproot.open(path) as file:
            arrays = file["Delphes"].arrays(
                [f"{name}.{field}" for name, fields in COLLECTIONS.items() for field in fields]
            )
        events = {
            name: ak.zip({field: arrays[f"{name}.{field}"] for field in fields})
            for name, fields in COLLECTIONS.items()
        }
        passed = ak.any(events["Electron"].PT > 23, axis=1) | ak.any(
            events["MuonTight"].PT > 23, axis=1
        )
        events = {name: column[passed] for name, column in events.items()}
        for name, field, cut in (
            ("EFlowTrack", "PT", 0.5),
            ("EFlowPhoton", "ET", 1.0),
            ("EFlowNeutralHadron", "ET", 1.0),
        ):
            events[name] = events[name][events[name][field] > cut]
        table = ak.to_arrow_table(
            ak.zip(events, depth_limit=1), extensionarray=False, list_to32=True
        )
        pq.write_table(table, output / f"{path.stem}.parquet", compression="zstd")


def plains(files: Sequence[Path], output: Path) -> None:
    """Do the same on all cores, one process each."""
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        list(
            pool.map(
                plain,
                [files[number::CORES] for number in range(CORES)],
                [output / str(number) for number in range(CORES)],
            )
        )


def alone(files: Sequence[Path], output: Path) -> None:
    """Run ingest's task in this process: the difference is the cost of Spark."""
    (output / RECORDS).mkdir(parents=True)
    settings = Settings(output, ("qcd",), Access())
    for path in files:
        run_task(
            [EntryRange(SourceFile("qcd", path.name, str(path), path.stat().st_size, "1"))],
            settings,
        )


def other(spark: object, files: Sequence[Path], output: Path) -> None:
    """Read the same branches by a data source from PyPI, which cannot skim; Spark writes."""
    import_module("pyspark_root_datasource").register(spark)
    names = ",".join(f"{name}.{field}" for name, fields in COLLECTIONS.items() for field in fields)
    reader = (
        spark.read.format("root")
        .option("tree", "Delphes")
        .option("columns", names)
        .option("path", ",".join(map(str, files)))
    )
    reader.load().write.option("compression", "zstd").parquet(str(output))


def peaks(root: Path, sizes: Sequence[float]) -> dict[str, int]:
    """Return the peak MB of a task that reads one entry range, by GB of file; 0: only imports."""
    found = {"0": peak_of(None)}
    for size in sizes:
        path = root / "large.root"
        write(path, n_baskets=max(1, round(size * 1e9 / 7.2e6)))
        found[f"{path.stat().st_size / 1e9:.1f}"] = peak_of(path)
        path.unlink()
    print("peak memory of a task in MB, by GB of file:", found)
    return found


def peak_of(path: Path | None) -> int:
    code = f"from benchmarks.ingest import peak; peak({str(path or '')!r})"
    place, environment = Path(__file__).parents[1], os.environ | worker_environment()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=place,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout)


def peak(path: str) -> None:
    if path:
        size = Path(path).stat().st_size
        count = -(-size // TARGET)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / RECORDS).mkdir()
            split = EntryRange(SourceFile("qcd", "a.root", path, size, "1"), count // 2, count)
            run_task([split], Settings(Path(folder), ("qcd",), Access()))
    # not getrusage, which includes the memory of the parent before exec
    print(int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) >> 10)


def many_files(root: Path, numbers: Sequence[int]) -> dict[str, float]:
    """Return seconds per 1,000 events by number of equal files, after subtracting one file's run.

    A run on one small file is mostly the fixed cost of the job.
    """
    seconds = {}
    with spark_session(SparkConfig(master=f"local[{CORES}]"), "benchmark"):
        # the first run only starts Python workers on all cores
        for number in (numbers[0], 1, *numbers):
            raw = root / f"many{number}"
            write_files(raw / "qcd", number, n_baskets=MANY_BASKETS)
            # one task per file, so that ten files keep all cores busy as a thousand do
            config = IngestConfig(
                input=raw, output=root / "out", samples={"qcd": ("qcd",)}, target_partition_mb=16
            )
            seconds[number] = fresh(config.output, lambda config=config: run(config))[0]
            shutil.rmtree(raw)
    n_events = MANY_BASKETS * EVENTS
    found = {
        str(number): round((seconds[number] - seconds[1]) / (number - 1) / n_events * 1000, 4)
        for number in numbers
    }
    print(
        f"one file: {seconds[1]:.2f} s; additional seconds per 1,000 events by number of files "
        f"of {n_events:,} events:",
        found,
    )
    return found


def fresh(output: Path, work: Callable[[], None]) -> tuple[float, float]:
    """Delete the output, work, and return wall and CPU seconds, including the JVM's."""
    shutil.rmtree(output, ignore_errors=True)
    started, before = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - started, cpu_seconds() - before


def cpu_seconds() -> float:
    own = psutil.Process()
    living = [each.cpu_times() for each in (own, *own.children(recursive=True))]
    return sum(
        each.user + each.system + each.children_user + each.children_system for each in living
    )


def bytes_per_event(output: Path) -> tuple[float, float]:
    """Return the bytes per event of the Parquet files, and of all numbers at four bytes each."""
    about = read_json(output / "_hepflow.json")
    paths = [output / name for name in about["fragments"]]
    tables = (pq.read_table(path, columns=list(COLLECTIONS)) for path in paths)
    numbers = sum(
        len(table[name].combine_chunks().flatten()) * len(fields)
        for table in tables
        for name, fields in COLLECTIONS.items()
    )
    return sum(path.stat().st_size for path in paths) / about["n_events"], 4 * numbers / about[
        "n_events"
    ]


def write_files(folder: Path, n_files: int, n_baskets: int, n_events: int = EVENTS) -> list[Path]:
    """Write the same events to every file under another UUID, which makes them new events."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.root" for number in range(n_files)]
    content = bytearray(write(paths[0], n_baskets, n_events).read_bytes())
    with uproot.open(paths[0]) as file:
        place = content.index(file.file.uuid.bytes)
    for number, path in enumerate(paths[1:], 1):
        content[place : place + 16] = number.to_bytes(16, "big")
        path.write_bytes(content)
    return paths


def write(path: Path, n_baskets: int, n_events: int = EVENTS) -> Path:
    rng = np.random.default_rng(1)
    events = {name: collection(name, fields, n_events, rng) for name, fields in COLLECTIONS.items()}
    types = {name: str(column.type.content) for name, column in events.items()}
    with uproot.recreate(path) as file:
        tree = file.mktree(
            "Delphes",
            types,
            counter_name=lambda name: f"{name}_size",
            field_name=lambda outer, inner: f"{outer}.{inner}",
        )
        for _ in range(n_baskets):
            tree.extend(events)
    return path


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
