"""Checksums inside of files: of every format, of files that were edited, and of those without."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hepflow.data.parquet import read_table, sealed_writer
from hepflow.errors import DataError
from hepflow.system import seal
from hepflow.system.files import as_json, as_yaml, from_json, read_json, write_json

HERE = Path("a.json")


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    content = io.BytesIO()
    save(content)
    return content.getvalue()


TORCH = saved(lambda file: torch.save({"w": torch.arange(9)}, file))
NUMPY = saved(lambda file: np.savez_compressed(file, x=np.arange(9)))
CONTENTS = {
    "json": as_json({"b": 1, "A": [2], "z": None}, indent=1),
    "one line": as_json({"a": 1}),
    "empty": as_json({}),
    "yaml": as_yaml("a: 1\n"),
    "torch": seal.sealed_zip(TORCH),
    "numpy": seal.sealed_zip(NUMPY),
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_every_flipped_bit_outside_the_text_is_found(content: bytes) -> None:
    start = content.rfind(b"hepflow-crc32c:")
    text = range(start, start + len(seal.EMPTY))
    assert seal.check(content, HERE, "Do.")
    for place in {*range(0, len(content), max(1, len(content) // 200)), *text}:
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            try:
                assert not seal.check(bytes(flipped), HERE, "Do.")
                assert place in text, "no text is found, and all the rest is whole"
            except DataError:
                pass


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("before", [0, 1 << 20, (1 << 21) + 7])
def test_a_file_has_the_checksum_of_its_content(
    tmp_path: Path, content: bytes, before: int
) -> None:
    empty = content.replace(content[-8:], content[-8:])  # a copy
    start = empty.rfind(b"hepflow-crc32c:") + 15
    path = tmp_path / "file"
    path.write_bytes(bytes(before) + empty[:start] + b"00000000" + empty[start + 8 :])
    expected = seal.sealed(path.read_bytes())
    seal.seal_file(path)
    assert path.read_bytes() == expected
    assert seal.check_file(path, "Do.")
    assert seal.check(expected, path, "Do.")
    with path.open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(DataError, match=r"file: damaged, or changed .* is wrong\. Do\."):
        seal.check_file(path, "Do.")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"hepflow-crc32c:", b"hepflow-crc32c:0123456", b"hepflow-crc32c:0123zyxw"],
)
def test_a_file_without_a_checksum_is_read_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert not seal.check(content, HERE, "")
    assert not seal.check_file(tmp_path / "file", "")


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.floats(allow_nan=False))))
def test_json_comes_back(data: dict[str, object]) -> None:
    for indent in (None, 1):
        assert from_json(as_json(data, indent), HERE) == data


def test_json_that_is_written_again_gets_a_new_checksum(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", json.loads(as_json({"a": 1})) | {"a": 2})
    assert read_json(tmp_path / "a.json") == {"a": 2}


def test_edited_json_is_refused_until_its_checksum_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1, "b": 2})
    path.write_text(path.read_text().replace('"b": 2', '"b": 3'))
    with pytest.raises(DataError, match="or remove its entry _checksum if you have edited it"):
        read_json(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "_checksum" not in line))
    assert read_json(path) == {"a": 1, "b": 3}


def test_other_programs_read_sealed_files(tmp_path: Path) -> None:
    assert yaml.safe_load(CONTENTS["yaml"]) == {"a": 1}
    assert json.loads(CONTENTS["one line"])["a"] == 1
    assert torch.load(io.BytesIO(CONTENTS["torch"]))["w"].tolist() == [*range(9)]
    assert np.load(io.BytesIO(CONTENTS["numpy"]))["x"].tolist() == [*range(9)]
    for name in ("torch", "numpy"):
        assert zipfile.ZipFile(io.BytesIO(CONTENTS[name])).testzip() is None
    (tmp_path / "a.ckpt").write_bytes(CONTENTS["torch"])
    loaded = torch.load(tmp_path / "a.ckpt", mmap=True, weights_only=True)
    assert loaded["w"].tolist() == [*range(9)]


def test_a_table_has_its_own_metadata_and_columns(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]}, metadata={"hepflow": "about"})
    for name in ("one", "two"):  # the second is made of what was read of the first
        path = tmp_path / name
        with sealed_writer(path, table.schema, compression="zstd") as writer:
            writer.write_table(table)
        assert path.read_bytes().count(b"hepflow-crc32c:") == 1
        assert pq.read_table(path).drop_columns([]).equals(table)
        table = read_table(path, "Do.")
        assert table.schema.metadata == {b"hepflow": b"about"}
        assert read_table(path, "Do.", ["b"]).column_names == ["b"]
