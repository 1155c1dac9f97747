"""Faults while a stage runs: the bytes of an undisturbed run, or exactly what is named is missing.

| fault | ingest | features | score | train |
|---|---|---|---|---|
| reads that fail, are slow or short | here | here | here | here |
| a part of a file that cannot be read | here | one line | here | one line |
| a full disk, no inode left, a read-only output | here | here | here | here |
| a second run | here | here | here | here |
| a clock that jumps | `test_clock_jumps.py` | the same | the same | the same |
| slow and killed tasks, twice | `test_speculation.py` | | | |
| too little memory | here | `test_dask_on_spark.py` | `test_folder.py` | `test_memory.py` |
| killed workers and drivers | `test_killed.py` | the same | `test_folder.py` | `test_ddp.py` |
| death at each change of a file | `test_faults.py` | the same | the same | the same |
| a store that stays away | `test_store_faults.py` | the same | the same | the same |
"""

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from hepflow.config.engines import ClusterConfig
from hepflow.config.score import ScoreConfig
from hepflow.config.shipped import shipped
from hepflow.config.stages import FeaturesConfig
from hepflow.data.ledger import Ledger
from hepflow.data.store import EventStore
from hepflow.errors import DataError
from hepflow.features import job as features
from hepflow.ingest.task import Settings, run_task
from hepflow.physics.skim import has_lepton
from hepflow.reading import ends
from hepflow.reading.delphes import read_delphes
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import plan
from hepflow.reading.reader import Access
from hepflow.score.folder import ScoreFolder
from hepflow.score.inputs import ranges_of
from hepflow.score.tables import read_scores
from hepflow.score.task import prepare, score_task
from hepflow.system.files import read_json
from hepflow.system.locks import exclusive
from hepflow.system.places import place
from hepflow.system.storage import listed
from tests.support import faulty_files
from tests.support.commands import FORKS, hepflow, start_server
from tests.support.faulty_files import FAULTS, described
from tests.support.root_files import write_delphes
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest, untrained, write_raw
from tests.support.trainings import assert_same, fit, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CLASSES = ("qcd", "ttbar")
RANGE_BYTES = 60_000  # so that files have several entry ranges


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files, and what stages make of them undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for seed, name in enumerate(("qcd/a", "qcd/b", "ttbar/c")):
        write_raw(folder / "raw" / f"{name}.root", [40, 40, 40], seed=seed)
    ingest(folder / "raw", folder / "events", CLASSES, RANGE_BYTES)
    untrained(folder / "model", folder / "raw" / "qcd" / "a.root")
    toy_store(folder / "toy.zarr", events=60)
    score(str(folder / "raw"), folder / "model" / "model.onnx", folder / "scores")
    return folder


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Let reads through ``faulty://`` go wrong, here and in all processes that are started."""
    monkeypatch.setenv("PYTHONPATH", faulty_files.installed(tmp_path / "installed"))
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))  # which spawned workers inherit
    # small ends, or there would be no read between them
    monkeypatch.setattr(ends, "HEAD_BYTES", 1 << 10)
    monkeypatch.setattr(ends, "TAIL_BYTES", 16 << 10)
    faulty_files.forget()
    yield lambda **how: monkeypatch.setenv(FAULTS, described(**how))
    faulty_files.forget()


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files, without the times in records, on which their checksums depend."""
    return {
        str(path.relative_to(folder)): re.sub(
            rb'"(seconds|bytes_read)": [0-9.e-]+|"_checksum": "[^"]+"', b"", path.read_bytes()
        ).replace(b"faulty://", b"")
        for path in folder.rglob("*")
        if path.is_file()
    }


def score(raw: str, model: Path, output: Path, retries: int = 3) -> ScoreFolder:
    config = ScoreConfig(input=raw, model=model, output=output, retries=retries)
    _, task, about = prepare(config)
    scores = ScoreFolder(task.output, about)
    task = replace(task, run=scores.run)
    for entries in scores.pending(ranges_of(raw, task.access, RANGE_BYTES)):
        scores.add(score_task((entries,), task))
    scores.finish(complete=True)
    return scores


EVERY = [(kind, rate) for kind in ("fail", "short") for rate in (0.01, 0.05, 0.2)]
READS = [pytest.param(*one, id=f"{one[0]}-{one[1]:.0%}") for one in (*EVERY, ("slow", 0.2))]
READS[2] = pytest.param("fail", 0.2, id="fail-20%", marks=pytest.mark.once)


@pytest.mark.parametrize(("kind", "rate"), READS)
def test_ingest_and_score_give_the_same_bytes_where_reads_go_wrong(
    here: Path, tmp_path: Path, faults: Callable[..., None], kind: str, rate: float
) -> None:
    faults(kind=kind, rate=rate, most=1)
    url = f"faulty://{here}/raw"
    ingest(url, tmp_path / "events", CLASSES, RANGE_BYTES)
    assert contents(tmp_path / "events") == contents(here / "events")
    score(url, here / "model" / "model.onnx", tmp_path / "scores")
    assert read_scores(tmp_path / "scores").equals(read_scores(here / "scores"))
    assert faulty_files.met[kind] > 0


@pytest.mark.parametrize("kind", ["fail", "short"])
def test_scores_of_a_dataset_are_the_same_where_reads_go_wrong(
    here: Path, tmp_path: Path, faults: Callable[..., None], kind: str
) -> None:
    model = here / "model" / "model.onnx"
    score(str(here / "events"), model, tmp_path / "calm")
    faults()
    assert listed(place(f"faulty://{here}/events"))  # a store that has answered is waited for
    faults(kind=kind, rate=0.5, most=1)
    found = score(f"faulty://{here}/events", model, tmp_path / "scores")
    assert found.ledger.lost == ()
    assert faulty_files.met[kind] > 0
    assert read_scores(tmp_path / "scores").equals(read_scores(tmp_path / "calm"))


@pytest.mark.parametrize("kind", ["fail", "short", "slow"])
def test_features_and_a_training_are_the_same_where_reads_go_wrong(
    here: Path, tmp_path: Path, faults: Callable[..., None], kind: str
) -> None:
    cluster = ClusterConfig(workers=1)
    how: dict[str, Any] = {"cluster": cluster, "part_mb": 0.001}
    features.run(FeaturesConfig(input=here / "events", output=tmp_path / "calm.zarr", **how))
    fit(EventStore.open(here / "toy.zarr"), tmp_path / "calm", "--trainer.max_epochs", "1")
    faults()
    events = place(f"faulty://{here}/events")
    assert listed(events)
    faults(kind=kind, rate=0.2, most=1)  # the second read of a process, as it must have heard once
    features.run(FeaturesConfig(input=events, output=tmp_path / "s.zarr", **how))
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "calm.zarr")
    store = EventStore.open(place(f"faulty://{here}/toy.zarr"))
    fit(store, tmp_path / "run", "--trainer.max_epochs", "1")
    assert faulty_files.met[kind] > 0
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "calm"))


def baskets(path: Path, cluster: int) -> tuple[int, int]:
    """Return the bytes of one basket of a cluster."""
    with uproot.open(path) as file:
        branch = file["Delphes"]["EFlowTrack.PT"]
        first = int(branch.member("fBasketSeek")[cluster])
        return first, first + int(branch.member("fBasketBytes")[cluster])


def passing(path: Path, name: str) -> set[tuple[str, int]]:
    return {(name, int(entry)) for entry in np.flatnonzero(has_lepton(read_delphes(path)))}


@pytest.mark.once
def test_exactly_the_named_entries_are_missing_where_bytes_cannot_be_read(
    here: Path, tmp_path: Path, faults: Callable[..., None]
) -> None:
    faults(always={"qcd/b.root": baskets(here / "raw" / "qcd" / "b.root", 1)})
    url = f"faulty://{here}/raw"
    ingest(url, tmp_path / "events", CLASSES, RANGE_BYTES, Access(retries=0))
    (row,) = read_json(tmp_path / "events" / "_lost.json")["lost"]
    assert row["file"] == "qcd/b.root"
    assert "I/O error (the server hung up)" in row["reason"]
    missing = {entry for start, stop in row["entries"] for entry in range(start, stop)}
    assert len(missing) == row["events"]
    assert set(range(40, 80)) <= missing < set(range(120))
    about = read_json(tmp_path / "events" / "_hepflow.json")
    assert Ledger.from_dict(about["ledger"]).n_lost == len(missing)
    found = set()
    for fragment in about["fragments"]:
        table = pq.read_table(tmp_path / "events" / fragment, columns=["file", "entry"])
        rows = zip(table["file"].to_pylist(), table["entry"].to_pylist(), strict=True)
        found |= set(rows)
    everything = set[tuple[str, int]]()
    for name in ("qcd/a", "qcd/b", "ttbar/c"):
        everything |= passing(here / "raw" / f"{name}.root", f"{name}.root")
    assert everything - found == {one for one in everything if one[0] == row["file"]} - found
    assert {entry for _, entry in everything - found} == {
        entry for name, entry in everything if name == row["file"] and entry in missing
    }
    scored = score(url, here / "model" / "model.onnx", tmp_path / "scores", retries=0)
    assert scored.ledger.n_lost == len(missing)
    assert read_json(tmp_path / "scores" / "_lost.json")["lost"][0]["entries"] == row["entries"]
    faults()
    ingest(url, tmp_path / "events", CLASSES, RANGE_BYTES)
    assert contents(tmp_path / "events") == contents(here / "events")
    score(url, here / "model" / "model.onnx", tmp_path / "scores")
    assert read_scores(tmp_path / "scores").equals(read_scores(here / "scores"))


def test_events_that_cannot_be_read_end_features_in_one_line(
    here: Path, tmp_path: Path, faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hepflow.system.patience.PATIENCE_S", 1.0)
    faults(always={".parquet": (0, 1 << 30)})
    config = FeaturesConfig(
        input=place(f"faulty://{here}/events"),
        output=tmp_path / "s.zarr",
        cluster=ClusterConfig(workers=1),
    )
    with pytest.raises(DataError, match=r"run the same command again") as error:
        features.run(config)
    assert "Remove it" not in str(error.value)


# --- places


STAGES = {
    "ingest": ("ingest", "--samples={qcd: [qcd], ttbar: [ttbar]}", "--spark.master=local[1]"),
    "features": ("features", "--cluster.workers=1"),
    "score": ("score", "--cluster.workers=1"),
    "train": (
        "train",
        "fit",
        f"--config={shipped('train/hlf.yaml')}",
        "--trainer.max_epochs=1",
        "--data.batch_size=32",
    ),
}


def command(stage: str, here: Path, output: Path) -> tuple[str, ...]:
    inputs = {"ingest": here / "raw", "features": here / "events", "score": here / "raw"}
    if stage == "train":
        return (*STAGES[stage], f"--data.store={here / 'toy.zarr'}", f"--output={output}")
    more = (f"--model={here / 'model' / 'model.onnx'}",) if stage == "score" else ()
    return (*STAGES[stage], f"--input={inputs[stage]}", f"--output={output}", *more)


def one_line(ended: subprocess.CompletedProcess[str], match: str) -> None:
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert re.search(rf"^hepflow: error: .*{match}", ended.stderr, re.MULTILINE), ended.stderr
    assert ended.stderr.count("hepflow: error") == 1


def made(stage: str, output: Path) -> Any:
    """Return what must be the same after a fault as without one."""
    if stage == "score":
        return read_scores(output)
    if stage == "train":
        return {name: w.tolist() for name, w in weights(output).items()}
    return {
        name: content
        for name, content in contents(output).items()
        if not name.startswith(("_records", "_parts"))
    }


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a file system in memory, or mounts it again, with options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = list[str]()

    def mount(options: str) -> Path:
        again = ["remount," + options] if mounted else [options]
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", *again, "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs ({done.stderr.decode().strip()})")
        mounted.append(options)
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=False)


PLACES = {
    "full": ("size=16k", "size=64m", "No space left on device"),
    "no inode": ("size=64m,nr_inodes=5", "nr_inodes=100k", "No space left on device"),
    "read-only": ("ro", "rw", "Read-only file system"),
}
HERE_ONCE = {("full", "train"), ("read-only", "score")}
CASES = [
    pytest.param(*one, marks=pytest.mark.once if one in HERE_ONCE else ())
    for one in ((fault, stage) for fault in PLACES for stage in STAGES)
]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize(("fault", "stage"), CASES)
def test_a_disk_that_takes_no_more_is_one_line_and_the_same_command_resumes(
    here: Path, tmp_path: Path, disk: Callable[[str], Path], fault: str, stage: str
) -> None:
    if stage == "ingest":
        pytest.importorskip("pyspark")
    options, repaired, message = PLACES[fault]
    output = disk(options) / "out"
    one_line(hepflow(*command(stage, here, output)), message)
    disk(repaired)
    ended = hepflow(*command(stage, here, output))
    assert ended.returncode == 0, ended.stderr
    calm = hepflow(*command(stage, here, tmp_path / "calm"))
    assert calm.returncode == 0, calm.stderr
    first, second = made(stage, output), made(stage, tmp_path / "calm")
    assert first.equals(second) if stage == "score" else first == second


SIZES = {
    "size={}k": sorted({4 * round(1.35**n) for n in range(1, 24)}),
    "size=64m,nr_inodes={}": range(2, 100),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("limit", SIZES)
def test_a_disk_of_any_size_that_is_too_small_is_one_line(
    here: Path,
    tmp_path: Path,
    disk: Callable[[str], Path],
    limit: str,
    stage: str,
    record_property: Any,
) -> None:
    """Also if a worker, or a thread of a library, is the first to find it full."""
    if stage == "ingest":
        pytest.importorskip("pyspark")
    n_small = 0
    for size in SIZES[limit]:
        top = disk(limit.format(size))
        ended = hepflow(*command(stage, here, top / "out"))
        if ended.returncode == 0:
            break
        one_line(ended, "No space left on device")
        assert "Exception ignored" not in ended.stderr
        n_small += 1
        for left in top.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    record_property("faults", f"{stage}, {limit.format('N')}: {n_small} disks too small")
    assert n_small > 3
    assert ended.returncode == 0
    assert made(stage, top / "out")


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(stage, marks=pytest.mark.once if stage == "features" else ())
        for stage in STAGES
    ],
)
def test_a_second_run_is_one_line(here: Path, tmp_path: Path, stage: str) -> None:
    with exclusive(tmp_path / "out"):
        one_line(hepflow(*command(stage, here, tmp_path / "out")), "another run is writing it")
    assert not (tmp_path / "out").exists()


# --- clocks and memory


@pytest.mark.once
@pytest.mark.parametrize("year", [-2e9, 0, 1, 4e9, 2**34])
def test_times_of_files_far_away_change_nothing(here: Path, tmp_path: Path, year: float) -> None:
    """A clock that jumped gives files times in the past or the future, seconds since 1970."""
    raw = Path(shutil.copytree(here / "raw", tmp_path / "raw"))
    files = sorted(raw.rglob("*.root"))
    for path in files[:2]:
        os.utime(path, (year, year))
    ingest(raw, tmp_path / "events", CLASSES, RANGE_BYTES)
    fragments = read_json(tmp_path / "events" / "_hepflow.json")["fragments"]
    assert fragments == read_json(here / "events" / "_hepflow.json")["fragments"]
    before = contents(tmp_path / "events")
    ingest(raw, tmp_path / "events", CLASSES, RANGE_BYTES)
    assert contents(tmp_path / "events") == before
    write_delphes(files[0], [40, 40, 40], seed=9)
    os.utime(files[0], (year - 1, year - 1))  # the clock went back: older than what it replaces
    ingest(raw, tmp_path / "events", CLASSES, RANGE_BYTES)
    assert contents(tmp_path / "events") != before


def _with_little_memory(raw: Path, output: Path, spare_bytes: int, send: Any) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + spare_bytes
    (output / "_records").mkdir(parents=True)
    settings = Settings(output, CLASSES, Access(retries=0))
    files = assign(list_files(raw), {name: (name,) for name in CLASSES}, raw)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    answers = list[Any]()
    for one in plan(files, 1 << 30):
        try:
            (record,) = run_task((one,), settings).ranges
            answers.append((dict(record.lost), record.transient))
        except MemoryError:
            answers.append("MemoryError")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    send.send(answers)


@pytest.mark.once
@pytest.mark.parametrize("spare_mb", [2, 8, 20])
def test_too_little_memory_costs_no_event_in_the_end(tmp_path: Path, spare_mb: int) -> None:
    raw = tmp_path / "raw"
    write_delphes(raw / "qcd" / "large.root", [20_000], seed=1)
    write_delphes(raw / "ttbar" / "small.root", [20], seed=2)
    ingest(raw, tmp_path / "calm", CLASSES)
    start_server()
    ours, theirs = FORKS.Pipe()
    process = FORKS.Process(
        target=_with_little_memory, args=(raw, tmp_path / "events", spare_mb << 20, theirs)
    )
    process.start()
    theirs.close()
    try:
        answers = ours.recv()
    except EOFError:  # C++ ends a process for lack of memory, as the kernel does
        answers = ["died"]
    process.join()
    for answer in answers:
        if not isinstance(answer, str):
            lost, transient = answer
            assert transient or not lost, "a lack of memory is no property of a file"
    assert isinstance(answers[0], str) or answers[0][0], "it was enough"
    ingest(raw, tmp_path / "events", CLASSES)
    assert contents(tmp_path / "events") == contents(tmp_path / "calm")
