"""Arrays of a store: zarr reads ours, we read those of zarr, and damage is detected."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec

from hepflow.data.arrays import (
    CHUNKS_PER_SHARD,
    COMPRESSOR,
    ROWS_PER_CHUNK,
    ShardedArray,
    write_array,
)
from hepflow.errors import DataError

TYPES = st.sampled_from([np.float32, np.int64, np.int8])


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("hepflow.data.arrays.ROWS_PER_CHUNK", 7)
    monkeypatch.setattr("hepflow.data.arrays.CHUNKS_PER_SHARD", 3)


@settings(max_examples=25)
@given(
    values=TYPES.flatmap(
        lambda kind: hnp.arrays(
            kind, st.tuples(st.integers(0, 60)) | st.tuples(st.integers(0, 60), st.just(3))
        )
    )
)
def test_zarr_reads_what_is_written(values, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hepflow.data.arrays.ROWS_PER_CHUNK", 7)
        patch.setattr("hepflow.data.arrays.CHUNKS_PER_SHARD", 3)
        path = tmp_path_factory.mktemp("array") / "a"
        write_array(path, values)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[...], values)


@pytest.mark.parametrize("shape", [(50,), (50, 4)])
def test_rows_of_an_array_that_zarr_wrote_are_those_zarr_reads(tmp_path, shape):
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    filters = [TransposeCodec(order=(1, 0))] if len(shape) == 2 else None
    array = zarr.create_array(
        tmp_path / "a",
        shape=shape,
        dtype="float32",
        chunks=(7, *shape[1:]),
        shards=(21, *shape[1:]),
        filters=filters,
        compressors=[BloscCodec(**COMPRESSOR), Crc32cCodec()],
    )
    array[...] = values
    mine = ShardedArray.open(tmp_path / "a")
    for start, stop in [
        (0, None),
        (0, 50),
        (6, 8),
        (20, 22),
        (21, 42),
        (49, 50),
        (50, 60),
        (30, 10),
    ]:
        np.testing.assert_array_equal(
            mine.read(start, stop), array[start:stop], err_msg=f"{start}:{stop}"
        )


def test_an_array_of_many_chunks_and_several_shards_keeps_its_metadata_and_values(tmp_path):
    values = np.arange(ROWS_PER_CHUNK * CHUNKS_PER_SHARD + 5, dtype=np.int64)
    write_array(tmp_path / "a", values)
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert (array.chunks, array.shards) == ((ROWS_PER_CHUNK,), (ROWS_PER_CHUNK * CHUNKS_PER_SHARD,))
    np.testing.assert_array_equal(array[-10:], values[-10:])
    np.testing.assert_array_equal(
        ShardedArray.open(tmp_path / "a").read(ROWS_PER_CHUNK - 3), values[ROWS_PER_CHUNK - 3 :]
    )


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda shard: flip(shard, 10), "chunk 0 is damaged: its checksum is wrong"),
        (lambda shard: flip(shard, -20), "index is damaged: its checksum is wrong"),
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-30]), "index is damaged"),
        (lambda shard: shard.write_bytes(b""), "index is damaged"),
        (lambda shard: shard.unlink(), "No such file"),
    ],
)
def test_errors_name_the_damage_and_the_repair(tmp_path, small_chunks, spoil, message):
    write_array(tmp_path / "a", np.arange(40.0, dtype=np.float32).reshape(20, 2))
    spoil(tmp_path / "a" / "c" / "0" / "0")
    with pytest.raises(DataError, match=rf"a/c/0/0.*{message}.*Delete the record of its part"):
        ShardedArray.open(tmp_path / "a").read()


def test_a_missing_chunk_is_an_error(tmp_path, small_chunks):
    write_array(tmp_path / "a", np.arange(20))
    zarr.open_array(tmp_path / "a", mode="r+")[7:14] = 0  # zarr leaves out chunks of zeros
    with pytest.raises(DataError, match="chunk 1 is missing"):
        ShardedArray.open(tmp_path / "a").read()


def test_arrays_of_others_are_refused(tmp_path):
    zarr.create_array(tmp_path / "plain", shape=3, dtype="i4")
    with pytest.raises(DataError, match=r"plain: "):
        ShardedArray.open(tmp_path / "plain")
    zarr.create_array(tmp_path / "zstd", shape=(4,), chunks=(2,), shards=(4,), dtype="i4")
    with pytest.raises(DataError, match="an array that hepflow has not written"):
        ShardedArray.open(tmp_path / "zstd")
    with pytest.raises(DataError, match="no readable array"):
        ShardedArray.open(tmp_path / "nowhere")
    (tmp_path / "plain" / "zarr.json").write_text(json.dumps({"codecs": []}))
    with pytest.raises(DataError, match="no readable array"):
        ShardedArray.open(tmp_path / "plain")
