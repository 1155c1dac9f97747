"""The catalogue of fragments: what it says is what their footers say, and it saves reading them."""

import json
import shutil
from pathlib import Path

import awkward as ak
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.catalog import CATALOG, Footer, read_catalog, write_catalog
from hepflow.data.events import open_events, read_fragment
from hepflow.errors import DataError
from hepflow.reading.reader import Access
from hepflow.score.inputs import ranges_of, reader_of
from hepflow.system.files import read_json
from hepflow.system.places import place
from hepflow.system.publishing import put
from hepflow.system.storage import file_sizes, make_folder
from tests.support.delphes_events import write_dataset
from tests.support.stores import S3Server


def catalogued(folder: Path, fragments: int = 3, events: int = 20) -> Path:
    """Write a dataset in row groups of seven events, with its catalogue."""
    write_dataset(folder, fragments, events, row_group_size=7)
    names = read_json(folder / "_hepflow.json")["fragments"]
    write_catalog(folder, {name: Footer.read(folder / name).describe() for name in names})
    return folder


def without_catalog(folder: Path, copy: Path) -> Path:
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(CATALOG))
    return copy


def swap_a_letter(file: Path) -> None:
    """Change the footer, but not the size: the name of the program that wrote it."""
    content = file.read_bytes()
    assert content.count(b"parquet-cpp-arrow") == 1
    file.write_bytes(content.replace(b"parquet-cpp-arrow", b"parquet-cpp-Arrow"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a dataset, and the same without a catalogue."""
    folder = tmp_path_factory.mktemp("catalog")
    return catalogued(folder / "events"), without_catalog(folder / "events", folder / "plain")


@pytest.fixture
def events(sound: tuple[Path, Path], tmp_path: Path) -> Path:
    """Return a dataset with a catalogue, which a test may damage."""
    return Path(shutil.copytree(sound[0], tmp_path / "events"))


@given(task_bytes=st.integers(1, 100_000))
def test_a_dataset_is_the_same_with_and_without_a_catalogue(
    sound: tuple[Path, Path], task_bytes: int
) -> None:
    here, plain = (open_events(path, task_bytes) for path in sound)
    assert len(here.fragments) == len(plain.fragments)
    for one, other in zip(here.fragments, plain.fragments, strict=True):
        assert one.path.relative_to(sound[0]) == other.path.relative_to(sound[1])
        assert {**vars(one), "path": None} == {**vars(other), "path": None}
    assert ak.array_equal(here.read(), plain.read())


def test_a_dataset_with_a_catalogue_is_opened_without_its_fragments(events: Path) -> None:
    before = open_events(events)
    for file in events.glob("*/*.parquet"):
        file.write_bytes(bytes(file.stat().st_size))
    assert open_events(events) == before
    with pytest.raises(DataError, match=r"not readable \(it does not end as Parquet does\)"):
        before.read()


def test_a_changed_fragment_of_the_same_size_is_refused_when_it_is_read(events: Path) -> None:
    (fragment, *_) = open_events(events).fragments
    (entries, *_) = ranges_of(events, Access(), 1 << 27)
    swap_a_letter(fragment.path)
    line = f"{fragment.path}: changed since it was written. Remove it and run `hepflow ingest` aga"
    with pytest.raises(DataError) as error:
        read_fragment(fragment)
    assert str(error.value).startswith(line)
    reader = reader_of(entries, Access())
    assert list(reader.chunks()) == []
    assert reader.unreadable == "changed since it was written"
    (events / CATALOG).unlink()
    assert len(open_events(events).read()) == 60, "the footer alone is no reason"


def test_a_fragment_without_an_entry_or_of_another_size_is_described_by_its_footer(
    events: Path,
) -> None:
    before, catalog = open_events(events), read_catalog(events)
    first, second, _ = sorted(catalog)
    del catalog[first]
    write_catalog(events, catalog)
    assert open_events(events) == before
    (events / second).write_bytes(b"PAR1" + (events / second).read_bytes())
    after = open_events(events)
    names = [fragment.name for fragment in before.fragments]
    changed = [a != b for a, b in zip(before.fragments, after.fragments, strict=True)]
    assert [name for name, new in zip(names, changed, strict=True) if new] == [
        second.removesuffix(".parquet").replace("/", "--")
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"missing, though _hepflow\.json names it\. Remove it and run"),
        (lambda file: file.write_bytes(b""), r"not a Parquet file \("),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), r"not a Parquet file \("),
    ],
    ids=["missing", "empty", "cut"],
)
def test_a_missing_or_cut_fragment_is_refused_as_without_a_catalogue(
    sound: tuple[Path, Path], tmp_path: Path, damage, message: str
) -> None:
    texts = []
    for n, path in enumerate(sound):
        folder = Path(shutil.copytree(path, tmp_path / str(n) / "events"))
        damage(next(iter(folder.glob("*/*.parquet"))))
        with pytest.raises(DataError, match=message) as error:
            open_events(folder)
        texts.append(str(error.value).replace(str(folder), ""))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "text", ["[1]", "3", "null", '{"a": 1}', '{"a": [1, "b"]}', '{"a": [1, "b", [[1]]]}', '{"a']
)
def test_a_damaged_catalogue_is_one_line(events: Path, text: str) -> None:
    (events / CATALOG).write_text(text)
    with pytest.raises(DataError, match=rf"{CATALOG}: not .*Delete it and run") as error:
        open_events(events)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("groups", [[[20, 1], [20, 1]], [[10**15, 1]], [[-20, 1]], []])
def test_a_catalogue_that_announces_other_rows_is_one_line(
    tmp_path: Path, groups: list[list[int]]
) -> None:
    events = catalogued(tmp_path / "events", 1)
    about, marker = read_json(events / CATALOG), read_json(events / "_hepflow.json")
    (name,) = about
    (events / CATALOG).write_text(json.dumps({name: [*about[name][:2], groups]}))
    n_events = sum(rows for rows, _ in groups)
    marker["ledger"] |= {"n_in": n_events, "n_out": n_events}
    (events / "_hepflow.json").write_text(json.dumps(marker))
    with pytest.raises(DataError) as error:
        open_events(events).read()
    assert "\n" not in str(error.value)


def test_linked_folders_of_classes_are_listed(events: Path, tmp_path: Path) -> None:
    (qcd, *_) = sorted(path for path in events.iterdir() if path.is_dir())
    before = file_sizes(events, read_catalog(events))
    qcd.rename(tmp_path / "elsewhere")
    qcd.symlink_to(tmp_path / "elsewhere")
    assert file_sizes(events, read_catalog(events)) == before


def test_sizes_are_of_the_wanted_files_that_are_there(anywhere: Path) -> None:
    for name, size in {"top": 1, "a/one": 2, "a/two": 3, "b/c/deep": 4}.items():
        make_folder((anywhere / name).parent)
        put(anywhere / name, bytes(size))
    wanted = ["top", "a/one", "a/none", "none/none", "b/c/deep", "b/c", "a/one/below"]
    assert file_sizes(anywhere, wanted) == {"top": 1, "a/one": 2, "b/c/deep": 4}


def test_pieces_and_whole_files_are_read_and_checked_on_every_store(
    sound: tuple[Path, Path], away: Path
) -> None:
    for file in sound[0].rglob("*.*"):
        target = away / file.relative_to(sound[0]).as_posix()
        make_folder(target.parent)
        content = file.read_bytes()
        if "qcd" in target.parts:
            content = content.replace(b"parquet-cpp-arrow", b"parquet-cpp-Arrow")
        put(target, content)
    for task_bytes in (1, 1 << 30):
        far, near = (open_events(path, task_bytes).fragments for path in (away, sound[0]))
        for one, other in zip(far, near, strict=True):
            assert one.fingerprint == other.fingerprint
            if "qcd" in one.name:
                with pytest.raises(DataError, match="changed since it was written"):
                    read_fragment(one)
            else:
                assert ak.array_equal(read_fragment(one), read_fragment(other))


@pytest.mark.slow
@pytest.mark.s3
def test_many_fragments_take_as_many_requests_as_few(
    tmp_path: Path, s3: str, s3_server: S3Server
) -> None:
    counts = []
    for n in (3, 30):
        catalogued(tmp_path / str(n), n, 3)
        far = place(f"{s3}/requests-{n}")
        for file in (tmp_path / str(n)).rglob("*.*"):
            (far / file.relative_to(tmp_path / str(n)).as_posix()).write_bytes(file.read_bytes())
        before = s3_server.n_requests
        assert len(open_events(far).fragments) == n
        counts.append(s3_server.n_requests - before)
    assert counts[0] == counts[1]
