"""Arrays of a store: zarr reads ours, we read those of zarr, and damage is detected."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

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


def written_by_zarr(path, values, chunk, shard):
    filters = [TransposeCodec(order=(1, 0))] if values.ndim == 2 else None
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *values.shape[1:]),
        shards=(shard, *values.shape[1:]),
        filters=filters,
        compressors=[BloscCodec(**COMPRESSOR), Crc32cCodec()],
    )
    array[...] = values
    return array


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


@pytest.fixture(scope="module", params=[(50,), (50, 4)], ids=str)
def array_of_zarr(request, tmp_path_factory):
    values = np.random.default_rng(1).normal(size=request.param).astype(np.float32)
    path = tmp_path_factory.mktemp("array") / "a"
    return path, written_by_zarr(path, values, chunk=7, shard=21)


@example(start=20, stop=22)
@example(start=21, stop=42)
@example(start=50, stop=60)
@given(start=st.integers(-60, 60), stop=st.none() | st.integers(-60, 60))
def test_rows_of_an_array_that_zarr_wrote_are_those_zarr_reads(array_of_zarr, start, stop):
    path, array = array_of_zarr
    np.testing.assert_array_equal(ShardedArray.open(path).read(start, stop), array[start:stop])


def test_an_array_of_many_chunks_and_several_shards_keeps_its_metadata_and_values(tmp_path):
    values = np.arange(ROWS_PER_CHUNK * CHUNKS_PER_SHARD + 5, dtype=np.int64)
    write_array(tmp_path / "a", values)
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert (array.chunks, array.shards) == ((ROWS_PER_CHUNK,), (ROWS_PER_CHUNK * CHUNKS_PER_SHARD,))
    np.testing.assert_array_equal(array[-10:], values[-10:])
    np.testing.assert_array_equal(
        ShardedArray.open(tmp_path / "a").read(ROWS_PER_CHUNK - 3), values[ROWS_PER_CHUNK - 3 :]
    )


@pytest.mark.parametrize(
    ("shape", "kind"), [((50, 4), "f4"), ((50,), "i8"), ((21,), "i1"), ((5, 1), "f4"), ((1,), "i8")]
)
def test_the_files_are_byte_for_byte_those_that_zarr_writes(tmp_path, small_chunks, shape, kind):
    values = np.random.default_rng(1).integers(1, 100, shape).astype(kind)
    write_array(tmp_path / "mine", values)
    rows = min(7, len(values))
    written_by_zarr(
        tmp_path / "zarr", values, chunk=rows, shard=rows * min(3, -(-len(values) // 7))
    )
    files = [path for path in (tmp_path / "zarr").rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        mine = tmp_path / "mine" / path.relative_to(tmp_path / "zarr")
        assert mine.read_bytes() == path.read_bytes(), path.name
    assert len(files) == sum(path.is_file() for path in (tmp_path / "mine").rglob("*"))


@pytest.mark.parametrize("n", [0, 1, 2, 5, 7])
def test_a_short_array_is_one_chunk_of_its_own_length(tmp_path, small_chunks, n):
    write_array(tmp_path / "a", np.arange(n))
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert array.chunks == array.shards == (max(n, 1),)
    assert ShardedArray.open(tmp_path / "a").read().tolist() == list(range(n))


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
    with pytest.raises(DataError, match=r"nowhere: no readable array \(.*: No such file"):
        ShardedArray.open(tmp_path / "nowhere")
    (tmp_path / "plain" / "zarr.json").write_text(json.dumps({"codecs": []}))
    with pytest.raises(DataError, match="no readable array"):
        ShardedArray.open(tmp_path / "plain")


@pytest.mark.parametrize(
    ("shape", "coders", "index"),
    [
        ((4,), [ZstdCodec()], "end"),
        ((4,), [GzipCodec(), Crc32cCodec()], "end"),
        ((4,), [BloscCodec(), Crc32cCodec()], "start"),
        ((4, 2), [BloscCodec(), Crc32cCodec()], "end"),  # row by row
    ],
)
def test_sharded_arrays_of_others_are_refused(tmp_path, shape, coders, index):
    shards = {"shape": shape, "index_location": index}
    about = {"shape": shape, "chunks": (2, *shape[1:]), "shards": shards, "compressors": coders}
    zarr.create_array(tmp_path / "a", dtype="i4", **about)
    with pytest.raises(DataError, match="an array that hepflow has not written"):
        ShardedArray.open(tmp_path / "a")
