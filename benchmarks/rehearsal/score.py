"""`hepflow score` on many small files: scored, found up to date, and with one file in 100 damaged.

The files are copies of one of a few events, each with a UUID of its own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from score import write_models, write_raw

from hepflow.data.ledger import Ledger
from hepflow.data.output import read_marker
from hepflow.score.tables import read_scores
from hepflow_bench.copies import copy_as_new
from rehearsal.measure import Step, run

EVENTS = 2
"""Events per file."""
_PER_FOLDER = 1000
_DAMAGED = 100  # one file of so many


def rehearse(scratch: Path, sizes: Sequence[int]) -> tuple[list[Step], dict[str, float]]:
    """Score ``sizes`` files and return what each command took, and the driver's most memory."""
    (template,) = write_raw(scratch / "template", EVENTS, 1).iterdir()
    (scratch / "models").mkdir()
    model = write_models(scratch / "template", scratch / "models")["hlf"]
    steps: list[Step] = []
    for n in sizes:
        raw, output = scratch / f"raw-{n}", scratch / f"scores-{n}"
        files = [raw / f"{i // _PER_FOLDER:03d}" / f"{i:06d}.root" for i in range(n)]
        for i, file in enumerate(files):
            copy_as_new(template, file, i + 1)
        command = ("score", "--model", model, "--input", raw, "--output", output)
        steps += [run("score", n, command, output), run("score again", n, command, output)]
        damaged = files[::_DAMAGED]
        for i, file in enumerate(damaged):
            _damage(file, i)
        allowed = ("--max_lost_files", str(len(damaged)))
        steps.append(run("score damaged", n, (*command, *allowed), output))
        _check(output, n, len(damaged))
        rmtree(raw)
        rmtree(output)
    return steps, {"score_driver_gb": max(step.gb["driver"] for step in steps)}


def _damage(file: Path, i: int) -> None:
    """Damage a file in one of five ways."""
    content = file.read_bytes()
    half = len(content) // 2
    zeros, ones = bytes(half // 2), b"\xff" * (half // 2)
    ways = (b"", b"no ROOT file", content[:half], content[: half - half // 2] + zeros)
    more = (content[:300] + ones + content[300 + len(ones) :],)
    file.write_bytes((*ways, *more)[i % 5])


def _check(output: Path, n: int, n_damaged: int) -> None:
    """Require that each event has its scores once, and that each damaged file is named."""
    about = read_marker(output)
    assert about is not None
    ledger = Ledger.from_dict(about["ledger"]).check()
    assert len({item.file for item in ledger.lost}) == n_damaged, "a damaged file is not named"
    ids = read_scores(output, ["event_id"])["event_id"]
    assert len(ids) == len(ids.unique()) == (n - n_damaged) * EVENTS


if __name__ == "__main__":
    made, found = rehearse(Path(sys.argv[1]), [int(n) for n in sys.argv[2:]])
    for step in made:
        print(step, flush=True)
    print(found)
