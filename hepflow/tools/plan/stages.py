"""The sample and the listing of the input -> the work of each stage, on a core of this machine.

Tasks, fragments and parts are planned by the functions that the stages call. A task that has not
run yet is expected to be like the sample of its class.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from hepflow.config.plan import PlanConfig
from hepflow.config.stages import FeaturesConfig
from hepflow.config.train import MB
from hepflow.data.blocks import StoreSpec
from hepflow.data.catalog import FragmentFile
from hepflow.data.events import Fragment, cut
from hepflow.data.fragment_writer import ROWS_PER_GROUP
from hepflow.data.layout import layouts
from hepflow.data.store import EventStore, read_attributes
from hepflow.data.task_records import read_records
from hepflow.features.job import memory_of_task
from hepflow.features.packing import plan_parts
from hepflow.ingest.task import TaskRecord
from hepflow.reading.ranges import EntryRange
from hepflow.schema import PARTICLE, SPLITS, STORE_SCHEMA_VERSION
from hepflow.score.inputs import tasks_of
from hepflow.score.record import ScoreRecord
from hepflow.statistics.scaling import Cost
from hepflow.system.storage import sizes_below
from hepflow.tools.plan.sample import Featured, Ingested, fragments_of
from hepflow.tools.plan.trial import Scored, Trained
from hepflow.train.loading.plan import quotas_of
from hepflow.train.loading.reader import EVERY_EPOCH, kept_splits

STARTS = {"ingest": 3.6, "features": 1.8, "evaluate": 1.5, "score": 2.2}
"""Start-ups, of Java and Spark or of Dask's scheduler and workers too, in units of the start of the
sample's processes; benchmarks/plan.py compares them."""
_EVALUATE_S = 1.5e-6  # per prediction; docs/bench.md, and 14 s for two runs of 3,000,000
_FORWARD = 0.2  # time of a net's output, as part of a training step
_SAVED = 4  # files of ingest next to fragments: marker, catalogue, merged records, losses
_REPORT_FILES, _REPORT_BYTES = 2, 3_000_000
_EVALUATE_BYTES, _BYTES_PER_PREDICTION = 400_000_000, 120  # memory


@dataclass(frozen=True)
class Work:
    """The work of a stage that is left."""

    cost: Cost
    events: float
    """Events that it reads; in a training, over all epochs."""
    error: float = 0.0
    """Relative standard error of the events."""
    files_in: int = 0
    bytes_in: float = 0.0
    files_out: float = 0.0
    bytes_out: float = 0.0
    task_s: Sequence[float] = ()
    """Seconds of each task, on one core; none if the work divides evenly."""
    worker_bytes: float = 0.0
    """Memory of a worker."""
    threads: int = 1
    """Cores that a worker uses."""
    most_workers: int = 1 << 30
    why_no_more: str = ""
    done: int = 0
    """Tasks that have finished before."""


@dataclass(frozen=True)
class Expected:
    """The store, once it is complete."""

    selected: Mapping[str, float]
    """Class -> events."""
    particles: float


def ingest(
    config: PlanConfig,
    samples: Mapping[str, Ingested],
    records: Sequence[TaskRecord],
    tasks: Sequence[Sequence[EntryRange]],
    task_bytes: int,
    start_s: float,
) -> tuple[Work, Sequence[Fragment]]:
    """Return the work of ``tasks``, and the fragments of these and of finished ``records``."""
    entries, seconds, n_bytes = dict.fromkeys(samples, 0.0), [], 0
    made: list[Fragment] = []
    written = 0.0
    for number, task in enumerate(tasks):
        size = sum(one.size for one in task)
        own = samples[task[0].file.class_name]
        n, per_event = round(own.kept_per_byte * size), own.bytes_per_kept
        entries[own.name] += own.entries_per_byte * size
        seconds.append(own.seconds_per_byte * size)
        written += n * per_event[0]
        n_bytes += size
        if n:
            name = f"{own.name}/planned-{number:06d}.parquet"
            rows = [min(ROWS_PER_GROUP, n - i) for i in range(0, n, ROWS_PER_GROUP)]
            groups = tuple((n_rows, round(n_rows * per_event[1])) for n_rows in rows)
            file = FragmentFile(round(n * per_event[0]), "planned", groups)
            made += cut(name, config.output / name, file, task_bytes)
    variance = sum((entries[name] * samples[name].error) ** 2 for name in entries)
    n_entries = sum(entries.values())
    n_fragments = len({fragment.path for fragment in made})
    work = Work(
        _cost("ingest", sum(seconds), n_entries, written, start_s),
        events=n_entries,
        error=variance**0.5 / max(n_entries, 1),
        files_in=len({one.file for task in tasks for one in task}),
        bytes_in=n_bytes,
        files_out=n_fragments + _SAVED * bool(tasks and not records),
        bytes_out=written,
        task_s=seconds,
        worker_bytes=max(own.peak_bytes for own in samples.values()),
        done=len(records),
    )
    there = fragments_of(records, config.output, task_bytes)
    return work, [*there, *made]


def features(
    config: FeaturesConfig,
    spec: StoreSpec,
    fragments: Sequence[Fragment],
    samples: Mapping[str, Featured],
    made: EventStore,
    round_bytes: int,
    start_s: float,
) -> tuple[Work, Expected]:
    """Return the work of the parts that are missing; ``made`` is the store of the samples."""
    before = read_attributes(config.output) or {}
    known = before.get("schema_version"), before.get("settings")
    keep = known == (STORE_SCHEMA_VERSION, spec.settings)
    store = EventStore(config.output if keep else made.path / "none", spec)
    parts, stale = plan_parts(store, fragments, int(config.part_mb * 2**20))
    of_all = Featured(*map(sum, zip(*map(astuple, samples.values()), strict=True)))
    of_class = defaultdict(lambda: of_all, samples)  # a class may have no event in the sample
    own_layouts = layouts(spec).values()
    seconds, written, memory = [], 0.0, 0
    for part in parts:
        seconds.append(0.0)
        written += sum(layout.index_bytes for layout in own_layouts)
        for fragment in part.fragments:
            own = of_class[fragment.path.parent.name]
            share = fragment.n_events / max(own.n_in, 1)
            seconds[-1] += own.seconds * share
            written += own.chunk_bytes * share
        memory = max([memory, *map(memory_of_task, part.rounds(round_bytes))])
    n_events = Counter[str]()
    for fragment in fragments:
        n_events[fragment.path.parent.name] += fragment.n_events
    scale = {name: n / max(of_class[name].n_in, 1) for name, n in n_events.items()}
    selected = {name: of_class[name].n_events * n for name, n in scale.items()}
    particles = sum(of_class[name].n_particles * n for name, n in scale.items())
    left = sum(part.n_events for part in parts)
    per_part = len(own_layouts)
    others = len(sizes_below(made.path)) - per_part * len(made.records)  # of the whole store
    files = per_part * len(parts) + others * bool(parts and not keep)
    read = sum(fragment.file_bytes for part in parts for fragment in part.fragments)
    work = Work(
        _cost("features", sum(seconds), left, written, start_s),
        events=left,
        files_in=len({fragment.path for part in parts for fragment in part.fragments}),
        bytes_in=read,
        files_out=files,
        bytes_out=written,
        task_s=sorted(seconds, reverse=True),
        worker_bytes=memory,
        done=len(store.sources()) - len(stale),
    )
    return work, Expected(selected, particles)


def train(config: PlanConfig, expected: Expected, trial: Trained, cores: int) -> Work:
    """Return the work of all epochs, and of the test, on processes like the trial's.

    ``cores`` are those of a machine.
    """
    data = trial.options["data"]
    counts = {name: round(n * config.splits["train"]) for name, n in expected.selected.items()}
    quota = sum(quotas_of(counts, data["balance"], str(config.store)))
    n_selected = sum(expected.selected.values())
    n_val, n_test = (n_selected * config.splits[split] for split in SPLITS[1:])
    epochs = config.epochs or trial.epochs
    in_steps = quota + _FORWARD * n_val
    seconds = trial.train_s * (in_steps * epochs + _FORWARD * n_test) * trial.threads
    threads = min(trial.threads, cores)
    batch = int(data["batch_size"])
    particle_bytes = 4 * len(PARTICLE) * expected.particles
    sizes = {split: particle_bytes * config.splits[split] for split in EVERY_EPOCH}
    kept = kept_splits(sizes, data["memory_mb"] * MB)
    windows = 2 * data["buffer_mb"] * MB
    held = sum(size if split in kept else windows for split, size in sizes.items())
    return Work(
        _cost("train", seconds, quota * epochs, 0.0, trial.start_s),
        events=quota * epochs,
        files_in=0,
        bytes_in=0.0,
        files_out=trial.files_out,
        bytes_out=trial.bytes_out + n_test * trial.prediction_bytes,
        worker_bytes=trial.peak_bytes + held,
        threads=threads,
        most_workers=max(1, batch // 32),
        why_no_more=f"batches of {batch}",
    )


def evaluate(n_test: float, start_s: float) -> Work:
    """Return the work of the report of one run."""
    seconds = n_test * _EVALUATE_S
    return Work(
        _cost("evaluate", seconds, n_test, 0.0, start_s),
        events=n_test,
        files_out=_REPORT_FILES,
        bytes_out=_REPORT_BYTES,
        worker_bytes=_EVALUATE_BYTES + n_test * _BYTES_PER_PREDICTION,
        most_workers=1,
        why_no_more="one process",
    )


def score(
    config: PlanConfig,
    ranges: Sequence[EntryRange],
    classes: Mapping[str, str],
    samples: Mapping[str, Ingested],
    trial: Scored,
    start_s: float,
) -> Work:
    """Return the work of ranges without scores; ``classes``: name of a file -> its class."""
    records = read_records(config.scores, ScoreRecord.from_dict)
    done = {one.range.key for record in records for one in record.ranges}
    left = [one for one in ranges if one.key not in done]
    total = sum(own.entries_per_byte for own in samples.values()) / len(samples)
    per_event, n_entries, seconds = trial.seconds / max(trial.n_events, 1), 0.0, []
    for task in tasks_of(left, config.target_partition_mb << 20):
        own = (samples.get(classes.get(one.file.name, "")) for one in task)
        rates = (one.entries_per_byte if one else total for one in own)
        n = sum(rate * one.size for rate, one in zip(rates, task, strict=True))
        n_entries += n
        seconds.append(n * per_event)
    return Work(
        _cost("score", sum(seconds), n_entries, 0.0, start_s),
        events=n_entries,
        files_in=len({one.file for one in left}),
        bytes_in=sum(one.size for one in left),
        files_out=len(seconds) + trial.files_out * bool(left and not done),
        bytes_out=n_entries * trial.bytes_out / max(trial.n_events, 1),
        task_s=sorted(seconds, reverse=True),
        worker_bytes=trial.peak_bytes,
        done=len(ranges) - len(left),
    )


def _cost(stage: str, core_s: float, events: float, written: float, start_s: float) -> Cost:
    n = max(events, 1.0)
    return Cost(stage, start_s, 0.0, 0.0, core_s / n, written / n, error=0.0, separable=True)
