"""A file is on the disk, with its name and all folders above, before the next step relies on it."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hepflow.data.store_writer import StoreWriter
from hepflow.system import durable
from hepflow.system.files import write_csv, write_json
from hepflow.system.publishing import draft, filled, publish, put, whole
from hepflow.system.storage import make_folder, remove, remove_all, remove_tree
from tests.support.toy_store import toy_store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of descriptors by /proc")

Steps = list[tuple[str, str]]


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Return the flushes, renames and removals from now on, with the path below the folder."""
    found: Steps = []

    def note(what: str, path: object) -> None:
        name = os.path.relpath(str(path), tmp_path)
        found.append((what, "draft" if name.endswith(".part") else name))

    def watched(function: Callable[..., object], what: str, argument: int) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            result = function(*arguments, **options)
            note(what, arguments[argument])
            return result

        return call

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        kind = "names" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content"
        note(kind, Path(f"/proc/self/fd/{descriptor}").readlink())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for name, argument in (("replace", 1), ("unlink", 0), ("mkdir", 0)):
        monkeypatch.setattr(os, name, watched(getattr(os, name), name, argument))
    monkeypatch.setenv(durable.SWITCH, "1")
    return found


def test_content_is_flushed_before_the_name_and_the_name_after_it(
    tmp_path: Path, steps: Steps
) -> None:
    put(tmp_path / "a", b"content")
    order = [("content", "draft"), ("replace", "a"), ("names", ".")]
    assert [step for step in steps if step[0] != "unlink"] == order


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, {"a": 1}),
        lambda path: write_csv(path, [["a"]]),
        lambda path: publish(written(path), path),
    ],
    ids=["json", "csv", "published"],
)
def test_all_writers_flush(tmp_path: Path, steps: Steps, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a")
    assert ("content", "draft") in steps
    assert steps.index(("names", ".")) > steps.index(("replace", "a"))


def written(path: Path) -> Path:
    part = draft(path)
    part.write_bytes(b"content")
    return part


def test_the_names_of_new_folders_are_flushed_from_the_top(tmp_path: Path, steps: Steps) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    assert [name for what, name in steps if what == "names"] == [".", "a", "a/b"]
    steps.clear()
    make_folder(tmp_path / "a" / "b" / "c")
    assert steps == []


def test_many_small_files_are_flushed_once_at_the_end(tmp_path: Path, steps: Steps) -> None:
    with filled(tmp_path / "figures") as folder:
        for name in "ab":
            put(folder / name, b"content", flush=False)
        assert not [step for step in steps if step[0] == "content"]
    assert {name for what, name in steps if what == "content"} == {"figures/a", "figures/b"}
    assert steps[-1] == ("names", "figures")


def test_removals_are_flushed(tmp_path: Path, steps: Steps) -> None:
    for name in ("a", "b/c", "d/e"):
        make_folder((tmp_path / name).parent)
        put(tmp_path / name, b"")
    steps.clear()
    remove(tmp_path / "a", flush=True)
    remove_all([tmp_path / "b" / "c", tmp_path / "b" / "none"])
    remove_tree(tmp_path / "d")
    assert steps[:2] == [("unlink", "a"), ("names", ".")]
    assert ("names", "b") in steps
    assert steps[-1] == ("names", ".")


def test_the_parts_of_a_store_are_on_the_disk_before_it_is_complete(
    tmp_path: Path, steps: Steps
) -> None:
    toy_store(tmp_path / "s.zarr", events=3)
    last = max(i for i, step in enumerate(steps) if step == ("replace", "s.zarr/zarr.json"))
    flushed: set[str] = set()
    named: set[str] = set()
    for what, name in steps[:last]:
        if what == "replace":
            named.add(name)
        if what == "names":
            flushed |= {each for each in named if str(Path(each).parent) == name}
    shards = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("s.zarr/*/c.*")}
    assert len(shards) > 5
    assert shards | {"s.zarr/_parts/finished.json"} <= flushed
    contents = sum(what == "content" for what, _ in steps[:last])
    assert contents == sum(what == "replace" and name[0] != "." for what, name in steps[: last + 1])


def test_a_store_that_is_replaced_ends_before_its_parts_are_removed(
    tmp_path: Path, steps: Steps
) -> None:
    store = toy_store(tmp_path / "s.zarr", events=3)
    spec = toy_store(tmp_path / "other.zarr", seed=2).spec
    steps.clear()
    StoreWriter.create(store.path, spec)
    assert steps[:2] == [("unlink", "s.zarr/zarr.json"), ("names", "s.zarr")]
    assert steps.index(("names", ".")) < steps.index(("replace", "s.zarr/zarr.json"))


def test_the_switch_turns_it_off(
    tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(durable.SWITCH, "0")
    put(tmp_path / "a", b"content")
    with whole(tmp_path / "b") as part:
        part.write_bytes(b"content")
    remove_tree(tmp_path / "c")
    assert not [step for step in steps if step[0] in {"content", "names"}]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"content"


def test_a_folder_that_cannot_be_listed_is_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o300)
    command = (
        "import os, pathlib, sys; from hepflow.system import durable; "
        "os.getuid() or os.setuid(65534); durable.flush_folder(pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, durable.SWITCH: "1"}
    subprocess.run([sys.executable, "-c", command, str(folder)], check=True, env=environment)


def test_an_error_of_the_disk_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(durable.SWITCH, "1")
    with pytest.raises(OSError, match="Invalid argument"):
        durable.flush_file(Path("/proc/self/status"))
