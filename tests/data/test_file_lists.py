"""Lists of files that users write: what they may hold, and one line for everything else."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.file_lists import LostEntries, joined, read_expected, read_list, write_lost
from hepflow.errors import DataError
from hepflow.reading.record import MOST_INTERVALS, Losses

INTERVALS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda one: (one[0], sum(one)))
)


def entries_in(intervals: Any) -> set[int]:
    return {entry for start, stop in intervals for entry in range(start, stop)}


@given(intervals=INTERVALS, most=st.integers(1, 6))
def test_joined_intervals_cover_all_and_are_few(
    intervals: list[tuple[int, int]], most: int
) -> None:
    found = joined(intervals, most)
    assert len(found) <= most
    assert entries_in(found) >= entries_in(intervals)
    assert all(left[1] < right[0] for left, right in pairwise(found))
    assert entries_in(joined(intervals, 100)) == entries_in(intervals)


def test_the_closest_intervals_are_joined() -> None:
    assert joined([(0, 2), (10, 12), (13, 14), (30, 31)], 3) == [(0, 2), (10, 14), (30, 31)]


@given(
    chunks=st.lists(
        st.tuples(st.sampled_from("ab"), st.sets(st.integers(0, 400), min_size=1)), max_size=4
    )
)
def test_lost_entries_are_counted_and_located(chunks: list[tuple[str, set[int]]]) -> None:
    losses, expected = Losses(), dict[str, set[int]]()
    for number, (reason, entries) in enumerate(chunks):
        own = np.array(sorted(entries)) + 1000 * number
        losses.add_each(reason, own)
        expected.setdefault(reason, set()).update(own.tolist())
    losses.add("a", 9000, 9010)
    losses.add("nothing", 5, 5)
    expected.setdefault("a", set()).update(range(9000, 9010))
    assert losses.counts == {reason: len(own) for reason, own in expected.items()}
    for reason, own in expected.items():
        where = losses.entries[reason]
        assert len(where) <= MOST_INTERVALS
        assert entries_in(where) >= own
        if len(own) <= MOST_INTERVALS:
            assert entries_in(where) == own


def test_what_is_written_is_read(tmp_path: Path) -> None:
    lost = [
        LostEntries("qcd/b.root", "corrupt", 30, [(20, 50)]),
        LostEntries("qcd/b.root", "NaN", 2, [(3, 4), (7, 8)]),
        LostEntries("qcd/a.root", "truncated", None, None),
    ]
    write_lost(tmp_path, lost)
    expected = {"qcd/a.root": None, "qcd/b.root": [(3, 4), (7, 8), (20, 50)]}
    assert read_list(tmp_path / "_lost.json", "data") == expected
    (tmp_path / "again").mkdir()
    write_lost(tmp_path / "again", reversed(lost))
    paths = [folder / "_lost.json" for folder in (tmp_path, tmp_path / "again")]
    assert len({path.read_bytes() for path in paths}) == 1
    write_lost(tmp_path, [])
    assert read_list(tmp_path / "_lost.json", "data") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qcd/a.root\n\n# damaged\n  qcd/b.root  \n", {"qcd/a.root": None, "qcd/b.root": None}),
        ('["qcd/a.root"]', {"qcd/a.root": None}),
        ('[{"file": "a", "entries": [[5, 9], [0, 6]]}]', {"a": [(0, 9)]}),
        ('[{"file": "a", "entries": [[5, 9]]}, "a"]', {"a": None}),
        ("raw/qcd/a.root", {"qcd/a.root": None}),
        ("", {}),
        ("[]", {}),
        ('{"lost": []}', {}),
    ],
)
def test_lists_by_hand(tmp_path: Path, text: str, expected: dict[str, Any]) -> None:
    (tmp_path / "list").write_text(text)
    assert read_list(tmp_path / "list", Path("raw")) == expected


def test_names_may_be_whole_paths(tmp_path: Path) -> None:
    for root in (tmp_path / "raw", f"{tmp_path}/raw/"):
        (tmp_path / "list").write_text(f"{tmp_path}/raw/qcd/a.root\n")
        assert read_list(tmp_path / "list", root) == {"qcd/a.root": None}


BAD = ['{"files": []}', "[3]", "[[]]", '[{"name": "a"}]', '{"lost": 3}', '{"lost": ["../a"]}']
BAD += ['[{"file": "a", "entries": 7}]', '[{"file": "a", "entries": [[9, 5]]}]', "[" * 100_000]
BAD += ['[{"file": "a", "entries": [[0, 1e9]]}]', '[{"file": "a", "entries": [[-1, 5]]}]', "{"]
BAD += ["/etc/passwd", "a\0b", "..", '{"lost": null}', '{"lost": [null]}']


@pytest.mark.parametrize("text", BAD, ids=lambda text: text[:30])
def test_another_content_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(DataError, match=r"list: not a list of files") as error:
        read_list(tmp_path / "list", "raw")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [read_list, read_expected])
def test_a_missing_list_is_one_line(tmp_path: Path, read: Any) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "list", "raw")
    with pytest.raises(DataError, match="a folder"):
        read(tmp_path, "raw")
    (tmp_path / "list").write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match="not a "):
        read(tmp_path / "list", "raw")


EXPECTED = {"qcd/a.root": 100, "qcd/b.root": 0}


@pytest.mark.parametrize(
    "text",
    [
        "file,entries\nqcd/a.root,100\nqcd/b.root,0\n",
        "bytes,entries,file\r\n7,100,raw/qcd/a.root\r\n8,0,qcd/b.root\r\n",
        json.dumps(EXPECTED),
        json.dumps([{"file": name, "entries": n} for name, n in EXPECTED.items()]),
        json.dumps({"files": [{"file": name, "entries": n} for name, n in EXPECTED.items()]}),
    ],
)
def test_lists_of_expected_entries(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    assert read_expected(tmp_path / "list", Path("raw")) == EXPECTED


BAD = ["file\na\n", "file,entries\na,many\n", "file,entries\na,-1\n", "file,entries\na,1\na,2\n"]
BAD += ["file,entries\na\n", '{"a": null}', '{"a": 1.5}', "[1]", '{"files": 3}', "{", "3"]


@pytest.mark.parametrize("text", BAD)
def test_other_expected_entries_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(DataError, match=r"list: not a list of expected entries") as error:
        read_expected(tmp_path / "list", "raw")
    assert "\n" not in str(error.value)
