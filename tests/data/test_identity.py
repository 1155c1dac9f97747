"""Event identities and splits."""

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.identity import event_ids, fold_index, split_index

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


@given(st.uuids(), st.integers(0, 2**40))
def test_entries_of_a_file_have_distinct_ids(file: uuid.UUID, start: int) -> None:
    ids = event_ids(file.bytes, np.arange(start, start + 1000))
    assert ids.dtype == np.int64
    assert len(np.unique(ids)) == 1000


@given(st.uuids(), st.integers(0, 1000), st.integers(1, 1000))
def test_an_id_does_not_depend_on_how_the_file_is_cut(file: uuid.UUID, cut: int, more: int) -> None:
    whole = event_ids(file.bytes, np.arange(cut + more))
    pieces = [
        event_ids(file.bytes, np.arange(cut)),
        event_ids(file.bytes, np.arange(cut, cut + more)),
    ]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_ids_of_two_files_differ() -> None:
    a, b = (event_ids(uuid.UUID(int=n).bytes, np.arange(100_000)) for n in (1, 2))
    assert len(np.intersect1d(a, b)) == 0


def test_an_id_never_changes_between_versions() -> None:
    assert event_ids(uuid.UUID(int=7).bytes, np.arange(3)).tolist() == [
        -3474879520838386357,
        5602016235633422425,
        -1103191435365252119,
    ]


def test_splits_have_their_fractions() -> None:
    index = split_index(event_ids(b"file", np.arange(200_000)), FRACTIONS)
    shares = np.bincount(index, minlength=3) / 200_000
    assert shares == pytest.approx(list(FRACTIONS.values()), abs=0.005)


def test_an_empty_split_gets_no_event() -> None:
    index = split_index(
        event_ids(b"file", np.arange(10_000)), {"train": 1.0, "val": 0.0, "test": 0.0}
    )
    assert set(index) == {0}


def test_the_split_and_the_fold_of_an_event_never_change_between_versions() -> None:
    ids = event_ids(uuid.UUID(int=7).bytes, np.arange(12))
    assert split_index(ids, FRACTIONS).tolist() == [2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert fold_index(ids, 5).tolist() == [0, 0, 4, 0, 1, 0, 2, 0, 3, 3, 1, 1]


def test_folds_are_equally_large_in_every_split() -> None:
    ids = event_ids(b"file", np.arange(200_000))
    fold = fold_index(ids, 4)
    assert fold.dtype == np.int64
    for split in range(3):
        own = fold[split_index(ids, FRACTIONS) == split]
        assert np.bincount(own, minlength=4) / len(own) == pytest.approx([0.25] * 4, abs=0.01)


@given(st.floats(0, 1), st.floats(0, 1))
def test_an_event_leaves_the_training_split_only_if_that_shrinks(one: float, other: float) -> None:
    ids = event_ids(b"file", np.arange(500))
    small, large = (
        split_index(ids, {"train": share, "test": 1 - share}) == 0 for share in sorted((one, other))
    )
    assert not (small & ~large).any()
