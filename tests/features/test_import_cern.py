"""Files of the published schemas become feature stores."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepflow.config.tools import ImportConfig, StoreConfig
from hepflow.data.blocks import StoreSpec
from hepflow.data.store import EventStore
from hepflow.data.store_writer import StoreWriter
from hepflow.errors import ConfigError, DataError
from hepflow.features.import_cern import run
from hepflow.physics.features import compute_features, hlf_features
from hepflow.schema import CLASSES, PARTICLE
from hepflow.tools.store import check
from tests.support.delphes_events import random_events, to_awkward

pytestmark = pytest.mark.slow

HLF_ONLY, WITH_PARTICLES, FIRST_STEP = "HLF_input", "GRU_input", "lfeatures"


def standardised(x: np.ndarray) -> np.ndarray:
    """Standardise per event over all 801 rows, as published; a constant column becomes 0."""
    std = x.std(axis=1, keepdims=True)
    return (x - x.mean(axis=1, keepdims=True)) / np.where(std == 0, 1.0, std)


@pytest.fixture(scope="module")
def reference():
    return compute_features(to_awkward(random_events(60, seed=3)), "reference")


def padded(features) -> np.ndarray:
    out = np.zeros((len(features.index), 801, 19))
    for i, (start, stop) in enumerate(
        zip(features.offsets[:-1], features.offsets[1:], strict=True)
    ):
        out[i, : stop - start] = features.particles[start:stop]
    return out


def lists(values: np.ndarray) -> pa.Array:
    """(n, m) -> n lists of m, without Python lists."""
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, values.size + 1, values.shape[1]), pa.int32()),
        pa.array(values.ravel()),
    )


def write(path, features, layout, vectors=False, shift=0):
    """A file of the published schema."""
    path.mkdir(parents=True)
    n = len(features.index)
    label = (np.arange(n) + shift) % 3
    low = padded(features)
    if layout == FIRST_STEP:
        high = features.hlf.astype(np.float64).tolist()
        if vectors:
            kind = pa.struct(
                [
                    ("type", pa.int8()),
                    ("size", pa.int32()),
                    ("indices", pa.list_(pa.int32())),
                    ("values", pa.list_(pa.float64())),
                ]
            )
            hfeatures = pa.array(
                [{"type": 1, "size": None, "indices": None, "values": row} for row in high], kind
            )
        else:
            hfeatures = lists(features.hlf.astype(np.float64))
        columns = {
            "hfeatures": hfeatures,
            "lfeatures": pa.ListArray.from_arrays(
                pa.array(np.arange(0, 801 * n + 1, 801), pa.int32()), lists(low.reshape(-1, 19))
            ),
            "label": pa.array(label, pa.int64()),
        }
    else:
        scaled = features.hlf.astype(np.float64)
        scaled = (scaled - scaled.min(axis=0)) / np.maximum(np.ptp(scaled, axis=0), 1e-9)
        columns = {"HLF_input": lists(scaled)}
        if layout == WITH_PARTICLES:
            columns["GRU_input"] = lists(standardised(low).reshape(n, -1))
        columns["encoded_label"] = lists(np.eye(3)[label])
    pq.write_table(pa.table(columns), path / "part-00000-c000.snappy.parquet")
    (path / "_SUCCESS").touch()
    return path


def imported(tmp_path, features, layout, **options) -> EventStore:
    train = write(tmp_path / "train.parquet", features, layout, **options)
    test = write(tmp_path / "test.parquet", features, layout, shift=1, **options)
    config = ImportConfig(train=train, test=test, output=tmp_path / "cern.zarr", rows_per_part=16)
    run(config)
    check(StoreConfig(input=config.output))
    return EventStore.open(config.output)


def everything(store, split):
    return [store.read(part) for name in store.spec.classes for part in store.ranges(split, name)]


@pytest.mark.parametrize("layout", [HLF_ONLY, WITH_PARTICLES, FIRST_STEP])
def test_every_published_event_is_imported_once(tmp_path, reference, layout):
    store = imported(tmp_path, reference, layout)
    n = len(reference.index)
    assert store.spec.definitions == "reference"
    assert store.ledger().n_in == store.ledger().n_out == 2 * n
    assert sum(len(block) for block in everything(store, "test")) == n
    assert sum(len(block) for split in ("train", "val") for block in everything(store, split)) == n


@pytest.mark.parametrize("layout", [WITH_PARTICLES, FIRST_STEP])
def test_padding_is_left_out_and_particles_are_not(tmp_path, reference, layout):
    store = imported(tmp_path, reference, layout)
    lengths = sorted(
        length for block in everything(store, "test") for length in np.diff(block.offsets).tolist()
    )
    assert lengths == sorted(np.diff(reference.offsets).tolist())


def test_values_are_those_published(tmp_path, reference):
    store = imported(tmp_path, reference, FIRST_STEP, vectors=True)
    rows = np.concatenate([block.hlf for block in everything(store, "test")])
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(reference.hlf, axis=0))
    particles = np.concatenate([block.particles for block in everything(store, "test")])
    np.testing.assert_array_equal(np.sort(particles, axis=0), np.sort(reference.particles, axis=0))


def test_a_store_of_other_events_or_settings_is_replaced_only_when_asked(tmp_path, reference):
    path, output = write(tmp_path / "a.parquet", reference, HLF_ONLY), tmp_path / "s.zarr"
    spec = StoreSpec(
        CLASSES, hlf_features("corrected"), PARTICLE, "corrected", "of hepflow features"
    )
    StoreWriter.create(output, spec).finalise()
    config = ImportConfig(train=path, test=path, output=output)
    with pytest.raises(
        ConfigError, match=r"holds a store with definitions corrected \(now reference\)"
    ):
        run(config)
    assert EventStore.open(output).spec == spec
    run(replace(config, overwrite=True))
    run(config)
    with pytest.raises(ConfigError, match="other --val-fraction"):
        run(replace(config, val_fraction=0.2))


def test_a_row_without_a_label_is_counted_as_rejected(tmp_path, reference):
    path = write(tmp_path / "odd.parquet", reference, HLF_ONLY)
    file = next(path.glob("*.parquet"))
    table = pq.read_table(file)
    labels = table["encoded_label"].to_pylist()
    labels[0], labels[1] = [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]
    pq.write_table(
        table.set_column(1, "encoded_label", pa.array(labels, pa.list_(pa.float64()))), file
    )
    run(ImportConfig(train=path, test=path, output=tmp_path / "s.zarr"))
    assert EventStore.open(tmp_path / "s.zarr").ledger().rejected == {"no such label": 4}


def test_errors_name_other_files(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"x\.parquet: neither HLF_input and encoded_label nor hfeatures and label"
    ):
        run(
            ImportConfig(
                train=tmp_path / "x.parquet",
                test=tmp_path / "x.parquet",
                output=tmp_path / "s.zarr",
            )
        )
    with pytest.raises(DataError, match=r"nothing: no Parquet files here"):
        run(
            ImportConfig(
                train=tmp_path / "nothing", test=tmp_path / "x.parquet", output=tmp_path / "s.zarr"
            )
        )
