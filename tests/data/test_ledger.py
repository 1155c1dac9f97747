"""Ledgers add up and reconcile; JSON is written whole."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.ledger import Ledger, Lost, total
from hepflow.errors import HepflowError
from hepflow.system.files import read_json, write_json

REASONS = st.dictionaries(
    st.sampled_from(["no lepton", "not isolated", "no jet"]), st.integers(1, 10**9)
)
LOST = st.lists(
    st.builds(
        Lost,
        file=st.text(max_size=8),
        reason=st.text(max_size=8),
        events=st.none() | st.integers(0, 10**9),
    ),
    max_size=3,
)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    n_out, rejected, lost = draw(st.integers(0, 10**12)), draw(REASONS), tuple(draw(LOST))
    return Ledger(
        n_out + sum(rejected.values()) + sum(item.events or 0 for item in lost),
        n_out,
        rejected,
        lost,
    )


@given(st.lists(ledgers(), max_size=5))
def test_a_sum_of_ledgers_that_reconcile_reconciles(items: list[Ledger]) -> None:
    assert total(items).check().n_in == sum(item.n_in for item in items)


@given(ledgers())
def test_a_ledger_survives_json(ledger: Ledger) -> None:
    assert Ledger.from_dict(json.loads(json.dumps(ledger.to_dict()))) == ledger


@given(ledgers(), st.integers(1, 100))
def test_one_event_too_many_is_detected(ledger: Ledger, extra: int) -> None:
    with pytest.raises(AssertionError, match="does not reconcile"):
        Ledger(ledger.n_in + extra, ledger.n_out, ledger.rejected, ledger.lost).check()


def test_json_is_written_whole_and_sorted(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [1, 2]})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2], "b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_an_error_names_damaged_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(HepflowError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_an_uncounted_file_loses_an_unknown_number_of_events() -> None:
    ledger = Ledger(3, 1, {}, (Lost("a", "x", 2), Lost("b", "y"), Lost("b", "y")))
    assert ledger.summary() == "3 events in, 1 out, 2 and an unknown number lost in 2 files"
    assert (
        Ledger(1, 1, {}, (Lost("b", "y"),)).summary()
        == "1 event in, 1 out, an unknown number lost in 1 file"
    )


def test_a_sum_of_ledgers_adds_the_events_of_each_cut_and_keeps_every_loss() -> None:
    a = Ledger(9, 4, {"no lepton": 2, "soft": 1}, (Lost("a", "x", 2),))
    b = Ledger(7, 1, {"far": 3, "no lepton": 1}, (Lost("a", "y"), Lost("b", "x", 2)))
    assert a + b == Ledger(16, 5, {"far": 3, "no lepton": 3, "soft": 1}, a.lost + b.lost)
    assert list((a + b).rejected) == ["far", "no lepton", "soft"], "in one order for any a, b"
    assert total([]) == Ledger() == Ledger().check()


def test_a_summary_has_every_number() -> None:
    ledger = Ledger(2500, 1100, {"no lepton": 1000, "soft": 300}, (Lost("a", "x", 100),))
    assert ledger.check().summary() == (
        "2,500 events in, 1,100 out, 1,000 no lepton, 300 soft, 100 lost in 1 file"
    )
    assert Ledger().summary() == "0 events in, 0 out"


def test_lost_events_in_words_tell_known_from_unknown_numbers() -> None:
    known, unknown = Lost("a", "x", 1200), Lost("b", "y")
    assert Ledger().lost_in_words == Ledger(lost=(Lost("a", "x", 0),)).lost_in_words == "0"
    assert Ledger(lost=(known,)).lost_in_words == "1,200"
    assert Ledger(lost=(unknown,)).lost_in_words == "an unknown number"
    assert Ledger(lost=(unknown, known)).lost_in_words == "1,200 and an unknown number"


def test_an_unbalanced_ledger_is_reported_with_its_numbers() -> None:
    with pytest.raises(AssertionError, match="9 in, 4 out, 2 rejected, 1 lost"):
        Ledger(9, 4, {"soft": 2}, (Lost("a", "x", 1), Lost("b", "y"))).check()
