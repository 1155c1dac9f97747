"""`hepflow ingest` of N files of `rehearsal://`: new ones, up to date, and 1 % of them damaged."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hepflow.data.output import read_marker
from rehearsal import files, measure, remembered

EVENTS = 8  # per file


def rehearse(scratch: Path, sizes: Sequence[int]) -> tuple[list[measure.Step], dict[str, float]]:
    """Return the steps, and the numbers for the last line; leave the datasets for `features`."""
    environment = files.installed(scratch / "packages")
    remembered.site(scratch / "packages")
    files.write_template(scratch / "template", EVENTS)
    steps = []
    for n in sizes:
        steps.append(_ingest("ingest", n, scratch, dataset(scratch, n), environment))
        steps.append(_ingest("again", n, scratch, dataset(scratch, n), environment))
        output = scratch / "damaged"
        steps.append(_ingest("1 % damaged", n, scratch, output, environment, damaged=True))
        _check_losses(output, n)
        shutil.rmtree(output)
    most = max(step.gb["driver"] for step in steps)
    return steps, {"driver_gb_ingest": round(most, 2)}


def dataset(scratch: Path, n: int) -> Path:
    """Return the place of the dataset of ``n`` files."""
    return scratch / f"events-{n}"


def _ingest(
    stage: str, n: int, scratch: Path, output: Path, environment: dict[str, str], **options: Any
) -> measure.Step:
    options |= {"folder": str(scratch / "template"), "n_files": n}
    storage = json.dumps({"rehearsal://": options})
    arguments = ["ingest", "--input", "rehearsal://raw", "--output", output, "--storage", storage]
    status = 2 if options.get("damaged") else 0
    return measure.run(stage, n, arguments, output, status, environment)


def _check_losses(output: Path, n: int) -> None:
    """Check that the ledger names each damaged file, with all ways to be damaged."""
    about = read_marker(output)
    assert about is not None
    lost = {item["file"]: item["reason"] for item in about["ledger"]["lost"]}
    assert len(lost) == len(range(0, n, 100)), f"{len(lost)} damaged files in the ledger"
    kinds = {reason.split("(")[0].split(":")[0] for reason in lost.values()}
    assert len(kinds) == min(len(files.DAMAGES), len(lost)), kinds
