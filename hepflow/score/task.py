"""What a worker does: a share of a file -> one Parquet file of scores and the record of what became of every event in it.

The scores are named after the share's content and renamed into place, then the record is. A share without a record is done again, under
the same name: it may run twice, or die at any point, and its scores are there once. A file and its copy are told apart by a claim on
the identity that both have: the first that claims it is scored, the other quarantined.
"""

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.errors import DataError
from hepflow.ingest.fragment import NOT_FINITE
from hepflow.ingest.share import Access
from hepflow.ingest.splits import SourceFile, Split
from hepflow.ledger import Ledger, Lost, write_json
from hepflow.score.reading import reader_of
from hepflow.score.scorer import Scorer, Scores
from hepflow.score.working_points import WorkingPoint

RECORDS, CLAIMS = "_records", "_claims"
WORKER_DIED = "the workers died whenever they read this file"


@dataclass(frozen=True)
class Task:
    """What all shares have in common."""

    output: Path
    model: Path
    identity: str
    """Hash of the model file."""
    physics: str | None
    working_points: tuple[WorkingPoint, ...]
    access: Access
    key: str
    """Changes with whatever changes the scores."""


@dataclass(frozen=True)
class Record:
    """What became of a share."""

    split: Split
    uuid: str | None = None
    """Identity of the file; None where it could not be opened."""
    fragment: str | None = None
    """Parquet file of the scores; None where there is no readable event."""
    n_in: int = 0
    n_out: int = 0
    """Events with a score."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int | None] = field(default_factory=dict)
    transient: bool = False
    """Whether events were lost to the file system or to dying workers: another run tries again."""
    accepted: Mapping[str, int] = field(default_factory=dict)
    """Stream -> events that it keeps."""
    histograms: tuple[tuple[int, ...], ...] = ()
    """Of each high-level feature, in the bins of the model's `Spread`."""
    seconds: float = 0.0

    @property
    def ledger(self) -> Ledger:
        """The same as a ledger."""
        lost = tuple(Lost(self.split.file.name, reason, events) for reason, events in self.lost.items())
        return Ledger(self.n_in, self.n_out, self.rejected, lost).check()

    def write(self, output: Path) -> Self:
        """Put it into the folder of the records: from then on the share is done."""
        write_json(output / RECORDS / f"{self.split.key}.json", asdict(self))
        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From plain types."""
        split = Split(SourceFile(**data["split"]["file"]), data["split"]["index"], data["split"]["count"])
        return cls(**{**data, "split": split, "histograms": tuple(tuple(row) for row in data["histograms"])})


def score_share(split: Split, task: Task) -> Record:
    """Read, score and write a share of a file.

    Raises
    ------
    DataError
        The model file has changed since the run began.
    """
    started = time.perf_counter()
    scorer = _scorer(task.model, task.identity, task.physics, task.working_points)
    reader = reader_of(split, task.access)
    tables: list[pa.Table] = []
    rejected: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    accepted = np.zeros(len(task.working_points), dtype=np.int64)
    histograms: list[np.ndarray] = []
    owner = None
    for piece in reader.pieces():
        n = piece.stop - piece.start
        owner = owner or (claim(task.output, reader.uuid, split.file.name) if reader.uuid else split.file.name)
        if piece.events is None or owner != split.file.name:
            lost[piece.reason if owner == split.file.name else f"a copy of {owner} (same identity)"] += n
            continue
        try:
            scores = scorer.score(piece.events)
        except DataError as error:
            lost[str(error)] += n
            continue
        tables.append(_table(scores, reader.identity(piece), scorer))
        rejected.update(scores.reason[~scores.selected].tolist())
        accepted += scores.accepted.sum(axis=0)
        if scorer.net.spread is not None:
            found = scorer.net.spread.count(scores.hlf)
            histograms = [a + b for a, b in zip(histograms, found, strict=True)] if histograms else found
    lost[NOT_FINITE] += rejected.pop(NOT_FINITE, 0)  # as in ingest
    return Record(
        split=split,
        uuid=reader.uuid.hex() if reader.uuid else None,
        fragment=_write(tables, split, task),
        n_in=reader.stop - reader.start,
        n_out=sum(int(table["selected"].to_numpy().sum()) for table in tables),
        rejected=dict(sorted(rejected.items())),
        lost={reader.unreadable: None} if reader.unreadable else dict(+lost),
        transient=reader.transient,
        accepted={point.stream: int(n) for point, n in zip(task.working_points, accepted, strict=True)},
        histograms=tuple(tuple(counts.tolist()) for counts in histograms),
        seconds=round(time.perf_counter() - started, 4),
    ).write(task.output)


def claim(output: Path, identity: bytes, name: str) -> str:
    """Whose events these are: of ``name``, if no other file has claimed them before."""
    path = output / CLAIMS / identity.hex()
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    part.write_text(name)
    try:
        os.link(part, path)  # whole or not at all, and never over another
    except FileExistsError:
        return path.read_text()
    finally:
        part.unlink()
    return name


def schema(classes: tuple[str, ...], working_points: tuple[WorkingPoint, ...]) -> pa.Schema:
    """Columns of the scores (docs/scoring.md)."""
    fields = [pa.field("event_id", pa.int64(), nullable=False), pa.field("file", pa.string(), nullable=False)]
    fields += [pa.field("entry", pa.int64(), nullable=False), pa.field("selected", pa.bool_(), nullable=False)]
    fields += [pa.field("reason", pa.string()), pa.field("decision", pa.bool_())]
    fields += [pa.field(f"accept_{point.stream}", pa.bool_()) for point in working_points]
    return pa.schema(fields + [pa.field(f"{what}_{name}", pa.float32()) for what in ("p", "logit") for name in classes])


def _table(scores: Scores, identity: Mapping[str, pa.Array], scorer: Scorer) -> pa.Table:
    selected = scores.selected
    points, classes = scorer.working_points, scorer.inputs.classes
    columns: dict[str, Any] = {**identity, "selected": selected, "reason": pa.array(scores.reason, pa.string(), mask=selected)}
    # without a working point nobody has said what to do with an event that has a score
    columns["decision"] = pa.array(scores.accepted.any(axis=1), mask=selected & (len(points) == 0))
    columns |= {f"accept_{point.stream}": scores.accepted[:, i] for i, point in enumerate(points)}
    for what, values in (("p", scores.probabilities), ("logit", scores.logits)):
        columns |= {f"{what}_{name}": pa.array(values[:, i].astype(np.float32), mask=~selected) for i, name in enumerate(classes)}
    return pa.table(columns, schema=schema(classes, points))


def _write(tables: list[pa.Table], split: Split, task: Task) -> str | None:
    if not tables:
        return None
    stem = PurePosixPath(split.file.name).stem
    name = f"{stem}-{split.index:04d}-{split.key}.parquet"
    part = task.output / f".{uuid.uuid4().hex}.part"
    try:
        table = pa.concat_tables(tables)
        about = json.dumps({"key": task.key, "model": task.identity})
        pq.write_table(table.replace_schema_metadata({"hepflow": about}), part, compression="zstd")
        part.replace(task.output / name)
    finally:
        part.unlink(missing_ok=True)
    return name


@lru_cache(maxsize=1)
def _scorer(model: Path, identity: str, physics: str | None, working_points: tuple[WorkingPoint, ...]) -> Scorer:
    """One a process: a worker scores many shares."""
    scorer = Scorer(model, physics, working_points=working_points)
    if scorer.net.identity != identity:
        msg = f"{model}: it has changed since this run began. Run the same command again."
        raise DataError(msg)
    return scorer
