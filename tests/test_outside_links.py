"""A shared machine: modes of files, links of others, and names in records that lead elsewhere."""

import contextlib
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from hepflow.config.engines import ClusterConfig
from hepflow.config.score import KafkaConfig, ScoreConfig
from hepflow.config.stages import EvaluateConfig, FeaturesConfig, IngestConfig
from hepflow.config.tools import TreesConfig
from hepflow.data import staging
from hepflow.data.events import open_events
from hepflow.data.staging import staged
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import DataError, HepflowError
from hepflow.evaluate.job import run as evaluate
from hepflow.features.job import run as features
from hepflow.ingest import dataset
from hepflow.ingest.job import run as ingest
from hepflow.ingest.task import Settings
from hepflow.reading.delphes import read_delphes
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import plan
from hepflow.reading.reader import Access
from hepflow.score.folder import CHECKPOINT, ScoreFolder
from hepflow.score.job import run as score
from hepflow.score.kafka.folder import TopicFolder
from hepflow.simulate.writer import write_events
from hepflow.system import publishing
from hepflow.system.files import read_json, write_json
from hepflow.system.locks import exclusive
from hepflow.system.places import place
from hepflow.system.storage import listed, private_folder, sizes_below, system_of
from hepflow.train.trees.boosted import run as trees
from tests.support.delphes_events import write_dataset
from tests.support.old_store import old_store
from tests.support.root_files import random_events, write_delphes
from tests.support.seals import unseal
from tests.support.toy_runs import toy_report
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest as ingest_without_spark
from tests.support.toy_trigger import untrained, write_raw

HEX = "0" * 32  # of a draft
LEADS_OUT = "a link that leads out of the output"
ELSEWHERE = ("../x", "/x", "a/../../x", "..", ".", "", "a\0", 5, None, ["x"])
ABOUT = {"key": "k", "classes": ["a", "b"]}


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder with files that look like hepflow's, of which none may change."""
    folder = tmp_path / "victim"
    for name in ("a.parquet", f".a.{HEX}.part", "b.json", ".b.now", "best.ckpt", "zarr.json", "x"):
        (folder / "below").mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        (folder / "below" / name).write_text(name)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.slow
@pytest.mark.parametrize("mask", [0o027])
def test_outputs_follow_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        out = tmp_path / "out"
        write_raw(tmp_path / "raw" / "qcd" / "a.root", [20], seed=1)
        ingest_without_spark(tmp_path / "raw", out / "events", ("qcd",))
        cluster = ClusterConfig(workers=1)
        features(FeaturesConfig(input=out / "events", output=out / "s.zarr", cluster=cluster))
        toy_report(out)
        ScoreFolder(out / "scores", ABOUT)
        with exclusive(out / "other"):
            assert mode(out / ".other.lock") == 0o666 & ~mask
    for path in out.rglob("*"):
        assert mode(path) == (0o777 if path.is_dir() else 0o666) & ~mask, path


def test_private_state_is_for_the_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with umask(0):
        monkeypatch.setenv("HEPFLOW_WORK_DIR", str(tmp_path / "work"))
        assert mode(publishing.scratch()) == 0o700
        publishing.scratch().rmdir()  # a cleaner of temporary folders
        assert mode(publishing.scratch()) == 0o700
        TopicFolder(tmp_path / "scores", ABOUT, KafkaConfig())
        assert mode(tmp_path / "scores" / CHECKPOINT) == 0o700
        (tmp_path / "scores" / CHECKPOINT).chmod(0o755)  # of an earlier version
        TopicFolder(tmp_path / "scores", ABOUT, KafkaConfig())
        assert mode(tmp_path / "scores" / CHECKPOINT) == 0o700
        (tmp_path / "cache").mkdir(0o1777)
        copy = staged(toy_store(tmp_path / "s.zarr", events=4), tmp_path / "cache")
        while staging._HELD:
            staging._HELD.pop().close()
        assert mode(copy.path.parent) == 0o700
        assert [path.name for path in (tmp_path / "cache").iterdir()] == [copy.path.parent.name]


def test_a_private_folder_is_neither_a_link_nor_somebody_elses(
    tmp_path: Path, victim: Path
) -> None:
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(DataError, match="a link, or another user's folder"):
        private_folder(tmp_path / "link")
    assert mode(victim) & 0o077
    if os.geteuid() == 0:
        (tmp_path / "other").mkdir()
        os.chown(tmp_path / "other", 65534, 65534)
        with pytest.raises(DataError, match="another user's folder"):
            private_folder(tmp_path / "other")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_what_others_left_in_a_shared_folder_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: Path
) -> None:
    host = publishing.socket.gethostname()
    theirs = tmp_path / "work" / f"hepflow-999999999-{host}-abc"
    theirs.mkdir(parents=True)
    os.chown(theirs, 65534, 65534)
    (tmp_path / "work" / f"hepflow-999999999-{host}-link").symlink_to(victim)
    monkeypatch.setenv("HEPFLOW_WORK_DIR", str(tmp_path / "work"))
    publishing.scratch()
    assert theirs.is_dir()


def test_a_lock_overwrites_no_target_of_a_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / ".out.lock").symlink_to(victim / "x")
    with pytest.raises(OSError, match="symbolic links"), exclusive(tmp_path / "out"):
        pass


def test_a_link_in_the_place_of_a_draft_is_not_followed(tmp_path: Path, victim: Path) -> None:
    (tmp_path / ".a.root.part").symlink_to(victim / "x")
    events = random_events(5, np.random.default_rng(1))
    write_events(tmp_path / "a.root", events, uuid.UUID(int=1))
    assert len(read_delphes(tmp_path / "a.root")) == 5


@pytest.mark.parametrize("linked", ["_records", "qcd"])
def test_ingest_writes_through_no_link(tmp_path: Path, victim: Path, linked: str) -> None:
    write_delphes(tmp_path / "raw" / "qcd" / "a.root", [20])
    out = tmp_path / "events"
    out.mkdir()
    (out / linked).symlink_to(victim)
    config = IngestConfig(input=tmp_path / "raw", output=out, samples={"qcd": ("qcd",)})
    with pytest.raises(DataError, match=LEADS_OUT):
        ingest(config)


@pytest.mark.parametrize("linked", ["_parts", "hlf", "ranges"])
def test_features_writes_through_no_link(tmp_path: Path, victim: Path, linked: str) -> None:
    write_dataset(tmp_path / "events", 2)
    store = toy_store(tmp_path / "s.zarr", events=4)
    (store.path / linked).rename(tmp_path / "moved")
    (store.path / linked).symlink_to(victim)
    config = FeaturesConfig(input=tmp_path / "events", output=store.path, overwrite=True)
    with pytest.raises(DataError, match=LEADS_OUT):
        features(config)


@pytest.mark.parametrize("linked", ["_records", "_claims"])
def test_score_writes_through_no_link(tmp_path: Path, victim: Path, linked: str) -> None:
    raw = write_raw(tmp_path / "raw" / "a.root", [20], seed=1)
    out = tmp_path / "scores"
    out.mkdir()
    (out / linked).symlink_to(victim)
    model = untrained(tmp_path, raw)
    with pytest.raises(DataError, match=LEADS_OUT):
        score(ScoreConfig(model=model, input=tmp_path / "raw", output=out))


def test_a_report_and_trees_write_through_no_link(tmp_path: Path, victim: Path) -> None:
    store = toy_store(tmp_path / "s.zarr", events=30)
    out = tmp_path / "runs" / "trees"
    trees(TreesConfig(input=store.path, output=out))
    (out / "checkpoints").symlink_to(victim)
    with pytest.raises(DataError, match=LEADS_OUT):
        trees(TreesConfig(input=store.path, output=out, seed=2, overwrite=True))
    report = tmp_path / "report"
    report.mkdir()
    (report / "figures").symlink_to(victim)
    with pytest.raises(DataError, match=LEADS_OUT):
        evaluate(EvaluateConfig(input=tmp_path / "runs", output=report, store=store.path))


def test_sweepers_remove_links_and_not_what_is_behind(tmp_path: Path, victim: Path) -> None:
    def place_links(folder: Path) -> list[Path]:
        for name in ("other", ".w-0123"):
            (folder / name).symlink_to(victim)
        drafts = [folder / f".{name}.{HEX}.part" for name in "lm"]
        for draft, target in zip(drafts, (victim / "x", victim), strict=True):
            draft.symlink_to(target)
        return drafts

    events, scores = tmp_path / "events", tmp_path / "scores"
    dataset.prepare(events)
    drafts = place_links(events)
    dataset.prepare(events)
    dataset.sweep({"fragments": []}, events)
    ScoreFolder(scores, ABOUT)
    drafts += place_links(scores)
    ScoreFolder(scores, ABOUT)
    store = toy_store(tmp_path / "s.zarr", events=4)
    drafts += place_links(store.path)
    StoreWriter.create(store.path, store.spec)
    assert not any(draft.is_symlink() for draft in drafts)


def test_links_within_an_output_and_an_output_that_is_a_link_do(tmp_path: Path) -> None:
    (tmp_path / "disk" / "big").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "out" / "small").symlink_to(tmp_path / "disk" / "big")
    with exclusive(tmp_path / "out", "small", "missing"):
        pass
    (tmp_path / "disk" / "big" / "a").touch()
    assert listed(tmp_path / "out", "small/*") == [tmp_path / "out" / "small" / "a"]


def change(path: Path, edit: Callable[[Any], None]) -> None:
    content = read_json(path)
    edit(content)
    path.write_text(json.dumps(content))
    unseal(path)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_names_of_a_dataset_stay_in_it(tmp_path: Path, victim: Path, name: object) -> None:
    write_raw(tmp_path / "raw" / "qcd" / "a.root", [20], seed=1)
    ingest_without_spark(tmp_path / "raw", tmp_path / "events", ("qcd",))
    marker = tmp_path / "events" / "_hepflow.json"
    for key in ("fragments", "classes"):
        before = marker.read_text()
        change(marker, lambda about, key=key: about.update({key: [name]}))
        with pytest.raises(DataError) as error:
            open_events(tmp_path / "events")
        assert "\n" not in str(error.value)
        marker.write_text(before)
    if name is not None:  # a task without events has no fragment
        (merged,) = listed(tmp_path / "events" / "_records")
        (line,) = unseal(merged).read_text().splitlines()
        merged.write_text(json.dumps({**json.loads(line), "fragment": name}))
        settings = Settings(tmp_path / "events", ("qcd",), Access())
        files = assign(list_files(tmp_path / "raw"), {"qcd": ("qcd",)}, tmp_path / "raw")
        ranges = plan(files, 1 << 27)
        assert dataset.finished(ranges, settings, retry_quarantined=False) == ([], ranges)


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("key", ["key", "fragment", "uuid"])
def test_names_of_scores_stay_in_their_folder(
    tmp_path: Path, victim: Path, key: str, name: object
) -> None:
    folder = ScoreFolder(tmp_path / "scores", ABOUT)
    ledger = {"n_in": 0, "n_out": 0, "rejected": {}, "lost": []}
    record = {"key": "k", "name": "a", "fragment": "b.parquet", "uuid": "00", "split": None}
    if name in (None, "") and key != "key":  # none of it
        return
    outside = f"../../victim/{name[3:]}" if str(name).startswith("../") else name
    write_json(folder.path / "_records" / "k.json", record | ledger | {key: outside})
    with pytest.raises(DataError, match="not what hepflow writes there"):
        ScoreFolder(tmp_path / "scores", ABOUT)


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("position", [0, 1])
def test_names_of_ranges_stay_in_their_store(
    tmp_path: Path, victim: Path, position: int, name: object
) -> None:
    store = toy_store(tmp_path / "s.zarr", events=4)

    def other(about: Any) -> None:
        about["000000"]["ranges"][0][position] = name

    change(store.path / "_parts" / "finished.json", other)
    for read in (store.sources, lambda: StoreWriter(store.path, store.spec).finalise()):
        with pytest.raises(DataError, match="not what hepflow writes there"):
            read()


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("key", ["split", "class_name", "name"])
def test_names_of_parts_of_an_old_store_stay_in_it(
    tmp_path: Path, victim: Path, key: str, name: object
) -> None:
    store = old_store(tmp_path / "s.zarr", toy_store(tmp_path / "new.zarr", events=4))
    record = listed(store.path / "_parts")[0]
    change(record, lambda about: about["parts"][0].update({key: name}))
    for read in (lambda: EventStore.open(store.path).all_ranges("train"), store.sources):
        with pytest.raises(DataError, match="not what hepflow writes there"):
            read()


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("value", [-1, 10**12])
def test_ranges_out_of_a_store_are_one_line(tmp_path: Path, column: int, value: int) -> None:
    store = toy_store(tmp_path / "s.zarr", events=4)
    zarr.open_group(store.path, mode="r+")["ranges"][1, column] = value
    with pytest.raises(DataError):
        list(EventStore.open(store.path).blocks("test"))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_classes_of_a_store_are_names(tmp_path: Path, victim: Path, name: object) -> None:
    store = toy_store(tmp_path / "s.zarr", events=4)
    about = store.path / "zarr.json"
    change(about, lambda all_: all_["attributes"]["hepflow"].update(classes=["qcd", name]))
    with pytest.raises(DataError, match="not what hepflow writes there"):
        EventStore.open(store.path)
    if isinstance(name, str):
        with pytest.raises(HepflowError, match="samples"):
            IngestConfig(samples={name: ("a",)})


def test_a_name_in_a_bucket_that_leads_out_is_one_line(s3: str, tmp_path: Path) -> None:
    folder = place(f"{s3}/of-{tmp_path.name}")
    system, where = system_of(folder)
    system.pipe_file(f"{where}/../../x", b"evil")
    system.pipe_file(f"{where}/good", b"good")
    found = [path.name for path in listed(folder)]
    assert ".." not in found
    with contextlib.suppress(DataError):
        assert not any(".." in name for name in sizes_below(folder))
