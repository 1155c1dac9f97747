"""A clock that jumps by hours, back and forth, while a stage runs: the bytes of an undisturbed run.

A small library (`tests/support/jumping_clock.c`) shifts the time of day in all processes of a
command, as an administrator, or a clock that is set from the network, does on a real machine. The
monotonic clock and the times that the kernel gives files do not jump; times of files that do are in
`test_faults_running`. libfaketime is not used: it shifts sleeps too, and Python's then fail.
"""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import uuid
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from hepflow.config.shipped import shipped
from hepflow.errors import DataError
from hepflow.system.locks import exclusive
from hepflow.system.places import place
from tests.support.commands import environment, hepflow, started
from tests.support.small_stages import contents
from tests.support.toy_store import toy_store
from tests.support.toy_trigger import ingest, untrained, write_raw
from tests.support.trainings import weights

SOURCE = Path(__file__).parents[1] / "support" / "jumping_clock.c"
COMPILER = shutil.which("cc") if sys.platform == "linux" else None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc) on Linux, for a library"),
]
HOUR = 3600
JUMPS = (-5 * HOUR, 3 * HOUR, -26 * HOUR, 0, 400 * 24 * HOUR, -7 * HOUR)
EVERY_S, LONGEST_S = 0.7, 400.0
CLASSES = ("qcd", "ttbar")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages read."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for seed, name in enumerate(("qcd/a", "qcd/b", "ttbar/c")):
        write_raw(folder / "raw" / f"{name}.root", [300, 300, 300], seed=seed)
    ingest(folder / "raw", folder / "events", CLASSES, 60_000)
    untrained(folder / "model", folder / "raw" / "qcd" / "a.root")
    toy_store(folder / "toy.zarr", events=400)
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("library") / "jumping_clock.so"
    command = [str(COMPILER), "-shared", "-fPIC", "-O1", "-o", path, SOURCE, "-ldl"]
    subprocess.run(command, check=True)
    return path


def shifted(clock: Path, library: Path) -> dict[str, str]:
    """Return variables of processes whose time of day is shifted by what a file says."""
    clock.write_bytes(struct.pack("q", 0))
    return environment(LD_PRELOAD=str(library), HEPFLOW_TEST_CLOCK=str(clock))


def jump(clock: Path, seconds: int) -> None:
    with clock.open("r+b") as file:
        file.write(struct.pack("q", seconds))


def with_jumps(arguments: tuple[str, ...], folder: Path, library: Path) -> int:
    """Run a command while the clock jumps, from its first line to its end; return the jumps."""
    clock, lines = folder / "clock", folder / "lines"
    n_jumps, end = 0, time.monotonic() + LONGEST_S
    with lines.open("w") as file:
        process = subprocess.Popen(
            started(*arguments),
            env=shifted(clock, library),
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
        shifts = cycle(JUMPS)
        while process.poll() is None:
            time.sleep(EVERY_S)
            jump(clock, next(shifts))
            n_jumps += 1
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                pytest.fail(f"no end after {LONGEST_S:g} s:\n{lines.read_text()}")
    said = lines.read_text()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return n_jumps


def made(stage: str, output: Path) -> Any:
    if stage == "train":
        return {name: w.tolist() for name, w in weights(output).items()}
    return contents(output)


STAGES = {
    "ingest": ("--samples={qcd: [qcd], ttbar: [ttbar]}", "--target_partition_mb=1"),
    "features": ("--part_mb=0.01", "--cluster.workers=2"),
    "score": ("--target_partition_mb=1", "--cluster.workers=2"),
    "train": (f"--config={shipped('train/hlf.yaml')}", "--trainer.max_epochs=8"),
}


def command(stage: str, here: Path, output: Path) -> tuple[str, ...]:
    own = STAGES[stage]
    if stage == "train":
        return ("train", "fit", *own, f"--data.store={here / 'toy.zarr'}", f"--output={output}")
    source = here / ("events" if stage == "features" else "raw")
    more = (f"--model={here / 'model' / 'model.onnx'}",) if stage == "score" else ()
    more += ("--spark.master=local[2]",) if stage == "ingest" else ()
    return (stage, *own, *more, f"--input={source}", f"--output={output}")


@pytest.mark.parametrize("stage", STAGES)
def test_a_clock_that_jumps_changes_nothing(
    here: Path, library: Path, tmp_path: Path, stage: str, record_property: Any
) -> None:
    if stage == "ingest":
        pytest.importorskip("pyspark")
    calm = hepflow(*command(stage, here, tmp_path / "calm"))
    assert calm.returncode == 0, calm.stderr
    n_jumps = with_jumps(command(stage, here, tmp_path / "out"), tmp_path, library)
    record_property("faults", f"{stage}: {n_jumps} jumps of the clock")
    assert n_jumps >= 3
    assert made(stage, tmp_path / "out") == made(stage, tmp_path / "calm")


HOLD = """
import sys, time
from pathlib import Path
from hepflow.system.locks import exclusive
from hepflow.system.places import place
with exclusive(place(sys.argv[1])):
    Path(sys.argv[2]).touch()
    while Path(sys.argv[2]).exists():
        time.sleep(0.1)
"""


@pytest.mark.s3
def test_a_run_whose_clock_jumps_keeps_its_claim(s3: str, library: Path, tmp_path: Path) -> None:
    """Another run waits until the claim is renewed, which it is by the monotonic clock."""
    clock, held = tmp_path / "clock", tmp_path / "held"
    output = place(f"{s3}/{uuid.uuid4().hex}/out")
    command = [sys.executable, "-c", HOLD, str(output), str(held)]
    with subprocess.Popen(
        command, env=shifted(clock, library), stderr=subprocess.PIPE, text=True
    ) as holder:
        while not held.exists():
            assert holder.poll() is None, holder.communicate()[1]
            time.sleep(0.05)
        for shift in JUMPS[:3]:
            jump(clock, shift)
            with pytest.raises(DataError, match="another run is writing it"), exclusive(output):
                pass
        held.unlink()
        assert holder.wait(30) == 0, holder.communicate()[1]
    with exclusive(output):
        pass
