"""Predictions are read as written, by any reader, and other files are refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hepflow.data.predictions import Predictions, read_predictions, softmax, write_predictions
from hepflow.errors import DataError

CLASSES = ("qcd", "ttbar", "wjets")


def predictions(n: int = 20, seed: int = 0) -> Predictions:
    """Return predictions in no order, of which two events have the same identity."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(n).astype(np.int64) - n // 2
    ids[: min(n, 2)] = 0
    label = rng.integers(0, 3, n).astype(np.int8)
    logits = rng.normal(0, 3, (n, 3)).astype(np.float32)
    return Predictions(ids, label, logits, CLASSES, "hlf", {"store": "f00d", "split": "test"})


@given(n=st.integers(0, 30), seed=st.integers(0, 9))
def test_predictions_come_back_by_event(n, seed, tmp_path_factory):
    written = predictions(n, seed)
    path = tmp_path_factory.mktemp("predictions") / "p.parquet"
    write_predictions(path, written)
    found = read_predictions(path)
    order = np.argsort(written.event_id, kind="stable")
    for name in ("event_id", "label", "logits"):
        values = getattr(found, name)
        assert values.dtype == getattr(written, name).dtype
        np.testing.assert_array_equal(values, getattr(written, name)[order])
    assert (found.classes, found.model) == (CLASSES, "hlf")
    assert found.provenance == {"store": "f00d", "split": "test"}


def test_pyarrow_alone_reads_the_documented_columns(tmp_path):
    written = predictions()
    write_predictions(tmp_path / "p.parquet", written)
    table = pq.read_table(tmp_path / "p.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "event_id": "int64",
        "label": "int8",
        "logit_qcd": "float",
        "logit_ttbar": "float",
        "logit_wjets": "float",
    }
    found = {row["event_id"]: row["logit_ttbar"] for row in table.to_pylist()}
    for event_id, logit in zip(written.event_id[2:], written.logits[2:, 1], strict=True):
        assert found[event_id] == logit
    assert json.loads(table.schema.metadata[b"hepflow"]) == {
        "schema_version": 1,
        "classes": list(CLASSES),
        "model": "hlf",
        "provenance": {"store": "f00d", "split": "test"},
    }


def test_the_bytes_depend_on_the_events_only(tmp_path):
    one = predictions()
    shuffled = np.r_[0, 1, np.random.default_rng(3).permutation(np.arange(2, 20))]
    arrays = (one.event_id[shuffled], one.label[shuffled], one.logits[shuffled])
    write_predictions(tmp_path / "one.parquet", one)
    same = {"split": "test", "store": "f00d"}
    write_predictions(tmp_path / "other.parquet", Predictions(*arrays, CLASSES, "hlf", same))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_wider_types_of_a_library_become_those_of_the_format(tmp_path):
    one = predictions()
    wide = (one.event_id, one.label.astype(np.int64), one.logits.astype(np.float64))
    write_predictions(tmp_path / "p.parquet", Predictions(*wide, CLASSES, "trees", {}))
    found = read_predictions(tmp_path / "p.parquet")
    assert (found.label.dtype, found.logits.dtype) == (np.int8, np.float32)


def test_predictions_that_cannot_be_written_leave_the_earlier_file(tmp_path):
    path = tmp_path / "p.parquet"
    one = predictions()
    write_predictions(path, one)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="zip"):
        write_predictions(path, Predictions(one.event_id, one.label, one.logits, ("a",), "m", {}))
    assert path.read_bytes() == before
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_predictions(tmp_path / "folder", one)
    assert {file.name for file in tmp_path.iterdir()} == {"p.parquet", "folder"}


def test_other_files_are_no_predictions(tmp_path):
    path = tmp_path / "p.parquet"
    with pytest.raises(DataError, match=r"p\.parquet: no readable predictions"):
        read_predictions(path)
    path.write_text("event_id,label")
    with pytest.raises(DataError, match=r"p\.parquet: no readable predictions"):
        read_predictions(path)
    pq.write_table(pa.table({"event_id": [1], "label": [0]}), path)
    with pytest.raises(DataError, match="schema version None, this hepflow reads 1"):
        read_predictions(path)
    metadata = {"hepflow": json.dumps({"schema_version": 99})}
    pq.write_table(pa.table({"event_id": [1], "label": [0]}, metadata=metadata), path)
    with pytest.raises(DataError, match="schema version 99, this hepflow reads 1"):
        read_predictions(path)


def test_an_error_names_the_columns_that_are_missing_and_those_there_are(tmp_path):
    path = tmp_path / "p.parquet"
    write_predictions(path, predictions())
    for missing, there in (
        (["label", "logit_ttbar"], ["event_id", "logit_qcd", "logit_wjets"]),
        (["event_id"], ["label", "logit_qcd", "logit_ttbar", "logit_wjets"]),
    ):
        pq.write_table(pq.read_table(path).drop_columns(missing), tmp_path / "fewer.parquet")
        words = f"no column {', '.join(missing)} among {', '.join(there)}"
        with pytest.raises(DataError, match=rf"fewer\.parquet: {words}\."):
            read_predictions(tmp_path / "fewer.parquet")


@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 9), st.integers(1, 4)),
        elements=st.floats(-1e4, 1e4, width=32),
    )
)
def test_probabilities_are_those_of_scipy(logits):
    n, k = logits.shape
    names = tuple("abcd"[:k])
    own = Predictions(np.arange(n), np.zeros(n, np.int8), logits, names, "m", {}).probabilities
    assert own.dtype == np.float64
    np.testing.assert_allclose(own, scipy.special.softmax(logits.astype(float), axis=1), rtol=1e-12)


def test_the_probabilities_of_a_class_lie_next_to_each_other_and_nan_stays_nan():
    found = softmax(np.array([[1, 1], [np.nan, 0], [0, np.nan]], np.float32))
    assert found[:, 0].flags.contiguous
    assert np.isnan(found).tolist() == [[False] * 2, [True] * 2, [True] * 2]
