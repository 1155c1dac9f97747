"""What is on its way to a store lies in a folder of its process, and no longer than it."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hepflow.system.publishing import scratch

MAKE = """
import os, sys, time
from hepflow.system.publishing import new_folder
(new_folder() / "draft").write_text("half")
if not os.fork():
    sys.exit()  # the end of a fork is not that of its parent
os.wait()
print("made", flush=True)
if "wait" in sys.argv:
    time.sleep(600)
"""


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEPFLOW_WORK_DIR", str(tmp_path / "disk"))
    return tmp_path / "disk"


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKE, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "made\n"
    return process


def test_the_next_process_removes_what_a_killed_one_left(disk: Path) -> None:
    with start("wait") as killed, start("wait") as living:
        assert len(list(disk.iterdir())) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        own = scratch()
        (kept,) = set(disk.iterdir()) - {own}
        assert kept.name.startswith(f"hepflow-{living.pid}-")
        assert [path.read_text() for path in kept.glob("*/draft")] == ["half"]
        assert stat.S_IMODE(own.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o700
        living.kill()


def test_a_process_that_ends_leaves_nothing(disk: Path) -> None:
    with start() as process:
        assert process.wait() == 0
    assert list(disk.iterdir()) == []


def test_somebody_elses_files_are_left_alone(disk: Path) -> None:
    disk.mkdir()
    host, dead = os.uname().nodename, 4194305  # beyond the largest pid
    names = ("hepflow-results", f"hepflow-2x-{host}-a", f"hepflow-{dead}-{host}-7-a")
    for name in names:
        (disk / name).mkdir()
    own = scratch()
    assert sorted(path.name for path in disk.iterdir()) == sorted((*names, own.name))
    own.rmdir()
    assert scratch().is_dir()
