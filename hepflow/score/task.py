"""Work of a Dask worker: an entry range -> one Parquet file of scores, and a record of every event.

The file of scores is named after the content of the range and renamed into place, then the record
is written. A range without a record is scored again under the same name, so it may run twice, or
die at any point, and its scores exist once. Of a file and its copy, the first to claim their
common identity is scored, and the other quarantined.
"""

import gc
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.config.score import ScoreConfig
from hepflow.data.ledger import Ledger
from hepflow.data.provenance import digest
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access
from hepflow.reading.record import WORKER_DIED, RangeRecord
from hepflow.schema import SCORES_SCHEMA_VERSION
from hepflow.score.inputs import reader_of
from hepflow.score.scorer import Scorer, Scores
from hepflow.score.working_points import WorkingPoint, resolve
from hepflow.system.files import inside, plain_name, write_json
from hepflow.system.publishing import claim, whole
from hepflow.system.storage import read_text

RECORDS, CLAIMS = "_records", "_claims"


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


def prepare(config: ScoreConfig, topic: str = "") -> tuple[Scorer, Task, dict[str, Any]]:
    """Load the model, so that its errors come before any work, and describe the work."""
    # Micro-batches are scored by processes that load the compiled physics themselves.
    scorer = Scorer(config.model, config.physics, config.store, compiled=not topic)
    net, inputs = scorer.net, scorer.inputs
    points = resolve(config.working_point, config.report, net)
    physics, tree = scorer.physics_identity, config.tree
    key = digest(SCORES_SCHEMA_VERSION, net.identity, physics, points, tree, topic)
    output, path = config.output.absolute(), config.model.absolute()
    access = Access(tree, config.retries, config.timeout_s)
    task = Task(output, path, net.identity, config.physics, points, access, key)
    model = {"file": str(config.model), "hash": net.identity, "net": net.net}
    about: dict[str, Any] = {"key": key, "topic": topic, "tree": tree, "physics": physics}
    about |= {"model": {**model, "store": inputs.provenance}, "definitions": inputs.definitions}
    about |= {"classes": list(inputs.classes), "hlf": list(inputs.hlf)}
    about |= {"working_points": [asdict(point) for point in points]}
    return scorer, task, about


@dataclass(frozen=True)
class ScoreRecord:
    """Fate of the events of an entry range, or of a micro-batch of messages."""

    key: str  # name of the record
    name: str  # file below the input, or the micro-batch
    ledger: Ledger
    range: EntryRange | None = None  # None for a micro-batch
    uuid: str | None = None  # identity of the file; None if it could not be opened
    messages: Mapping[str, str] = field(default_factory=dict)
    """Hash of the events of a message -> its place, for a micro-batch."""
    fragment: str | None = None  # Parquet file of the scores; None without a readable event
    transient: bool = False  # the file system or dying workers lost events: another run retries
    accepted: Mapping[str, int] = field(default_factory=dict)  # stream -> events that it keeps
    histograms: Sequence[Sequence[int]] = ()  # one per high-level feature, in bins of `Spread`
    seconds: float = 0.0

    def write(self, output: Path) -> Self:
        """Write it into the folder of records: from then on the range counts as scored."""
        data = asdict(self)
        counts, split = data.pop("ledger"), data.pop("range")
        write_json(output / RECORDS / f"{self.key}.json", {**data, **counts, "split": split})
        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the record in a file."""
        rest = dict(data)
        split = rest.pop("split")
        counts = {name: rest.pop(name) for name in ("n_in", "n_out", "rejected", "lost")}
        entries = split and EntryRange.from_dict(split)
        for name in (rest["key"], rest["uuid"] or "none"):
            plain_name(name)
        inside(rest["fragment"] or "none")
        return cls(ledger=Ledger.from_dict(counts), range=entries, **rest)


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


def add_histograms(several: Iterable[Sequence[Sequence[int]]]) -> list[list[int]]:
    """Return the sum of several sets of histograms, each one per feature."""
    return [np.sum(rows, axis=0).tolist() for rows in zip(*several, strict=True)]


def score_range(entries: EntryRange, task: Task) -> ScoreRecord:
    """Read, score and write an entry range."""
    scorer, reader = scorer_of(task), reader_of(entries, task.access)
    name, owner = entries.file.name, None
    total, tables, lost = Tally(), [], Counter[str]()
    for chunk in reader.chunks():
        n = chunk.stop - chunk.start
        owner = owner or (_claim(task.output, reader.uuid, name) if reader.uuid else name)
        if chunk.events is None or owner != name:
            lost[chunk.reason if owner == name else f"a copy of {owner} (same identity)"] += n
            continue
        try:
            scores = scorer.score(chunk.events)
        except DataError as error:
            lost[str(error)] += n
            continue
        tables.append(table_of(scores, reader.identity(chunk), scorer))
        total.add(Tally.of(scores, scorer))
    lost[NOT_FINITE] += total.n_not_finite
    fate = reader.record(total.n_out, Counter(total.rejected), lost)
    stem = f"{PurePosixPath(name).stem}-{entries.index:04d}-{entries.key}"
    return _record(fate, task, total, write_scores(tables, stem, task))


def given_up(entries: EntryRange, task: Task) -> ScoreRecord:
    """Record an entry range that kills its workers, so that one file cannot stop the others."""
    fate = RangeRecord(entries, lost={WORKER_DIED: None}, transient=True)
    return _record(fate, task, Tally(), None)


def _record(fate: RangeRecord, task: Task, tally: Tally, fragment: str | None) -> ScoreRecord:
    key, name = fate.range.key, fate.range.file.name
    of_events = fragment, fate.transient, tally.accepted, tally.histograms, fate.seconds
    record = ScoreRecord(key, name, fate.ledger, fate.range, fate.uuid, {}, *of_events)
    return record.write(task.output)


def _claim(output: Path, identity: bytes, name: str) -> str:
    """Claim the events of a file for ``name``, and return who has them: it, or an earlier file."""
    path = output / CLAIMS / identity.hex()
    return name if claim(path, name) else read_text(path)


def table_of(scores: Scores, identity: Mapping[str, pa.Array], scorer: Scorer) -> pa.Table:
    """Return the columns of docs/scoring.md."""
    selected, points = scores.selected, scorer.working_points
    columns: dict[str, pa.Array] = {**identity, "selected": pa.array(selected)}
    n_required = len(columns)
    columns["reason"] = pa.array(scores.reason, pa.string(), mask=selected)
    # without a working point there is no decision on events with a score
    columns["decision"] = pa.array(scores.accepted.any(axis=1), mask=selected & (len(points) == 0))
    for point, kept in zip(points, scores.accepted.T, strict=True):
        columns[f"accept_{point.stream}"] = pa.array(kept)
    for kind, values in (("p", scores.probabilities), ("logit", scores.logits)):
        for name, column in zip(scorer.inputs.classes, values.T, strict=True):
            columns[f"{kind}_{name}"] = pa.array(column.astype(np.float32), mask=~selected)
    items = enumerate(columns.items())
    fields = [pa.field(name, each.type, nullable=i >= n_required) for i, (name, each) in items]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def write_scores(tables: list[pa.Table], stem: str, task: Task) -> str | None:
    """Write the scores into a file, whole or not at all, and return its name; None without any."""
    if not tables:
        return None
    about = json.dumps({"key": task.key, "model": task.identity})
    table = pa.concat_tables(tables).replace_schema_metadata({"hepflow": about})
    with whole(task.output / f"{stem}.parquet") as part:
        pq.write_table(table, part, compression="zstd")
    return f"{stem}.parquet"


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
