"""Blocks of events are selected as by a loop; a description survives JSON and hashes its fields."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.blocks import EventBlock, Range, StoreSpec
from hepflow.schema import Feature

LENGTHS = st.lists(st.integers(0, 4), min_size=1, max_size=12)
PT, ETA = Feature("Pt", "GeV"), Feature("Eta", "1")
SPEC = StoreSpec(
    ("qcd", "ttbar"),
    (PT,),
    (PT, ETA),
    "corrected",
    "origin",
    splits={"train": 0.5, "test": 0.5},
    physics="mine:features@1234",
    input="events",
    keep_bits=12,
)


def block(lengths: list[int]) -> EventBlock:
    n = len(lengths)
    return EventBlock(
        hlf=np.arange(2.0 * n, dtype=np.float32).reshape(n, 2),
        particles=np.arange(3.0 * sum(lengths), dtype=np.float32).reshape(-1, 3),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        label=np.arange(n, dtype=np.int8),
        event_id=np.arange(n, dtype=np.int64) + 100,
    )


def as_events(events: EventBlock) -> list[tuple]:
    """Return an event as plain numbers: features, particles, label, identity."""
    assert events.offsets[0] == 0
    assert events.offsets[-1] == len(events.particles)
    assert len(events.offsets) == len(events) + 1
    jagged = np.split(events.particles, events.offsets[1:-1]) if len(events) else []
    columns = (events.hlf, jagged, events.label, events.event_id)
    return [tuple(value.tolist() for value in row) for row in zip(*columns, strict=True)]


@given(LENGTHS, st.data())
def test_a_slice_of_a_block_is_that_of_a_list(lengths, data):
    whole, chosen = block(lengths), data.draw(st.slices(len(lengths)))
    assert as_events(whole[chosen]) == as_events(whole)[chosen]


@given(LENGTHS, st.data())
def test_events_are_selected_by_a_mask_or_positions(lengths, data):
    whole, n = block(lengths), len(lengths)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    expected = [event for event, keep in zip(as_events(whole), mask, strict=True) if keep]
    assert as_events(whole[mask]) == expected
    places = data.draw(st.lists(st.integers(-n, n - 1), max_size=6))
    chosen = whole[np.array(places, np.int64)]
    assert as_events(chosen) == [as_events(whole)[place] for place in places]


@pytest.mark.parametrize("chosen", [slice(1, 3), slice(None), slice(2, None, 1)])
def test_a_slice_copies_nothing(chosen):
    whole = block([2, 0, 3, 1])
    part = whole[chosen]
    for name in ("hlf", "particles", "label", "event_id"):
        assert np.shares_memory(getattr(part, name), getattr(whole, name))


def test_a_description_survives_json():
    assert StoreSpec.from_dict(json.loads(json.dumps(asdict(SPEC)))) == SPEC


def test_a_description_of_an_older_store_lacks_later_fields():
    old = {"classes": ["qcd"], "hlf": [asdict(PT)], "particles": [asdict(ETA)]}
    old |= {"definitions": "corrected", "provenance": "p", "complete": True}
    assert StoreSpec.from_dict(old) == StoreSpec(("qcd",), (PT,), (ETA,), "corrected", "p")
    assert StoreSpec.from_dict(old).keep_bits == 23, "all of a float"


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ("ttbar", "qcd")},
        {"hlf": (ETA,)},
        {"particles": (PT, Feature("Eta", "rad"))},
        {"definitions": "reference"},
        {"splits": {"train": 0.6, "test": 0.4}},
        {"physics": "mine:features@5678"},
        {"keep_bits": 13},
    ],
)
def test_parts_of_other_settings_do_not_belong_together(change):
    assert replace(SPEC, **change).settings != SPEC.settings


def test_parts_of_other_events_belong_together():
    assert replace(SPEC, provenance="another", input="more").settings == SPEC.settings


def test_arrays_are_those_of_the_store_unless_a_range_has_a_group_of_its_own():
    assert Range("train", "qcd", 7, 3, 9).place(Path("s.zarr")) == Path("s.zarr")
    old = Range("train", "qcd", 0, 3, 9, "train/qcd/a")
    assert old.place(Path("s.zarr")) == Path("s.zarr/train/qcd/a")


@pytest.mark.parametrize(
    "wrong",
    [
        ("..", "qcd", 0, 1, 1),
        ("train", "a/b", 0, 1, 1),
        ("train", "qcd", -1, 1, 1),
        ("train", "qcd", 0, 1, -1),
        ("train", "qcd", 0, 1, 1, "/train"),
        ("train", "qcd", 0, 1, 1, "../train"),
    ],
)
def test_a_range_stays_in_its_store(wrong):
    with pytest.raises(ValueError, match=r"is no place|is a path|events"):
        Range(*wrong)


@given(cuts=st.lists(st.integers(0, 12), max_size=4).map(sorted))
def test_joined_blocks_are_the_whole(cuts):
    counts = np.arange(12) % 4
    n = counts.sum()
    whole = EventBlock(
        np.arange(24, dtype=np.float32).reshape(12, 2),
        np.arange(3 * n, dtype=np.float32).reshape(n, 3),
        np.concatenate([[0], np.cumsum(counts)]),
        np.zeros(12, np.int8),
        np.arange(12),
    )
    joined = EventBlock.joined([whole[i:j] for i, j in pairwise([0, *cuts, 12])])
    for name in EventBlock.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
