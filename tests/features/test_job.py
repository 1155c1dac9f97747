"""The features stage: no event is lost or repeated, and the bytes depend on the events only."""

import json
import logging
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from hepflow.config.engines import ClusterConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.data.events import open_events, read_fragment
from hepflow.data.identity import split_index
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import ConfigError, DataError
from hepflow.features.job import memory_of_task, run, task_bytes
from hepflow.features.packing import PlannedPart, plan_parts
from hepflow.features.parts import make_part
from hepflow.physics.ablation import compare
from hepflow.physics.definitions import Definitions
from hepflow.physics.features import compute_features
from hepflow.schema import COLLECTIONS, SPLITS
from hepflow.system import locks
from tests.support.delphes_events import (
    event,
    from_root,
    lepton,
    random_events,
    to_arrow,
    to_awkward,
    write_dataset,
    write_fragment,
    write_marker,
)
from tests.support.seals import unseal

pytestmark = pytest.mark.slow

OWN_PHYSICS = """
import numpy as np
from hepflow.physics.features import FeatureSet
from hepflow.schema import Feature

def two_numbers(events, definitions):
    n = len(events)
    lists = events["MissingET"].to_list()
    met = np.asarray([sum(m["MET"] for m in each) for each in lists], np.float32)
    hlf = np.stack([met, np.ones(n, np.float32)], axis=1) if n else np.empty((0, 2), np.float32)
    empty = np.empty((0, 1), np.float32)
    names = (Feature("MET", "GeV"), Feature("One", "1"))
    offsets, pt = np.zeros(n + 1, np.int64), (Feature("Pt", "GeV"),)
    return FeatureSet(hlf, empty, offsets, np.arange(n), {}, names, pt)

def forgetful(events, definitions):
    f = two_numbers(events, definitions)
    names = f.hlf_features, f.particle_features
    return FeatureSet(f.hlf[1:], f.particles, f.offsets[1:], f.index[1:], {}, *names)

def repeating(events, definitions):
    f = two_numbers(events, definitions)
    names = f.hlf_features, f.particle_features
    return FeatureSet(f.hlf, f.particles, f.offsets, f.index // 2, {}, *names)
"""


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def running() -> Iterator[ClusterConfig]:
    """A cluster of one worker that all tests share, reached by its address."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield ClusterConfig(kind="address", address=cluster.scheduler_address)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, running) -> FeaturesConfig:
    """A dataset of six fragments and the store made from it."""
    folder = tmp_path_factory.mktemp("features")
    config = FeaturesConfig(
        input=write_dataset(folder / "events", fragments=6),
        output=folder / "features.zarr",
        cluster=running,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hepflow.data.packing._SMALLEST", 1)  # a part for each fragment
        run(config)
    assert len(EventStore.open(config.output).sources()) == 6
    return config


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr("hepflow.data.packing._SMALLEST", 1)


def events_of(path: Path) -> dict[tuple[str, int], tuple[str, bytes]]:
    """Split and event_id -> class and bytes of its features: the same in stores of other parts."""
    found = {}
    for rows in (store := EventStore.open(path)).all_ranges(*SPLITS):
        block = store.read(rows)
        for i, event_id in enumerate(block.event_id.tolist()):
            values = block.hlf[i].tobytes(), block[i : i + 1].particles.tobytes()
            found[rows.split, event_id] = rows.class_name, b"".join(values)
    return found


def bytes_of_chunks(path: Path) -> int:
    """Return the bytes of particles, without the index at the end of each file."""
    return sum(file.stat().st_size - 4096 * 16 - 4 for file in path.glob("particles/c.*"))


def number_of(store: EventStore, fragment: str) -> int:
    """Return the part that a fragment is in."""
    (number,) = (number for number, names in store.sources().items() if fragment in names)
    return number


def shards(path: Path) -> dict[Path, int]:
    """Return the files of parts, and when each was written."""
    return {
        file: file.stat().st_mtime_ns for file in path.rglob("c.*") if "ranges" not in str(file)
    }


@pytest.fixture
def copied(finished, tmp_path) -> FeaturesConfig:
    """A copy that a test may change."""
    shutil.copytree(finished.input, tmp_path / "events")
    shutil.copytree(finished.output, tmp_path / "features.zarr")
    return replace(finished, input=tmp_path / "events", output=tmp_path / "features.zarr")


def no_cluster(*_args):
    raise AssertionError("a cluster was started")


def test_every_event_is_in_the_store_once_in_its_split_or_counted_as_rejected(finished):
    store = EventStore.open(finished.output)
    dataset = open_events(finished.input, 2**26)
    expected = {}
    for fragment in dataset.fragments:
        events = read_fragment(fragment)
        features = compute_features(events)
        for row, position in enumerate(features.index):
            particles = features.particles[features.offsets[row] : features.offsets[row + 1]]
            expected[int(events["event_id"][position])] = (
                int(events["label"][position]),
                features.hlf[row],
                particles,
            )
    seen = {}
    for split in SPLITS:
        for label, name in enumerate(store.spec.classes):
            for part in store.ranges(split, name):
                block = store.read(part)
                assert set(block.label.tolist()) == {label}
                assert {SPLITS[i] for i in split_index(block.event_id, finished.splits)} == {split}
                for i, event_id in enumerate(block.event_id.tolist()):
                    assert event_id not in seen
                    seen[event_id] = (
                        label,
                        block.hlf[i],
                        block.particles[block.offsets[i] : block.offsets[i + 1]],
                    )
    assert seen.keys() == expected.keys()
    for event_id, (label, hlf, particles) in expected.items():
        assert seen[event_id][0] == label
        np.testing.assert_array_equal(seen[event_id][1], hlf)
        np.testing.assert_array_equal(seen[event_id][2], particles)
    ledger = store.ledger()
    assert ledger.n_in == dataset.ledger.n_out == 120
    assert ledger.n_out == len(expected)
    assert ledger.n_rejected == 120 - len(expected) > 0


def test_a_second_run_starts_no_cluster_and_changes_no_byte(finished, monkeypatch, caplog):
    before = contents(finished.output)
    monkeypatch.setattr("hepflow.engines.dask.dask_client", no_cluster)
    with caplog.at_level(logging.INFO):
        run(finished)
    assert "is up to date" in caplog.text
    assert contents(finished.output) == before


def test_an_interrupted_run_is_resumed_and_shows_its_progress(copied, tmp_path, caplog, capsys):
    before = contents(copied.output)
    store = EventStore.open(copied.output)
    StoreWriter(store.path, store.spec).discard(sorted(store.sources())[2:4])
    stamps = shards(copied.output)
    metadata = json.loads(unseal(copied.output / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["complete"] = False
    (copied.output / "zarr.json").write_text(json.dumps(metadata))
    plan = {f"{number:06d}": names for number, names in store.sources().items()}
    (copied.output / "_parts" / "plan.json").write_text(json.dumps(plan))
    watched = replace(
        copied,
        cluster=replace(copied.cluster, performance_report=tmp_path / "reports" / "dask.html"),
    )
    with caplog.at_level(logging.INFO):
        run(watched)
    assert "is up to date in 4 of 6 parts" in caplog.text
    assert contents(copied.output) == before
    assert stamps.items() <= shards(copied.output).items()
    assert "2/2 parts" in capsys.readouterr().err
    assert "make_part" in (tmp_path / "reports" / "dask.html").read_text()
    (link,) = re.findall(r"Dask dashboard: (http\S+)", caplog.text)
    assert build_opener(ProxyHandler({})).open(link, timeout=30).status == 200
    assert re.search(
        r"a worker process used up to [\d.]+ [MG]B \(estimated before: [\d.]+ [MG]B\)", caplog.text
    )


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_a_part_with_a_damaged_file_is_made_again(copied, harm):
    """The advice of `hepflow store check` for a damaged file is to delete it."""
    before = contents(copied.output)
    harm(copied.output / "particles" / "c.2.0")
    run(copied)
    assert contents(copied.output) == before


def test_new_fragments_are_appended_without_touching_the_rest(copied, tmp_path):
    stamps = shards(copied.output)
    provenance = EventStore.open(copied.output).spec.provenance
    write_fragment(copied.input, "part-900", to_arrow(random_events(20, 900)), 1, "ttbar")
    write_marker(copied.input, 140)
    run(copied)
    grown = EventStore.open(copied.output)
    assert stamps.items() <= shards(copied.output).items()
    assert grown.sources().keys() == {*range(7)}
    assert grown.ledger().n_in == 140
    assert grown.spec.provenance != provenance
    run(replace(copied, output=tmp_path / "scratch.zarr"))
    assert events_of(copied.output) == events_of(tmp_path / "scratch.zarr")
    other = EventStore.open(tmp_path / "scratch.zarr")
    for name in ("counts", "ledger", "provenance"):
        assert grown.attributes[name] == other.attributes[name]
    for kind in ("hlf", "particles"):
        for name, values in grown.statistics[kind].items():
            np.testing.assert_allclose(values, other.statistics[kind][name], rtol=1e-12, atol=1e-12)


def test_parts_of_changed_fragments_are_made_again_and_of_removed_ones_removed(copied, tmp_path):
    before = EventStore.open(copied.output)
    touched = {number_of(before, name) for name in ("qcd--part-000", "ttbar--part-001")}
    stamps = {p: t for p, t in shards(copied.output).items() if int(p.name[2]) not in touched}
    write_fragment(copied.input, "part-000", to_arrow(random_events(20, 77)), 0, "qcd")
    (copied.input / "ttbar" / "part-001.parquet").unlink()
    write_marker(copied.input, 100)
    run(copied)
    after = EventStore.open(copied.output)
    names = {name for sources in after.sources().values() for name in sources}
    assert "ttbar--part-001" not in names
    assert number_of(after, "qcd--part-000") == 6
    assert len(stamps) == 4 * 5
    assert stamps.items() <= shards(copied.output).items()
    run(replace(copied, output=tmp_path / "scratch.zarr"))
    assert events_of(copied.output) == events_of(tmp_path / "scratch.zarr")


def test_small_fragments_share_parts_and_a_changed_one_costs_its_part_alone(
    finished, tmp_path, monkeypatch
):
    (size, *_) = {one.n_bytes for one in open_events(finished.input).fragments}
    monkeypatch.setattr("hepflow.data.packing._SMALLEST", 3 * size)
    config = replace(finished, input=tmp_path / "events", output=tmp_path / "few.zarr", task_mb=1)
    shutil.copytree(finished.input, config.input)
    run(config)
    assert events_of(config.output) == events_of(finished.output)
    store = EventStore.open(config.output)
    assert 1 < len(store.sources()) < 6
    stamps, number = shards(config.output), number_of(store, "qcd--part-000")
    write_fragment(config.input, "part-000", to_arrow(random_events(20, 77)), 0, "qcd")
    write_marker(config.input, 120)
    run(config)
    kept = {path: at for path, at in stamps.items() if path.name.split(".")[1] != str(number)}
    assert len(kept) == len(stamps) - 5
    assert kept.items() <= shards(config.output).items()
    run(replace(config, output=tmp_path / "scratch.zarr"))
    assert events_of(config.output) == events_of(tmp_path / "scratch.zarr")


def test_rounds_change_the_order_of_its_events_and_nothing_else(finished, tmp_path):
    dataset = open_events(finished.input, 2**26)
    for round_bytes in (1, 2**26):
        store = StoreWriter.create(
            tmp_path / f"{round_bytes}.zarr", EventStore.open(finished.output).spec
        )
        planned = PlannedPart(0, dataset.fragments)
        assert make_part(store, planned, None, round_bytes).n_events == 120
        store.finalise()
        assert events_of(store.path) == events_of(finished.output)
    numbers = (len(EventStore.open(tmp_path / f"{n}.zarr").all_ranges(*SPLITS)) for n in (1, 2**26))
    many, few = numbers
    assert few <= 9 < many


def test_other_definitions_replace_the_store_when_asked(copied):
    before = contents(copied.output)
    with pytest.raises(
        ConfigError,
        match=r"a store with definitions corrected \(now reference\)\. Give .* or --overwrite",
    ):
        run(replace(copied, definitions="reference"))
    assert contents(copied.output) == before
    run(replace(copied, definitions="reference", overwrite=True))
    store = EventStore.open(copied.output)
    assert store.spec.definitions == "reference"
    assert next(feature.unit for feature in store.spec.hlf if feature.name == "MT") == "GeV^2"


def test_a_large_fragment_is_cut_between_its_row_groups(tmp_path):
    write_dataset(tmp_path / "events", fragments=1, events=50, row_group_size=8)
    whole, cut = (open_events(tmp_path / "events", size).fragments for size in (2**30, 40_000))
    assert len(whole) == 1
    assert len(cut) > 2
    assert sum(fragment.n_events for fragment in cut) == 50
    assert [group for fragment in cut for group in fragment.row_groups] == list(whole[0].row_groups)
    assert len({fragment.name for fragment in cut}) == len(cut)
    together = read_fragment(whole[0])["event_id"].to_list()
    assert [
        i for fragment in cut for i in read_fragment(fragment)["event_id"].to_list()
    ] == together


def test_the_order_and_repetition_of_tasks_do_not_matter(finished, tmp_path):
    dataset = open_events(finished.input, 2**26)
    spec = EventStore.open(finished.output).spec
    store = StoreWriter.create(tmp_path / "s.zarr", spec)
    parts, _ = plan_parts(store, dataset.fragments, 2**30)
    for part in (*parts[::-1], parts[2]):
        make_part(store, part, None, 2**26)
    store.finalise()
    assert contents(store.path) == contents(finished.output)


def test_two_runs_at_once_on_one_output_refuse_each_other(copied):
    with (
        locks.exclusive(copied.output),
        pytest.raises(DataError, match=rf"another run is writing it \(process {os.getpid()} on"),
    ):
        run(copied)
    run(copied)
    assert not list(copied.output.parent.glob(".*.lock"))


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    holder = multiprocessing.get_context("spawn").Process(
        target=hold_lock, args=(tmp_path / "s.zarr", tmp_path / "held")
    )
    holder.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with (
        pytest.raises(DataError, match=f"process {holder.pid} on"),
        locks.exclusive(tmp_path / "s.zarr"),
    ):
        pass
    holder.kill()
    holder.join()
    with locks.exclusive(tmp_path / "s.zarr"):
        pass


def hold_lock(output: Path, marker: Path) -> None:
    with locks.exclusive(output):
        marker.touch()
        time.sleep(60)


def test_an_error_names_a_damaged_fragment_and_the_rest_is_done(copied):
    path = copied.input / "qcd" / "part-003.parquet"
    data = bytearray(path.read_bytes())
    data[200:4000] = bytes(3800)
    path.write_bytes(bytes(data))
    store = EventStore.open(copied.output)
    gone = [number_of(store, name) for name in ("qcd--part-003", "qcd--part-000")]
    StoreWriter(store.path, store.spec).discard(gone)
    metadata = json.loads(unseal(copied.output / "zarr.json").read_text())
    metadata["attributes"]["hepflow"]["complete"] = False
    (copied.output / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(
        DataError,
        match=r"1 of 2 parts could not be made; the rest is done\. The first: .*part-003\.pa",
    ):
        run(copied)
    assert number_of(EventStore(copied.output, store.spec), "qcd--part-000")


def spoil(folder: Path, how: str) -> None:
    if how == "no marker":
        (folder / "_hepflow.json").unlink()
    elif how == "ROOT files":
        (folder / "_hepflow.json").rename(folder / "qcd" / "a.root")
    elif how == "a store":
        (folder / "_hepflow.json").rename(folder / "zarr.json")
    elif how == "version":
        write_marker(folder, 20, version=99)
    elif how == "no files":
        shutil.rmtree(folder / "qcd")
    elif how == "count":
        write_marker(folder, 21)
    elif how == "not parquet":
        (folder / "qcd" / "part-000.parquet").write_text("not parquet")
    elif how in COLLECTIONS:
        path = folder / "qcd" / "part-000.parquet"
        pq.write_table(pq.read_table(path).drop_columns([how]), path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no marker", r"events: no _hepflow\.json: `hepflow ingest` did not finish here"),
        (
            "ROOT files",
            r"events: ROOT files\. Make a dataset of them: `hepflow ingest --input .*events`",
        ),
        (
            "a store",
            r"events: a feature store\. Give the Parquet dataset",
        ),
        (
            "version",
            r"events of schema version 99, this hepflow reads 1\. Run `hepflow ingest` again",
        ),
        ("no files", r"part-000\.parquet: missing, though _hepflow\.json names it"),
        ("count", r"20 events in the files, 21 in the ledger"),
        ("not parquet", r"part-000\.parquet: not a Parquet file"),
        ("Jet", r"part-000\.parquet: no column 'Jet', only sample, label, "),
    ],
)
def test_bad_input_is_an_error_of_one_line(tmp_path, how, message, monkeypatch):
    monkeypatch.setattr("hepflow.engines.dask.dask_client", no_cluster)
    folder = write_dataset(tmp_path / "events", fragments=1)
    spoil(folder, how)
    with pytest.raises(DataError, match=message) as error:
        run(FeaturesConfig(input=folder, output=tmp_path / "s.zarr"))
    assert "\n" not in str(error.value)


def test_a_missing_input_is_an_error_with_advice(tmp_path):
    with pytest.raises(DataError, match=r"no such folder\. Make it with `hepflow ingest"):
        run(FeaturesConfig(input=tmp_path / "nowhere", output=tmp_path / "s.zarr"))


def test_comparing_the_definitions_prints_the_effect_of_each_difference_and_writes_nothing(
    finished, tmp_path, capsys, monkeypatch, caplog
):
    monkeypatch.setenv("COLUMNS", "120")
    with caplog.at_level(logging.INFO):
        run(replace(finished, output=tmp_path / "s.zarr", compare_definitions=True))
    text = capsys.readouterr().out
    for name in (
        *Definitions._fields,
        "all together",
        "gained",
        "events moved",
        "farthest",
        "LepIsoCh",
        "mean ChPFIso",
    ):
        assert name in text
    changed = compare(
        ak.concatenate([read_fragment(f) for f in open_events(finished.input, 2**26).fragments])
    )["mt_is_mass"]
    assert f"{changed.changed:,} ({changed.changed / changed.n_before:.1%})" in text
    assert f"compared the definitions on {changed.n_before} events" in caplog.text
    assert not (tmp_path / "s.zarr").exists()


def test_an_output_that_is_not_a_store_is_left_alone(finished, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="not a feature store"):
        run(replace(finished, output=tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_it_is_an_error_if_no_event_passes(tmp_path, running):
    n = write_fragment(
        tmp_path / "events", "part-000", to_arrow([event(Electron=[lepton(10.0)])] * 3), 0, "qcd"
    )
    write_marker(tmp_path / "events", n)
    with pytest.raises(
        DataError,
        match=r"no event passes the trigger \(3 events in, 0 out, 3 no lepton above 23 GeV\)",
    ):
        run(FeaturesConfig(input=tmp_path / "events", output=tmp_path / "s.zarr", cluster=running))
    with pytest.raises(DataError, match="unfinished"):
        EventStore.open(tmp_path / "s.zarr")


def test_every_run_warns_of_classes_without_training_events(tmp_path, running, caplog):
    events = to_arrow([event(Electron=[lepton(50.0)])] * 40)
    write_marker(
        tmp_path / "events", write_fragment(tmp_path / "events", "part-000", events, 0, "qcd")
    )
    for _ in range(2):
        caplog.clear()
        run(FeaturesConfig(input=tmp_path / "events", output=tmp_path / "s.zarr", cluster=running))
        assert (
            "no training events of classes ttbar, wjets; `hepflow train` will refuse" in caplog.text
        )


def test_too_little_memory_is_refused_before_the_start(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("hepflow.engines.dask.dask_client", no_cluster)
    with pytest.raises(
        ConfigError,
        match=r"the largest task needs about .*, a worker has 104\.9 MB\. Use fewer",
    ):
        run(
            replace(
                finished,
                output=tmp_path / "s.zarr",
                cluster=ClusterConfig(workers=1, memory="100MiB"),
            )
        )
    with pytest.raises(ConfigError, match="must be a size such as 4GiB"):
        run(
            replace(
                finished,
                output=tmp_path / "s.zarr",
                cluster=ClusterConfig(workers=1, memory="plenty"),
            )
        )


def test_a_fragment_too_large_for_a_worker_is_cut_until_it_fits(tmp_path):
    write_dataset(tmp_path / "events", fragments=1, events=50, row_group_size=8)
    config = FeaturesConfig(input=tmp_path / "events", output=tmp_path / "s.zarr")
    (whole,) = open_events(config.input, task_bytes(config)).fragments
    room = (memory_of_task([]) + memory_of_task([whole])) // 2
    poor = replace(config, cluster=ClusterConfig(workers=1, memory=f"{room}B"))
    cut = open_events(config.input, task_bytes(poor)).fragments
    assert len(cut) > 1
    assert max(memory_of_task([one]) for one in cut) <= room < memory_of_task([whole])
    assert sum(fragment.n_events for fragment in cut) == 50


def test_rounding_saves_bytes_keeps_the_promised_precision_and_makes_another_store(copied):
    exact = EventStore.open(copied.output)
    before = {rows: exact.read(rows) for rows in exact.ranges("train", "qcd")}
    size = bytes_of_chunks(copied.output)
    run(replace(copied, keep_bits=10, overwrite=True))
    rounded = EventStore.open(copied.output)
    assert rounded.spec.keep_bits == 10
    assert bytes_of_chunks(copied.output) < 0.8 * size
    for rows in rounded.ranges("train", "qcd"):
        near, was = rounded.read(rows), before[rows]
        np.testing.assert_allclose(near.particles, was.particles, rtol=2.0**-11)
        np.testing.assert_array_equal(near.hlf, was.hlf)
    with pytest.raises(ConfigError, match="keep_bits must be at least 1, got 0"):
        replace(copied, keep_bits=0)


@pytest.fixture
def own_physics(tmp_path, monkeypatch) -> Path:
    (tmp_path / "my_physics.py").write_text(OWN_PHYSICS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_function_of_the_users_own_makes_the_features(own_physics, finished):
    run(replace(finished, output=own_physics / "own.zarr", physics="my_physics:two_numbers"))
    store = EventStore.open(own_physics / "own.zarr")
    assert [feature.name for feature in store.spec.hlf] == ["MET", "One"]
    assert store.spec.physics.startswith("my_physics:two_numbers@")
    assert store.ledger().n_out == 120


@pytest.mark.parametrize(
    ("physics", "message"),
    [
        ("no_such_module:f", "physics: no module 'no_such_module'"),
        ("my_physics:f", "physics: my_physics has no function 'f'"),
    ],
)
def test_an_error_names_missing_physics(own_physics, finished, physics, message):
    with pytest.raises(ConfigError, match=message):
        run(replace(finished, output=own_physics / "own.zarr", physics=physics))


def test_physics_that_loses_events_is_refused(own_physics, finished):
    dataset = open_events(finished.input, 2**26)
    store = StoreWriter(own_physics / "own.zarr", EventStore.open(finished.output).spec)
    planned = PlannedPart(0, dataset.fragments[:1])
    outcome = make_part(store, planned, "my_physics:forgetful", 2**26)
    assert "20 events in, but 19 kept and 0 rejected: none may get lost" in str(outcome.error)
    outcome = make_part(store, planned, "my_physics:repeating", 2**26)
    assert "index must increase, as no event may come twice" in str(outcome.error)


def test_real_delphes_files_get_features(shared, tmp_path, running):
    n = 0
    for label, name in enumerate(("qcd", "ttbar", "wjets")):
        events = from_root(shared / "real" / f"clones_{name}.root")
        n += write_fragment(tmp_path / "events", name, to_arrow(events.to_list()), label, name)
    write_marker(tmp_path / "events", n)
    run(FeaturesConfig(input=tmp_path / "events", output=tmp_path / "s.zarr", cluster=running))
    store = EventStore.open(tmp_path / "s.zarr")
    assert store.ledger().n_in == n
    assert store.ledger().n_out == len(
        compute_features(
            to_awkward(
                [
                    e
                    for f in ("qcd", "ttbar", "wjets")
                    for e in from_root(shared / "real" / f"clones_{f}.root").to_list()
                ]
            )
        ).index
    )
