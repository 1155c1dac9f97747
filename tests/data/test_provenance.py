"""Hashes: equal for equal values and sources, different for any other, and stable."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from hepflow.config.stages import IngestConfig
from hepflow.data.provenance import code_hash, digest


@dataclass(frozen=True)
class Cut:
    name: str
    folder: Path
    edges: tuple[float, ...] = (0.5, 2.0)


def test_a_digest_never_changes_between_versions():
    cut = Cut("isolation", Path("data/events"))
    assert digest(cut, {"seed": 7, "tree": None, "fast": True}, [1.5, "x"]) == "349ecbc097623b37"


def test_values_that_mean_the_same_have_the_same_digest():
    plain = {"name": "pt", "folder": "a/b", "edges": [0.5, 2.0]}
    assert digest(Cut("pt", Path("a/b"))) == digest(plain) == digest(MappingProxyType(plain))
    assert digest({1: (1, 2)}) == digest({"1": [1, 2]})
    assert digest([Cut("pt", Path("a/b"))]) == digest([plain])


def test_a_setting_that_differs_changes_the_digest():
    assert digest(IngestConfig()) == digest(IngestConfig())
    assert digest(IngestConfig()) != digest(IngestConfig(target_partition_mb=3))


def test_a_digest_depends_on_the_order_of_the_classes():
    assert digest({"samples": {"a": 1, "b": 2}}) != digest({"samples": {"b": 2, "a": 1}})


@pytest.mark.parametrize(
    ("one", "other"),
    [((1,), ("1",)), ((True,), (1,)), ((None,), ("None",)), ((1, 2), (2, 1)), ((1, 2), ([1, 2],))],
)
def test_the_type_and_the_order_of_values_count(one, other):
    assert digest(*one) != digest(*other)


SOURCES = {
    "a.py": "x = 1",
    "inner/b.py": "y = 2",
    "inner/c.yaml": "c: 1",
    "d.j2": "{{ d }}",
    "e.css": "e {}",
    "f.js": "f()",
}


@pytest.fixture
def package(tmp_path):
    for name, text in SOURCES.items():
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / name).write_text(text)
    return tmp_path / "package"


@pytest.mark.parametrize("name", SOURCES)
def test_the_hash_of_the_code_depends_on_every_source(package, name):
    before = code_hash(package)
    source = package / name
    source.write_text(SOURCES[name] + " ")
    changed = code_hash(package)
    source.unlink()
    gone = code_hash(package)
    source.with_stem("renamed").write_text(SOURCES[name])
    assert len({before, changed, gone, code_hash(package)}) == 4


def test_the_hash_of_the_code_is_the_same_in_another_place_and_with_compiled_files(package):
    before = code_hash(package)
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"compiled")
    (package / "notes.txt").write_text("notes")
    moved = shutil.copytree(package, package.parent / "elsewhere" / "site-packages")
    assert code_hash(Path(moved)) == before


def test_sources_that_are_left_out_do_not_count(package):
    before = code_hash(package, leave_out=("inner/", "f.js"))
    assert before != code_hash(package)
    for name in ("inner/b.py", "inner/new.py", "f.js"):
        (package / name).write_text("changed")
    assert code_hash(package, leave_out=("inner/", "f.js")) == before
    (package / "a.py").write_text("changed")
    assert code_hash(package, leave_out=("inner/", "f.js")) != before
