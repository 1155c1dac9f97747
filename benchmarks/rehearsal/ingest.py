"""`hepflow ingest` of N files of `rehearsal://`, 1 % of them damaged: new ones, and up to date."""

import json
from collections.abc import Sequence
from pathlib import Path

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
        output, lost = dataset(scratch, n), files.n_damaged(n)
        options = {"folder": str(scratch / "template"), "n_files": n, "damaged": True}
        arguments = ["ingest", "--input", "rehearsal://raw", "--output", output]
        arguments += ["--storage", json.dumps({"rehearsal://": options})]
        arguments += ["--max_lost_files", str(lost)]
        steps += [measure.run(s, n, arguments, output, environment) for s in ("ingest", "again")]
        _check_losses(output, lost)
    most = max(step.gb["driver"] for step in steps)
    return steps, {"driver_gb_ingest": round(most, 2)}


def dataset(scratch: Path, n: int) -> Path:
    """Return the place of the dataset of ``n`` files."""
    return scratch / f"events-{n}"


def _check_losses(output: Path, n_damaged: int) -> None:
    """Check that the ledger names each damaged file, with all ways to be damaged."""
    about = read_marker(output)
    assert about is not None
    lost = {item["file"]: item["reason"] for item in about["ledger"]["lost"]}
    assert len(lost) == n_damaged, f"{len(lost)} damaged files in the ledger"
    kinds = {reason.split("(")[0].split(":")[0] for reason in lost.values()}
    assert len(kinds) == min(len(files.DAMAGES), n_damaged), kinds
