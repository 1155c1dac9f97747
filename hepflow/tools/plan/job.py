"""``hepflow plan``: list the input once, run a sample of it through all stages, and scale that."""

import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hepflow.config.plan import PlanConfig
from hepflow.config.shipped import net_file
from hepflow.config.stages import FeaturesConfig
from hepflow.data.events import EventsDataset, open_events
from hepflow.data.ledger import total
from hepflow.data.output import read_marker
from hepflow.data.runs import ONNX, read_record
from hepflow.data.store import EventStore
from hepflow.errors import DataError, HepflowError
from hepflow.features.job import spec_of, task_bytes
from hepflow.ingest import dataset
from hepflow.ingest.job import ranges_of
from hepflow.reading.listing import list_files
from hepflow.reading.ranges import EntryRange, pack, plan
from hepflow.system.places import place
from hepflow.system.publishing import scratch
from hepflow.system.terminal import Bar, bar
from hepflow.tools.plan import report, sample, stages, trial
from hepflow.tools.plan.cluster import cluster_of, estimate, limits
from hepflow.tools.plan.lines import net_name
from hepflow.tools.plan.report import Plan
from hepflow.tools.plan.sample import Ingested
from hepflow.tools.plan.stages import Work

_STEPS = 5  # of the progress


def run(config: PlanConfig) -> None:
    """Print the plan."""
    given = limits(config)
    cluster_of(config, "ingest")  # a mistake in its memory, before any work
    net = None if config.net == "none" else net_file(config.net)
    with (
        tempfile.TemporaryDirectory(dir=scratch()) as folder,
        bar("plan", _STEPS, transient=True) as progress,
    ):
        found = make_plan(config, net, Path(folder), progress)
    report.show(config, found, given)


def make_plan(config: PlanConfig, net: Path | None, folder: Path, progress: Bar) -> Plan:
    """Return the plan; a sample of all that the stages write is in ``folder``."""
    progress.advance(0, "listing the input")
    _require_raw(config)
    files = list_files(config.input, config.timeout_s)
    ranges, settings = ranges_of(files, config)
    about = dataset.manifest(settings.output)
    if about is not None and not config.overwrite:
        dataset.check_replaceable(about, ranges, settings)
    records, left = dataset.finished(ranges, settings, config.retry_quarantined)
    tasks = pack(left, config.target_partition_mb << 20)
    progress.advance(1, "ingest")
    events = folder / "events"
    samples = sample.ingest(ranges, replace(settings, output=events), progress)
    _require_events(config, samples)
    progress.advance(1, "features")

    own, store = _features_config(config), folder / "features.zarr"
    round_bytes = task_bytes(own)
    spec = spec_of(own, _dataset(config, samples))
    featured, start_s = sample.features(own, spec, samples, events, store, round_bytes)
    made = EventStore.open(store)
    start = {stage: start_s * times for stage, times in stages.STARTS.items()}
    ingested, fragments = stages.ingest(
        config, samples, records, tasks, round_bytes, start["ingest"]
    )
    if not tasks and read_marker(config.output) is not None:
        fragments = open_events(config.output, round_bytes).fragments
    parts, expected = stages.features(
        own, spec, fragments, featured, made, round_bytes, start["features"]
    )
    n_selected = sum(expected.selected.values())
    works: dict[str, Work] = {"ingest": ingested, "features": parts}
    left_out: dict[str, str] = {}
    progress.advance(1, "train")
    if net is not None:
        try:
            trained = trial.train(net, store, folder / "run")
            cores = cluster_of(config, "train").cores
            works["train"] = stages.train(config, expected, trained, cores)
            if not parts.task_s and _is_trained(config):
                nothing: Any = {"events": 0.0, "files_out": 0, "bytes_out": 0.0, "done": 1}
                works["train"] = replace(works["train"], **nothing)
        except (HepflowError, DataError) as error:
            left_out = dict.fromkeys(("train", "evaluate", "score"), str(error))
        progress.advance(1, "score")
        if "train" in works:
            n_test = n_selected * config.splits["test"]
            works["evaluate"] = stages.evaluate(n_test, start["evaluate"])
            works["score"] = _score(config, files, ranges, samples, folder, start["score"])
    return Plan(
        {name: estimate(work, cluster_of(config, name)) for name, work in works.items()},
        files=len({one.file for one in ranges}),
        bytes_in=sum({one.file: one.file.size for one in ranges}.values()),
        samples=samples,
        particles=expected.particles / max(n_selected, 1),
        left_out=left_out,
    )


def _require_raw(config: PlanConfig) -> None:
    is_page = str(config.input).startswith("http")
    if not is_page and read_marker(place(config.input)) is not None:
        what = "a dataset of `hepflow ingest`. Give the ROOT files with --input"
        raise DataError(f"{config.input}: {what}; finished stages are left out of the plan.")


def _require_events(config: PlanConfig, samples: dict[str, Ingested]) -> None:
    """Refuse an input of which nothing in the sample is readable, or passes."""
    ranges = [one for own in samples.values() for one in own.ranges]
    if any(own.n_kept for own in samples.values()):
        return
    bad = [one for one in ranges if one.lost]
    why = f"no event of {len(ranges)} entry ranges passes. Check that these are the right files."
    if bad:
        reason, *_ = bad[0].lost
        first = f"the first, {bad[0].range.file.name}: {reason}"
        why = f"nothing in the sample is readable ({first}). Repair or replace the files."
    raise DataError(f"{config.input}: {why}")


def _features_config(config: PlanConfig) -> FeaturesConfig:
    """Return the options of the features stage, with the memory of a worker on its machines."""
    on = cluster_of(config, "features")
    values: dict[str, Any] = {one.name: getattr(config, one.name) for one in fields(FeaturesConfig)}
    memory = config.cluster.memory
    if on.kind == "local" or memory == "auto" or config.memory:
        memory = f"{on.memory // on.cores}B"
    cluster = replace(config.cluster, memory=memory)
    return FeaturesConfig(
        **values | {"input": config.output, "output": config.store, "cluster": cluster}
    )


def _dataset(config: PlanConfig, samples: dict[str, Ingested]) -> EventsDataset:
    """Return a dataset of the input's classes, without events."""
    ledger = total(one.ledger for own in samples.values() for one in own.ranges)
    return EventsDataset(config.output, tuple(config.samples), "plan", ledger, ())


def _is_trained(config: PlanConfig) -> bool:
    """Return whether there is a finished run on the store, which has all its parts."""
    record = read_record(config.runs / net_name(config))
    same = record.get("provenance") == EventStore.open(config.store).spec.provenance
    return bool(record.get("finished")) and same


def _score(
    config: PlanConfig,
    files: Sequence[Any],
    ranges: Sequence[EntryRange],
    samples: dict[str, Ingested],
    folder: Path,
    start_s: float,
) -> Work:
    picked = [[(one.range, one.stop - one.start) for one in own.ranges] for own in samples.values()]
    in_turn = [one for several in zip(*picked, strict=False) for one in several]
    scored = trial.score(config, in_turn, folder / "run" / ONNX, folder / "scores")
    classes = {one.file.name: one.file.class_name for one in ranges}
    everything = plan(files, config.target_partition_mb << 20)
    return stages.score(config, everything, classes, samples, scored, start_s)
