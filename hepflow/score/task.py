"""Work of a Dask worker: entry ranges -> one Parquet file of scores, and a record of every event.

The file of scores is named after the ranges and renamed into place, then the record is written.
A range without a record is scored again. A task may run twice, or die at any point: its file has
one name, so its scores exist once. Of a file and its copy, the first to claim their common identity
is scored, and the other quarantined.
"""

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import pyarrow as pa

from hepflow.config.score import ScoreConfig
from hepflow.data.provenance import digest
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access
from hepflow.reading.record import WORKER_DIED, Losses
from hepflow.score.claims import claims_of
from hepflow.score.fragment import table_of, write_scores
from hepflow.score.inputs import reader_of
from hepflow.score.record import ScoredRange, ScoreRecord, add_histograms, copy_of
from hepflow.score.scorer import Scorer, Scores
from hepflow.score.working_points import WorkingPoint, resolve

_COLUMNS_VERSION = 2  # of the scores: folders of schema version 2 are continued


@dataclass(frozen=True)
class Task:
    """Settings of a run."""

    output: Path
    model: Path
    identity: str  # hash of the model file
    physics: str | None
    working_points: tuple[WorkingPoint, ...]
    access: Access
    key: str  # hash of everything that the scores depend on
    run: str = ""  # name of the run, as in claims

    @property
    def about(self) -> dict[str, str]:
        """Origin of the scores, for the footers of their files."""
        return {"key": self.key, "model": self.identity}


def prepare(config: ScoreConfig, topic: str = "") -> tuple[Scorer, Task, dict[str, Any]]:
    """Load the model, so that its errors come before any work, and describe the work."""
    # Micro-batches are scored by processes that load the compiled physics themselves.
    scorer = Scorer(config.model, config.physics, config.store, compiled=not topic)
    net, inputs = scorer.net, scorer.inputs
    points = resolve(config.working_point, config.report, net)
    physics, tree = scorer.physics_identity, config.tree
    key = digest(_COLUMNS_VERSION, net.identity, physics, points, tree, topic)
    output, path = config.output.absolute(), config.model.absolute()
    access = Access(tree, config.retries, config.timeout_s)
    task = Task(output, path, net.identity, config.physics, points, access, key)
    model = {"file": str(config.model), "hash": net.identity, "net": net.net}
    about: dict[str, Any] = {"key": key, "topic": topic, "tree": tree, "physics": physics}
    about |= {"model": {**model, "store": inputs.provenance}, "definitions": inputs.definitions}
    about |= {"classes": list(inputs.classes), "hlf": list(inputs.hlf)}
    about |= {"working_points": [asdict(point) for point in points]}
    return scorer, task, about


@dataclass
class Tally:
    """Counts of scored events; those of several chunks or messages add up."""

    n_out: int = 0
    n_not_finite: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    histograms: Sequence[Sequence[int]] = ()

    @classmethod
    def of(cls, scores: Scores, scorer: Scorer) -> Self:
        """Count the events of a chunk."""
        rejected = dict(Counter(scores.reason[~scores.selected].tolist()))
        n_not_finite = rejected.pop(NOT_FINITE, 0)  # lost, as in ingest
        streams = [point.stream for point in scorer.working_points]
        accepted = dict(zip(streams, scores.accepted.sum(axis=0).tolist(), strict=True))
        spread = scorer.net.spread
        histograms = [n.tolist() for n in spread.count(scores.hlf)] if spread else ()
        return cls(int(scores.selected.sum()), n_not_finite, rejected, accepted, histograms)

    def add(self, other: "Tally") -> None:
        """Add other events."""
        self.n_out += other.n_out
        self.n_not_finite += other.n_not_finite
        for mine, others in ((self.rejected, other.rejected), (self.accepted, other.accepted)):
            for name, n in others.items():
                mine[name] = mine.get(name, 0) + n
        both = [tally.histograms for tally in (self, other) if tally.histograms]
        self.histograms = add_histograms(both)


def score_task(ranges: Sequence[EntryRange], task: Task) -> ScoreRecord:
    """Read, score and write entry ranges."""
    tables: list[pa.Table] = []
    fates, rows, counts = [], dict[str, int](), Tally()
    for entries in ranges:
        n_tables = len(tables)
        fate, tally = _score(entries, task, tables)
        rows[entries.key] = sum(map(len, tables[n_tables:]))
        fates.append(fate)
        counts.add(tally)
    key, first, fragment = task_key(ranges), ranges[0], None
    claims_of(task.output, task.run).require_run()
    if tables:
        fragment = f"{PurePosixPath(first.file.name).stem}-{first.index:04d}-{key}.parquet"
        write_scores(task.output / fragment, tables, task.about, rows)
    record = ScoreRecord.of_task(key, fates, fragment)
    return replace(record, histograms=counts.histograms).write(task.output)


def task_key(ranges: Sequence[EntryRange]) -> str:
    """Return the name of a task: a hash of its ranges."""
    return ranges[0].key if len(ranges) == 1 else digest([one.key for one in ranges])


def _score(entries: EntryRange, task: Task, tables: list[pa.Table]) -> tuple[ScoredRange, Tally]:
    """Append the scores of a range to the tables, and return the fate of all its events."""
    scorer, claims = scorer_of(task), claims_of(task.output, task.run)
    reader, name, owner = reader_of(entries, task.access), entries.file.name, ""
    counts, lost = Tally(), Losses()
    for chunk in reader.chunks():
        owner = owner or (claims.owner(reader.uuid.hex(), name) if reader.uuid else name)
        if chunk.events is None or owner != name:
            reason = chunk.reason if owner == name else copy_of(owner)
            lost.add(reason, chunk.start, chunk.stop)
            continue
        try:
            scores = scorer.score(chunk.events)
        except DataError as error:
            lost.add(str(error), chunk.start, chunk.stop)
            continue
        tables.append(table_of(scores, reader.identity(chunk), scorer))
        counts.add(Tally.of(scores, scorer))
        lost.add_each(NOT_FINITE, chunk.start + np.flatnonzero(scores.reason == NOT_FINITE))
    fate = reader.record(counts.n_out, counts.rejected, lost)
    return ScoredRange(**vars(fate), accepted=counts.accepted), counts


def given_up(entries: EntryRange, task: Task) -> ScoreRecord:
    """Record an entry range that kills its workers, so that one file cannot stop the others."""
    fate = ScoredRange(entries, lost={WORKER_DIED: None}, transient=True)
    return ScoreRecord.of_task(entries.key, [fate], None).write(task.output)


@lru_cache(maxsize=1)
def scorer_of(task: Task) -> Scorer:
    """Return the scorer of this process, which scores many entry ranges.

    Spark's workers collect garbage after every task, which among all that is imported takes longer
    than scoring a few messages: what is there now is left out.
    """
    scorer = Scorer(task.model, task.physics, working_points=task.working_points)
    if scorer.net.identity != task.identity:
        raise DataError(f"{task.model}: changed since this run began. Run the same command again.")
    gc.collect()
    gc.freeze()
    return scorer
