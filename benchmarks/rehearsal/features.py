"""`hepflow features` of the N fragments that `rehearsal.ingest` has left, new and up to date."""

from collections.abc import Sequence
from pathlib import Path

from rehearsal import files, measure, remembered
from rehearsal.ingest import dataset

_FILES_AT_10TB = 100_000
_PART_MB = 0.25
"""Of 66 fragments. So 100,000 make 1,500 parts, as 50 million events do, which fill 800 to 1,500
parts of 65,535 events or 1 GiB."""


def rehearse(scratch: Path, sizes: Sequence[int]) -> tuple[list[measure.Step], dict[str, float]]:
    """Return the steps, and the numbers for the last line; leave the stores."""
    environment = files.installed(scratch / "packages")
    remembered.site(scratch / "packages")
    steps = []
    for n in sizes:
        output = scratch / f"features-{n}.zarr"
        arguments = ["features", "--input", dataset(scratch, n), "--output", output]
        arguments += ["--part_mb", str(_PART_MB)]
        for stage in ("features", "features again"):
            steps += [measure.run(stage, n, arguments, output, environment=environment)]
    last, most = steps[-1], max(step.gb["driver"] for step in steps)
    n_files = round(last.files * _FILES_AT_10TB / last.n)
    return steps, {"files_of_store_at_10tb": n_files, "driver_gb_features": round(most, 2)}
