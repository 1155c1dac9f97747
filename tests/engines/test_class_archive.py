"""Java maps an archive of Spark's classes if there is a whole one that only this user can write."""

import subprocess
import sys
from pathlib import Path

import pytest

from hepflow.engines.class_archive import ClassArchive

SESSION = """
import sys, time
from pathlib import Path
from hepflow.config.engines import SparkConfig
from hepflow.engines import spark
from hepflow.engines.gateway import process

config, wanted = SparkConfig(master="local[1]", driver_memory="512m"), sys.argv[1:]
spark.start_java(config)
with spark.spark_session(config, "x") as session:
    print(session.range(3).count())
    maps = Path(f"/proc/{process().pid}/maps").read_text()
    print("mapped" if "hepflow/java/spark-" in maps else "not mapped")
    spark.archive_classes()
    while wanted and not any(Path(wanted[0]).rglob("*.jsa")):
        time.sleep(0.2)
"""


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClassArchive:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "a.jar").write_bytes(b"1")
    return ClassArchive(tmp_path / "jdk", tmp_path / "jars")


def test_another_spark_has_another_archive(archive: ClassArchive, tmp_path: Path) -> None:
    assert ClassArchive(tmp_path / "jdk", tmp_path / "jars").path == archive.path
    (tmp_path / "jars" / "a.jar").write_bytes(b"12")
    assert ClassArchive(tmp_path / "jdk", tmp_path / "jars").path != archive.path


def test_an_archive_that_others_can_write_is_not_used(archive: ClassArchive) -> None:
    archive.path.parent.mkdir(mode=0o700, parents=True)
    path = archive.path.with_name(f"{archive.path.name}-7.jsa")
    path.write_bytes(b"classes")
    path.chmod(0o400)
    assert any(str(path) in option for option in archive.options(lists=False))
    archive.path.parent.chmod(0o770)
    assert archive.options(lists=False) == []
    archive.path.parent.chmod(0o700)
    path.chmod(0o600)
    path.write_bytes(b"class")
    assert archive.options(lists=False) == [], "its end is missing"
    path.write_bytes(b"classes")
    path.chmod(0o602)
    assert archive.options(lists=False) == []


def session(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SESSION, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert "cds" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("java")
def test_a_long_session_writes_the_archive_that_later_ones_map_unless_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert session(str(tmp_path)) == ["3", "not mapped"]
    (path,) = (tmp_path / "hepflow" / "java").iterdir()
    assert session() == ["3", "mapped"]
    path.chmod(0o600)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    for damaged in (bytes(content), bytes(content[: len(content) // 2]), b"", b"no archive"):
        path.write_bytes(damaged)
        assert session()[0] == "3"
