"""Arrays of a store: zarr reads ours, we read those of zarr, and damage is detected."""

import json

import numpy as np
import pytest
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from hepflow.data.arrays import COMPRESSOR, Layout, ShardedArray, ShardWriter
from hepflow.errors import DataError
from tests.support.arrays import write_array

TYPES = st.sampled_from([np.float32, np.int64, np.int8])


def written_by_zarr(path, values, chunk, shard, separator="."):
    filters = [TransposeCodec(order=(1, 0))] if values.ndim == 2 else None
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk, *values.shape[1:]),
        shards=(shard, *values.shape[1:]),
        filters=filters,
        compressors=[BloscCodec(**COMPRESSOR), Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": separator},
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
    path = tmp_path_factory.mktemp("array") / "a"
    write_array(path, values, 7)
    np.testing.assert_array_equal(zarr.open_array(path, mode="r")[...], values)


@pytest.fixture(scope="module", params=[((50,), "."), ((50, 4), "."), ((50, 4), "/")], ids=str)
def array_of_zarr(request, tmp_path_factory):
    """Separate numbers of shards by a dot, or by a slash as in stores of version 1."""
    shape, separator = request.param
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    path = tmp_path_factory.mktemp("array") / "a"
    return path, written_by_zarr(path, values, chunk=7, shard=21, separator=separator)


@example(start=20, stop=22)
@example(start=21, stop=42)
@example(start=50, stop=60)
@given(start=st.integers(-60, 60), stop=st.none() | st.integers(-60, 60))
def test_rows_of_an_array_that_zarr_wrote_are_those_zarr_reads(array_of_zarr, start, stop):
    path, array = array_of_zarr
    np.testing.assert_array_equal(ShardedArray.open(path).read(start, stop), array[start:stop])


def test_an_array_of_many_chunks_and_several_shards_keeps_its_metadata_and_values(tmp_path):
    values = np.arange(2 * 16_000 * 5 + 5, dtype=np.int64)
    write_array(tmp_path / "a", values, 16_000, 5)
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert (array.chunks, array.shards) == ((16_000,), (80_000,))
    np.testing.assert_array_equal(array[-10:], values[-10:])
    found = ShardedArray.open(tmp_path / "a").read(15_997)
    np.testing.assert_array_equal(found, values[15_997:])


@given(pieces=st.lists(st.integers(0, 9), max_size=8))
def test_the_bytes_of_a_shard_do_not_depend_on_the_pieces_in_which_rows_come(
    tmp_path_factory, pieces
):
    values = np.random.default_rng(1).normal(size=(sum(pieces), 2)).astype(np.float32)
    layout, folder = Layout("<f4", 5, 20, columns=2), tmp_path_factory.mktemp("shard")
    for name, cuts in (("whole", []), ("pieces", np.cumsum(pieces))):
        with ShardWriter(folder / name, layout) as writer:
            for rows in np.split(values, cuts):
                writer.append(rows)
            assert writer.finish() == (folder / name).stat().st_size
        assert writer.n_rows == len(values)
    assert (folder / "whole").read_bytes() == (folder / "pieces").read_bytes()


def test_a_full_shard_refuses_more_rows(tmp_path):
    with ShardWriter(tmp_path / "a", Layout("<i8", 5, 2)) as writer:
        writer.append(np.arange(9))
        with pytest.raises(ValueError, match="more than 10 rows in a shard"):
            writer.append(np.arange(2))
        writer.append(np.arange(1))


def test_rows_that_no_shard_holds_are_zeros_for_zarr_and_an_error_here(tmp_path):
    """A store's array has room for parts that were never made, and for larger ones."""
    layout = Layout("<i8", 5, 2)
    layout.describe(tmp_path, 30)
    with ShardWriter(layout.shard_path(tmp_path, 1), layout) as writer:
        writer.append(np.arange(1, 5))
        writer.finish()
    expected = [0] * 10 + [1, 2, 3, 4] + [0] * 16
    assert zarr.open_array(tmp_path, mode="r")[...].tolist() == expected
    array = ShardedArray.open(tmp_path)
    assert array.read(10, 14).tolist() == [1, 2, 3, 4]
    with pytest.raises(DataError, match="chunk 1 is missing"):
        array.read(14, 16)
    for shard in (0, 2):
        with pytest.raises(DataError, match=rf"c\.{shard}: not readable \(No such file"):
            array.read(10 * shard, 10 * shard + 1)


@pytest.mark.parametrize(
    ("shape", "kind"), [((50, 4), "f4"), ((50,), "i8"), ((21,), "i1"), ((5, 1), "f4"), ((1,), "i8")]
)
def test_the_files_are_byte_for_byte_those_that_zarr_writes(tmp_path, shape, kind):
    values = np.random.default_rng(1).integers(1, 100, shape).astype(kind)
    write_array(tmp_path / "mine", values, 7)
    written_by_zarr(tmp_path / "zarr", values, chunk=7, shard=21)
    files = [path for path in (tmp_path / "zarr").rglob("*") if path.is_file()]
    assert len(files) >= 2
    for path in files:
        mine = tmp_path / "mine" / path.relative_to(tmp_path / "zarr")
        assert mine.read_bytes() == path.read_bytes(), path.name
    assert len(files) == sum(path.is_file() for path in (tmp_path / "mine").rglob("*"))


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
def test_errors_name_the_damage_and_the_repair(tmp_path, spoil, message):
    write_array(tmp_path / "a", np.arange(40.0, dtype=np.float32).reshape(20, 2), 7)
    spoil(tmp_path / "a" / "c.0.0")
    with pytest.raises(DataError, match=rf"a/c\.0\.0.*{message}.*Delete this file and run"):
        ShardedArray.open(tmp_path / "a").read()


def test_a_missing_chunk_is_an_error(tmp_path):
    write_array(tmp_path / "a", np.arange(20), 7)
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
