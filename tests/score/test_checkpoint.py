"""What a power cut tears of Spark's checkpoint is removed, and Spark goes on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hepflow.score.kafka.checkpoint import flush_all, flush_plan, repair
from hepflow.system import durable

pytestmark = pytest.mark.slow

TEARS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "zeros": lambda content: bytes(len(content)),
    "half": lambda content: content[: len(content) // 2],
}


@pytest.mark.spark
def test_spark_goes_on_after_torn_files(
    spark: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time, the last commit and the plan that follows it are torn, as are their checksums."""
    place, seen = tmp_path / "checkpoint", []
    rate = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 2).load()

    def go_on(n_batches: int) -> None:
        wanted = len(seen) + n_batches
        query = (
            rate.writeStream.foreachBatch(lambda _, number: seen.append(number))
            .option("checkpointLocation", f"file://{place}")
            .start()
        )
        commits = place / "commits"
        while len(seen) < wanted or not (commits / str(seen[wanted - 1])).exists():
            assert not query.awaitTermination(0.05)
        query.stop()

    go_on(1)
    for tear in TEARS.values():
        commits, plans = (
            max((path for path in (place / name).iterdir() if path.name.isdecimal()), key=number_of)
            for name in ("commits", "offsets")
        )
        last = number_of(commits)
        if plans.name == commits.name:
            plans = plans.with_name(str(last + 1))
            plans.write_bytes((place / "offsets" / str(last)).read_bytes())
        for path in (commits, plans):
            path.write_bytes(tear(path.read_bytes()))
            checksum = path.with_name(f".{path.name}.crc")
            checksum.write_bytes(tear(checksum.read_bytes() if checksum.is_file() else b""))
        caplog.clear()
        repair(place, last)
        assert len(caplog.records) == 2
        assert not commits.exists()
        assert not plans.exists()
        before = len(seen)
        go_on(2)
        assert seen[before : before + 2] == [last, last + 1], "the torn ones, again"


def number_of(path: Path) -> int:
    return int(path.name)


def test_whole_files_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    files = {
        "offsets/0": 'v1\n{"batchWatermarkMs":0}\n{"toy":{"0":2}}',
        "offsets/1": 'v1\n{"batchWatermarkMs":0}\n-',
        "commits/0": "v1\n{}",
        "offsets/.1.crc": "crc\0...",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    repair(tmp_path, 0)
    assert {name: (tmp_path / name).read_text() for name in files} == files
    (tmp_path / "offsets" / "1").write_text("")
    repair(tmp_path, 1)
    assert (tmp_path / "offsets" / "1").exists(), "its record needs it"
    assert caplog.records == []


def test_a_checkpoint_without_files_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(durable.SWITCH, "1")
    flush_plan(tmp_path, 0)
    (tmp_path / "sources" / "0").mkdir(parents=True)
    flush_all(tmp_path)
