"""Work of a Dask worker: an entry range -> one Parquet file of scores, and a record of every event.

The file of scores is named after the content of the range and renamed into place, then the record
is written. A range without a record is scored again under the same name, so it may run twice, or
die at any point, and its scores exist once. A file and its copy are told apart by a claim on their
common identity: the first is scored, the other quarantined.
"""

import json
import os
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.ledger import Ledger
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.ranges import EntryRange
from hepflow.reading.reader import Access
from hepflow.reading.record import WORKER_DIED, RangeRecord
from hepflow.score.inputs import reader_of
from hepflow.score.scorer import Scorer, Scores
from hepflow.score.working_points import WorkingPoint
from hepflow.system.files import whole, write_json

RECORDS, CLAIMS = "_records", "_claims"


@dataclass(frozen=True)
class Task:
    """Settings of a run."""

    output: Path
    model: Path
    identity: str
    """Hash of the model file."""
    physics: str | None
    working_points: tuple[WorkingPoint, ...]
    access: Access
    key: str
    """Hash of everything that the scores depend on."""


@dataclass(frozen=True)
class ScoreRecord:
    """Fate of the events of an entry range, or of a micro-batch of messages."""

    key: str
    """Name of the record."""
    name: str
    """File below the input, or the micro-batch."""
    ledger: Ledger
    range: EntryRange | None = None
    """None for a micro-batch."""
    uuid: str | None = None
    """Identity of the file; None if it could not be opened."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """Hash of the events of a message -> its place, for a micro-batch."""
    fragment: str | None = None
    """Parquet file of the scores; None without a readable event."""
    transient: bool = False
    """Whether the file system or dying workers lost events: another run retries."""
    accepted: Mapping[str, int] = field(default_factory=dict)
    """Stream -> events that it keeps."""
    histograms: tuple[tuple[int, ...], ...] = ()
    """One per high-level feature, in the bins of the model's `Spread`."""
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
        return cls(ledger=Ledger.from_dict(counts), range=entries, **rest)


class Tally:
    """Scores of several chunks of events, and their sums."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.tables: list[pa.Table] = []
        self.n_out = self.n_not_finite = 0
        self.rejected: Counter[str] = Counter()
        self.accepted = {point.stream: 0 for point in scorer.working_points}
        self.histograms: tuple[tuple[int, ...], ...] = ()

    def add(self, events: ak.Array, identity: Mapping[str, pa.Array]) -> None:
        """Score a chunk.

        Raises
        ------
        DataError
            It cannot be scored; nothing was added.
        """
        scores = self.scorer.score(events)
        self.tables.append(_table(scores, identity, self.scorer))
        self.n_out += int(scores.selected.sum())
        self.rejected.update(scores.reason[~scores.selected].tolist())
        self.n_not_finite += self.rejected.pop(NOT_FINITE, 0)  # lost, as in ingest
        for stream, kept in zip(self.accepted, scores.accepted.T, strict=True):
            self.accepted[stream] += int(kept.sum())
        if self.scorer.net.spread is not None:
            found = [counts.tolist() for counts in self.scorer.net.spread.count(scores.hlf)]
            before = [self.histograms] if self.histograms else []
            self.histograms = add_histograms([*before, found])


def add_histograms(several: Iterable[Sequence[Sequence[int]]]) -> tuple[tuple[int, ...], ...]:
    """Return the sum of several sets of histograms, each one per feature."""
    return tuple(tuple(np.sum(rows, axis=0).tolist()) for rows in zip(*several, strict=True))


def score_range(entries: EntryRange, task: Task) -> ScoreRecord:
    """Read, score and write an entry range.

    Raises
    ------
    DataError
        The model file has changed since the run began.
    """
    tally, reader = Tally(scorer_of(task)), reader_of(entries, task.access)
    name, owner = entries.file.name, None
    lost: Counter[str] = Counter()
    for chunk in reader.chunks():
        n = chunk.stop - chunk.start
        owner = owner or (claim(task.output, reader.uuid, name) if reader.uuid else name)
        if chunk.events is None or owner != name:
            lost[chunk.reason if owner == name else f"a copy of {owner} (same identity)"] += n
            continue
        try:
            tally.add(chunk.events, reader.identity(chunk))
        except DataError as error:
            lost[str(error)] += n
    lost[NOT_FINITE] += tally.n_not_finite
    fate = reader.record(tally.n_out, tally.rejected, lost)
    stem = f"{PurePosixPath(name).stem}-{entries.index:04d}-{entries.key}"
    return _record(fate, task, tally, write_scores(tally.tables, stem, task))


def given_up(entries: EntryRange, task: Task) -> ScoreRecord:
    """Record an entry range that kills its workers, so that one file cannot stop the others."""
    return _record(RangeRecord(entries, lost={WORKER_DIED: None}, transient=True), task)


def _record(
    fate: RangeRecord, task: Task, tally: Tally | None = None, fragment: str | None = None
) -> ScoreRecord:
    return ScoreRecord(
        fate.range.key,
        fate.range.file.name,
        fate.ledger,
        fate.range,
        fate.uuid,
        fragment=fragment,
        transient=fate.transient,
        accepted=tally.accepted if tally else {},
        histograms=tally.histograms if tally else (),
        seconds=fate.seconds,
    ).write(task.output)


def claim(output: Path, identity: bytes, name: str) -> str:
    """Claim the events of a file for ``name``, and return who has them: it, or an earlier file."""
    path = output / CLAIMS / identity.hex()
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    part.write_text(name)
    try:
        os.link(part, path)  # whole or not at all, and never over another claim
    except FileExistsError:
        return path.read_text()
    finally:
        part.unlink()
    return name


def schema(classes: tuple[str, ...], working_points: tuple[WorkingPoint, ...]) -> pa.Schema:
    """Return the columns of the scores (docs/scoring.md)."""
    always = {"event_id": "int64", "file": "string", "entry": "int64", "selected": "bool"}
    sometimes = {"reason": "string", "decision": "bool"}
    sometimes |= {f"accept_{point.stream}": "bool" for point in working_points}
    sometimes |= {f"{kind}_{name}": "float32" for kind in ("p", "logit") for name in classes}
    fields = [(name, kind, False) for name, kind in always.items()]
    fields += [(name, kind, True) for name, kind in sometimes.items()]
    return pa.schema([pa.field(name, pa.type_for_alias(kind), null) for name, kind, null in fields])


def _table(scores: Scores, identity: Mapping[str, pa.Array], scorer: Scorer) -> pa.Table:
    selected = scores.selected
    points, classes = scorer.working_points, scorer.inputs.classes
    columns: dict[str, Any] = {**identity, "selected": selected}
    columns["reason"] = pa.array(scores.reason, pa.string(), mask=selected)
    # without a working point there is no decision on events with a score
    columns["decision"] = pa.array(scores.accepted.any(axis=1), mask=selected & (len(points) == 0))
    columns |= {f"accept_{point.stream}": scores.accepted[:, i] for i, point in enumerate(points)}
    for kind, values in (("p", scores.probabilities), ("logit", scores.logits)):
        for i, name in enumerate(classes):
            column = values[:, i].astype(np.float32)
            columns[f"{kind}_{name}"] = pa.array(column, mask=~selected)
    return pa.table(columns, schema=schema(classes, points))


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

    Raises
    ------
    DataError
        The model file has changed since the run began.
    """
    scorer = Scorer(task.model, task.physics, working_points=task.working_points)
    if scorer.net.identity != task.identity:
        raise DataError(
            f"{task.model}: it has changed since this run began. Run the same command again."
        )
    return scorer
