"""Planning: every entry once, whatever the clusters, the sizes and the number of ranges."""

import itertools
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.errors import ConfigError, DataError
from hepflow.reading.listing import assign, list_files
from hepflow.reading.ranges import EntryRange, SourceFile, pack, plan
from hepflow.schema import CLASSES

sizes = st.lists(st.integers(0, 5000), min_size=0, max_size=40)
files = st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(0, 900)), min_size=1, max_size=40)


def source(name: str = "a.root", size: int = 100, class_name: str = "qcd") -> SourceFile:
    return SourceFile(class_name, name, f"/{name}", size, "1")


@given(clusters=sizes, count=st.integers(1, 50))
def test_ranges_tile_a_file_of_any_layout(clusters: list[int], count: int) -> None:
    boundaries = sorted({0, *np.cumsum(clusters).tolist()})
    ranges = [EntryRange(source(), index, count).bounds(boundaries) for index in range(count)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == boundaries[-1]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    assert {edge for pair in ranges for edge in pair} <= set(boundaries), "a cluster is cut"


@given(clusters=st.lists(st.integers(90, 110), min_size=50, max_size=60), count=st.integers(1, 10))
def test_ranges_of_even_clusters_are_even(clusters: list[int], count: int) -> None:
    boundaries = [0, *np.cumsum(clusters).tolist()]
    lengths = [
        stop - start
        for start, stop in (EntryRange(source(), i, count).bounds(boundaries) for i in range(count))
    ]
    assert max(lengths) - min(lengths) <= 2 * 110


@given(found=files, target=st.integers(1, 300))
def test_every_range_of_every_file_is_in_one_task(
    found: list[tuple[str, int]], target: int
) -> None:
    ranges = plan([source(f"{i}.root", size, name) for i, (name, size) in enumerate(found)], target)
    tasks = pack(ranges, target)
    assert sorted(one.key for task in tasks for one in task) == sorted(one.key for one in ranges)
    assert len({one.key for one in ranges}) == len(ranges)
    for task in tasks:
        assert len({one.file.class_name for one in task}) == 1
        assert len(task) == 1 or sum(one.size for one in task) <= target
    for i, (_, size) in enumerate(found):
        own = [one for one in ranges if one.file.name == f"{i}.root"]
        assert [one.index for one in own] == list(range(len(own)))
        assert all(one.size <= target for one in own)
        assert len(own) == max(1, -(-size // target))


def test_small_files_are_packed_and_large_ones_cut() -> None:
    mb = 1 << 20
    many = [source(f"small/{i:04d}.root", mb, "qcd") for i in range(10_000)]
    tasks = pack(plan([*many, source("large.root", 1000 * mb)], 128 * mb), 128 * mb)
    assert len(tasks) == 8 + -(-10_000 // 128)


def test_adding_files_leaves_the_ranges_of_others_alone() -> None:
    before = {one.key for one in plan([source("a.root", 1000)], 128)}
    assert before < {one.key for one in plan([source("a.root", 1000), source("0.root", 5000)], 128)}


def test_a_changed_file_has_new_keys() -> None:
    old, new = (SourceFile("qcd", "a.root", "/a.root", 10, version) for version in ("1", "2"))
    assert EntryRange(old).key != EntryRange(new).key


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"root\0\0\xf6\xbc")
    return root


def names_by_class(root: Path, samples: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {file.name: file.class_name for file in assign(list_files(root), samples, root)}


def test_samples_map_folders_and_globs_to_classes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "QCD_1/a.root",
        "QCD_2/deep/b.root",
        "tt/c.root",
        "tt/notes.json",
        "tt/.d.root",
        "_old/e.root",
    )
    found = names_by_class(tmp_path, {"qcd": ("QCD_*",), "ttbar": ("tt/*.root",)})
    assert found == {"QCD_1/a.root": "qcd", "QCD_2/deep/b.root": "qcd", "tt/c.root": "ttbar"}


@pytest.mark.parametrize(
    ("names", "samples", "message"),
    [
        ([], {"qcd": ("qcd",)}, r"no \*.root files here"),
        (
            ["qcd/a.root", "zjets/b.root"],
            {"qcd": ("qcd",)},
            r"1 file of no class, 'zjets/b.root' .*such as 'zjets', or leave it out with",
        ),
        (
            ["q_1.root", "w_1.root", "w_2.root"],
            {"qcd": ("q_*",)},
            r"2 files of no class, the first 'w_1.root' .*such as 'w\*', or leave th",
        ),
        (["q_1.root", "q_b.root"], {"qcd": ("q_1*",)}, r"such as 'q_b\*'"),
        (["mixed/q1.root", "mixed/w1.root"], {"qcd": ("mixed/q*",)}, r"such as 'mixed/w\*'"),
        (["q.root", "q1.root"], {"qcd": ("q.root",)}, r"such as 'q1.root'"),
        (
            ["q_1.root"],
            {"qcd": ("qcd",), "tt": ("tt",), "w": ("w",)},
            r"'qcd', 'tt' and 'w' in samples match nothing\. Give folders, .* such as 'q\*'\.$",
        ),
        (
            ["qcd/a.root", "w/b.root"],
            {"qcd": ("qdc",), "w": ("w",)},
            r"'qdc' in samples matches nothing\. Did you mean 'qcd'\?",
        ),
        (
            ["qcd/a.root"],
            {"qcd": ("qcd",), "ttbar": ("q*",)},
            r"matches more than one sample \(qcd and ttbar\)",
        ),
        (["qcd/a.root"], {"qcd": ("qcd",), "ttbar": ("tt",)}, "no .*files of class 'ttbar'"),
        (
            ["qcd/a.root"],
            {"qcd": ("qcd", "QCD_HT*")},
            r"'QCD_HT\*' in samples matches nothing\. Correct the pattern, or remove it",
        ),
    ],
)
def test_files_that_do_not_fit_the_samples_are_errors(
    tmp_path: Path, names: list[str], samples: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        names_by_class(touch(tmp_path, *names), samples)


def test_files_of_no_class_are_left_out_when_asked_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hepflow")
    files = list_files(touch(tmp_path, "qcd_1.root", "w/b.root", "w_1.root"))
    assert [file.name for file in assign(files, {"qcd": ("qcd*",)}, tmp_path, "skip")] == [
        "qcd_1.root"
    ]
    assert caplog.messages == ["left out of the input: 2 files of no class, the first w/b.root"]
    with pytest.raises(DataError, match="3 files of no class"):
        assign(files, {"qcd": ("nothing",)}, tmp_path, "skip")


@pytest.mark.parametrize("name", ["x.pool.root.1", "X.ROOT", "AOD.root.12", "a.root"])
def test_names_of_root_files(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"qcd/{name}")
    assert [file.name for file in list_files(tmp_path)] == [f"qcd/{name}"]
    assert [file.path for file in list_files(tmp_path / "qcd" / name)] == [
        str(tmp_path / "qcd" / name)
    ]


def test_links_to_folders_and_files_are_followed_and_cycles_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = touch(tmp_path / "disk2", "b.root", "deep/c.root")
    root = touch(tmp_path / "raw", "qcd/a.root")
    (root / "qcd" / "more").symlink_to(elsewhere)
    (root / "ttbar").symlink_to(elsewhere / "deep")
    (root / "d.root").symlink_to(elsewhere / "b.root")
    (elsewhere / "deep" / "again").symlink_to(root / "qcd")
    found = {file.name: file for file in list_files(root)}
    assert found.keys() == {
        "qcd/a.root",
        "qcd/more/b.root",
        "qcd/more/deep/c.root",
        "ttbar/c.root",
        "ttbar/again/a.root",
        "ttbar/again/more/b.root",
        "d.root",
    }
    looped = f"{root}/qcd/more/deep/again: a link to a folder above it, which is not followed"
    assert looped in caplog.messages
    os.utime(elsewhere / "b.root", (1, 1))
    now = {file.name: file for file in list_files(root)}
    changed = {name for name in found if found[name] != now[name]}
    assert changed == {"d.root", "qcd/more/b.root", "ttbar/again/more/b.root"}


def test_a_link_to_nothing_is_an_error_if_it_looks_like_root(tmp_path: Path) -> None:
    root = touch(tmp_path / "raw", "qcd/a.root")
    (root / "qcd" / "notes.txt").symlink_to(tmp_path / "nowhere")
    assert len(list_files(root)) == 1
    (root / "qcd" / "b.root").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"qcd/b\.root: a link to a file that does not exist\."):
        list_files(root)


def test_files_that_look_like_root_are_counted_and_named_when_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = touch(tmp_path, "a.root", ".b.root", "_old/c.root", "q/d.dat", "q/e.root_old")
    (root / "notes.txt").write_text("rooted in physics")
    (root / "list.json").write_text("{}")
    assert [file.name for file in list_files(root)] == ["a.root"]
    assert [file.name for file in list_files(root)] == ["a.root"]
    hidden, unnamed = caplog.messages
    assert hidden.endswith(
        "left out 2 files that look like ROOT, the first .b.root, "
        "whose names, or those of their folders, begin with . or _"
    )
    assert unnamed.endswith(
        "left out 2 files that look like ROOT, the first q/d.dat, whose names do not end in .root"
    )


def test_a_missing_input_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder.*--input"):
        list_files(tmp_path / "nowhere")


def test_an_unknown_protocol_is_an_error() -> None:
    with pytest.raises(ConfigError, match="nonsense://x"):
        list_files("nonsense://x")
