"""`hepflow features` of the N fragments that `rehearsal.ingest` has left, new and up to date.

Tiny events say nothing about the memory of a task, so one of real size is compared with the memory
that the stage announces.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import generated

from hepflow.data.blocks import StoreSpec
from hepflow.data.events import empty_events, open_events
from hepflow.data.store_writer import StoreWriter
from hepflow.features.job import memory_of_task
from hepflow.features.packing import PlannedPart
from hepflow.features.parts import make_part
from hepflow.physics.features import compute_features
from hepflow.schema import CLASSES, HLF, PARTICLE
from rehearsal import files, measure, remembered
from rehearsal.ingest import dataset

_FILES_AT_10TB = 100_000
_PART_MB = 0.25
"""Size of a part of 66 fragments. 100,000 make 1,500 parts; 50 million events fill 800 to 1,500, of
63,999 events or 1 GiB."""
_EVENTS = 3_000  # of the task of real size
_SPLITS = {"train": 0.7, "val": 0.1, "test": 0.2}


def rehearse(scratch: Path, sizes: Sequence[int]) -> tuple[list[measure.Step], dict[str, float]]:
    """Return the steps, and the numbers for the last line; leave the stores."""
    environment = files.installed(scratch / "packages")
    remembered.site(scratch / "packages")
    steps = []
    for n in sizes:
        output = scratch / f"features-{n}.zarr"
        arguments = ["features", "--input", dataset(scratch, n), "--output", output]
        arguments += ["--part_mb", str(_PART_MB)]
        for stage in ("features", "again"):
            steps += [measure.run(stage, n, arguments, output, environment=environment)]
    first, last, most = steps[0], steps[-1], max(step.gb["driver"] for step in steps)
    per_fragment = (last.files - first.files) / (last.n - first.n)  # a few files are of the store
    n_files = round(first.files + per_fragment * (_FILES_AT_10TB - first.n))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        announced_vs_held = round(pool.submit(_announced_vs_held, scratch).result(), 2)
    numbers = {"files_of_store_at_10tb": n_files, "driver_gb_features": round(most, 2)}
    return steps, {**numbers, "announced_vs_held": announced_vs_held}


def _announced_vs_held(scratch: Path) -> float:
    """Return the memory that is announced for a task over what its process holds at most."""
    generated.write(scratch / "events", generated.events(_EVENTS), 1)
    (fragment,) = open_events(scratch / "events", 2**40).fragments
    spec = StoreSpec(CLASSES, HLF, PARTICLE, "corrected", "rehearsal", _SPLITS)
    compute_features(empty_events())
    store = StoreWriter.create(scratch / "events.zarr", spec)
    Path("/proc/self/clear_refs").write_text("5")  # the events were generated here
    assert make_part(store, PlannedPart(0, (fragment,)), None, 2**40).error is None
    peak = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]
    return memory_of_task([fragment]) / (1024 * int(peak))
