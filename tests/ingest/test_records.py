"""Records of tasks: merged when a dataset is finished, with the precedence of later ones."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.events import open_events
from hepflow.data.task_records import (
    RECORDS,
    merge_records,
    read_records,
    record_path,
    remove_single_records,
)
from hepflow.errors import DataError
from hepflow.ingest import dataset
from hepflow.ingest.task import Settings, TaskRecord
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import EntryRange, SourceFile, plan
from hepflow.reading.reader import Access
from hepflow.reading.record import RangeRecord
from hepflow.system.files import read_json, write_json
from tests.support.toy_trigger import ingest, write_raw


def record(key: str, n_events: int = 3) -> TaskRecord:
    own = RangeRecord(EntryRange(SourceFile("qcd", f"{key}\n.root", "/a", 1, "1")), n_entries=3)
    return TaskRecord(key, None, n_events, 0, (own,))


def write_single(output: Path, one: TaskRecord) -> None:
    write_json(output / RECORDS / f"{one.key}.json", one.to_dict())


@given(
    merged=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 9), max_size=5),
    single=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 9), max_size=5),
)
def test_each_task_has_its_latest_record(
    tmp_path_factory: pytest.TempPathFactory, merged: dict[str, int], single: dict[str, int]
) -> None:
    output = tmp_path_factory.mktemp("records")
    (output / RECORDS).mkdir()
    for key, n in single.items():
        write_single(output, record(key, n))
    assert {one.key: one for one in read_records(output, TaskRecord.from_dict)} == {
        key: record(key, n) for key, n in single.items()
    }
    remove_single_records(output)
    assert len(list((output / RECORDS).iterdir())) == len(single), "they are not merged yet"
    merge_records(output, [record(key, n) for key, n in merged.items()])
    expected = {key: record(key, n) for key, n in {**merged, **single}.items()}
    found = list(read_records(output, TaskRecord.from_dict))
    assert {one.key: one for one in found} == expected
    assert len(found) == len(expected)
    remove_single_records(output)
    assert [path.name for path in (output / RECORDS).iterdir()] == ["finished.jsonl"]
    assert {one.key: one for one in read_records(output, TaskRecord.from_dict)} == {
        key: record(key, n) for key, n in merged.items()
    }


@pytest.mark.parametrize("line", ["[1]", "{}", '{"key": "a"', "3", ""])
def test_a_damaged_line_is_an_error_in_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / RECORDS).mkdir()
    merge_records(tmp_path, [record("a")])
    with (tmp_path / RECORDS / "finished.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=r"finished\.jsonl: not what hepflow writes") as error:
        list(read_records(tmp_path, TaskRecord.from_dict))
    assert "\n" not in str(error.value)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, list[EntryRange], Settings]:
    """Return a dataset of two files, and the ranges and settings that it was made of."""
    for seed, name in enumerate(("qcd/a", "ttbar/b")):
        write_raw(tmp_path / "raw" / f"{name}.root", [30], seed)
    classes, output = ("qcd", "ttbar"), tmp_path / "events"
    ingest(tmp_path / "raw", output, classes)
    files = assign(list_files(tmp_path / "raw"), {n: (n,) for n in classes}, tmp_path / "raw")
    return output, plan(files, 128 << 20), Settings(output, classes, Access())


def is_up_to_date(made: tuple[Path, list[EntryRange], Settings]) -> bool:
    output, ranges, settings = made
    about = dataset.manifest(output)
    assert about is not None
    return dataset.is_up_to_date(about, ranges, settings, retry_quarantined=False)


def test_a_finished_dataset_has_one_file_of_records_and_a_catalogue(
    made: tuple[Path, list[EntryRange], Settings],
) -> None:
    output, ranges, settings = made
    assert [path.name for path in (output / RECORDS).iterdir()] == ["finished.jsonl"]
    records, left = dataset.finished(ranges, settings, retry_quarantined=False)
    assert (len(records), left) == (2, [])
    assert is_up_to_date(made)
    catalog = read_json(output / "_fragments.json")
    assert sorted(catalog) == read_json(output / "_hepflow.json")["fragments"]
    opened = open_events(output)
    (output / "_fragments.json").unlink()
    assert open_events(output) == opened
    assert is_up_to_date(made)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_a_missing_or_cut_fragment_is_made_again(
    tmp_path: Path, made: tuple[Path, list[EntryRange], Settings], damage
) -> None:
    output, ranges, settings = made
    path = output / read_json(output / "_hepflow.json")["fragments"][0]
    before = path.read_bytes()
    damage(path)
    assert not is_up_to_date(made)
    assert len(dataset.finished(ranges, settings, retry_quarantined=False)[1]) == 1
    ingest(tmp_path / "raw", output, settings.classes)
    assert path.read_bytes() == before
    assert is_up_to_date(made)


def test_records_of_version_0_1_are_read(made: tuple[Path, list[EntryRange], Settings]) -> None:
    """They are single files, and do not describe their fragments."""
    output, ranges, settings = made
    (output / "_fragments.json").unlink()
    merged = output / RECORDS / "finished.jsonl"
    for line in merged.read_text().splitlines():
        old = json.loads(line)
        del old["file"]
        write_json(output / RECORDS / f"{old['key']}.json", old)
    merged.unlink()
    assert is_up_to_date(made)
    records, left = dataset.finished(ranges, settings, retry_quarantined=False)
    assert (len(records), left) == (2, [])
    dataset.commit(records, ranges, settings)
    assert read_json(output / "_fragments.json") == {}
    assert len(open_events(output).fragments) == 2


def test_a_retried_task_counts_before_its_merged_record(
    made: tuple[Path, list[EntryRange], Settings],
) -> None:
    output, ranges, settings = made
    one, other = read_records(output, TaskRecord.from_dict)
    lost = replace(one.ranges[0], lost={"I/O error": 0}, transient=True)
    merge_records(output, [replace(one, ranges=(lost,)), other])
    assert len(dataset.finished(ranges, settings, retry_quarantined=False)[1]) == 1
    write_single(output, one)
    records, left = dataset.finished(ranges, settings, retry_quarantined=False)
    assert (sorted(record.key for record in records), left) == (sorted([one.key, other.key]), [])


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "single"])
def test_the_task_of_a_damaged_record_is_done_again(
    tmp_path: Path,
    made: tuple[Path, list[EntryRange], Settings],
    caplog: pytest.LogCaptureFixture,
    merged: bool,
) -> None:
    output, ranges, settings = made
    before = events_of(output)
    path = output / RECORDS / "finished.jsonl"
    if not merged:
        one, _ = read_records(output, TaskRecord.from_dict)
        write_single(output, one)
        path = record_path(output, one.key)
    path.write_bytes(path.read_bytes().replace(b'"n_events": ', b'"n_events": 1', 1))
    records, left = dataset.finished(ranges, settings, retry_quarantined=False)
    assert (len(records), len(left)) == (1, 1)
    assert f"{path}: a record is damaged; its task is done again" in caplog.text
    (output / "_hepflow.json").unlink()
    ingest(tmp_path / "raw", output, settings.classes)
    assert events_of(output) == before


def events_of(output: Path) -> dict[str, bytes]:
    """Return all files but the records, which have times."""
    files = (*output.glob("*/*.parquet"), *output.glob("_*.json"))
    return {path.name: path.read_bytes() for path in files}
