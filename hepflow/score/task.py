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

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepflow.data.ledger import Ledger, Lost
from hepflow.errors import DataError
from hepflow.physics.skim import NOT_FINITE
from hepflow.reading.ranges import EntryRange, SourceFile
from hepflow.reading.reader import Access
from hepflow.score.inputs import reader_of
from hepflow.score.scorer import Scorer, Scores
from hepflow.score.working_points import WorkingPoint
from hepflow.system.files import write_json

RECORDS, CLAIMS = "_records", "_claims"


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
    """What became of a share of a file, or of a micro-batch of messages."""

    key: str
    """Names it among the records."""
    name: str
    """File below the input, or the micro-batch."""
    split: EntryRange | None = None
    """The share; None of a micro-batch."""
    uuid: str | None = None
    """Identity of the file; None where it could not be opened."""
    messages: Mapping[str, str] = field(default_factory=dict)
    """Of a micro-batch: identity of the events of a message -> where it lies."""
    fragment: str | None = None
    """Parquet file of the scores; None where there is no readable event."""
    n_in: int = 0
    n_out: int = 0
    """Events with a score."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    lost: tuple[Lost, ...] = ()
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
        return Ledger(self.n_in, self.n_out, self.rejected, self.lost).check()

    def write(self, output: Path) -> Self:
        """Put it into the folder of the records: from then on the share is done."""
        write_json(output / RECORDS / f"{self.key}.json", asdict(self))
        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From plain types."""
        split = data["split"] and EntryRange(
            SourceFile(**data["split"]["file"]), data["split"]["index"], data["split"]["count"]
        )
        lost, histograms = (
            tuple(Lost(**item) for item in data["lost"]),
            tuple(tuple(row) for row in data["histograms"]),
        )
        return cls(**{**data, "split": split, "lost": lost, "histograms": histograms})


class Tally:
    """Scores of one chunk of events after another, and what they add up to."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.tables: list[pa.Table] = []
        self.n_out = 0
        self.rejected: Counter[str] = Counter()
        self.n_not_finite = 0
        self.histograms: list[np.ndarray] = []
        self._accepted = np.zeros(len(scorer.working_points), dtype=np.int64)

    def add(self, events: ak.Array, identity: Mapping[str, pa.Array]) -> None:
        """Score a chunk.

        Raises
        ------
        DataError
            It cannot be; nothing of it has been added.
        """
        scores = self.scorer.score(events)
        self.tables.append(_table(scores, identity, self.scorer))
        self.n_out += int(scores.selected.sum())
        self.rejected.update(scores.reason[~scores.selected].tolist())
        self.n_not_finite += self.rejected.pop(NOT_FINITE, 0)  # lost, as in ingest
        self._accepted += scores.accepted.sum(axis=0)
        if self.scorer.net.spread is not None:
            found = self.scorer.net.spread.count(scores.hlf)
            self.histograms = (
                [a + b for a, b in zip(self.histograms, found, strict=True)]
                if self.histograms
                else found
            )

    @property
    def counts(self) -> dict[str, Any]:
        """What a record says of them."""
        return {
            "n_out": self.n_out,
            "rejected": dict(sorted(self.rejected.items())),
            "accepted": {
                point.stream: int(n)
                for point, n in zip(self.scorer.working_points, self._accepted, strict=True)
            },
            "histograms": tuple(tuple(counts.tolist()) for counts in self.histograms),
        }


def score_share(split: EntryRange, task: Task) -> Record:
    """Read, score and write a share of a file.

    Raises
    ------
    DataError
        The model file has changed since the run began.
    """
    started = time.perf_counter()
    tally, reader = Tally(scorer_of(task)), reader_of(split, task.access)
    name, owner = split.file.name, None
    lost: Counter[str] = Counter()
    for piece in reader.chunks():
        n = piece.stop - piece.start
        owner = owner or (claim(task.output, reader.uuid, name) if reader.uuid else name)
        if piece.events is None or owner != name:
            lost[piece.reason if owner == name else f"a copy of {owner} (same identity)"] += n
            continue
        try:
            tally.add(piece.events, reader.identity(piece))
        except DataError as error:
            lost[str(error)] += n
    lost[NOT_FINITE] += tally.n_not_finite
    reasons: dict[str, int | None] = {reader.unreadable: None} if reader.unreadable else dict(+lost)
    return Record(
        key=split.key,
        name=name,
        split=split,
        uuid=reader.uuid.hex() if reader.uuid else None,
        fragment=write_scores(
            tally.tables, f"{PurePosixPath(name).stem}-{split.index:04d}-{split.key}", task
        ),
        n_in=reader.stop - reader.start,
        lost=tuple(Lost(name, reason, n) for reason, n in reasons.items()),
        transient=reader.transient,
        seconds=round(time.perf_counter() - started, 4),
        **tally.counts,
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
    fields = [
        pa.field("event_id", pa.int64(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
    ]
    fields += [
        pa.field("entry", pa.int64(), nullable=False),
        pa.field("selected", pa.bool_(), nullable=False),
    ]
    fields += [pa.field("reason", pa.string()), pa.field("decision", pa.bool_())]
    fields += [pa.field(f"accept_{point.stream}", pa.bool_()) for point in working_points]
    return pa.schema(
        fields
        + [pa.field(f"{what}_{name}", pa.float32()) for what in ("p", "logit") for name in classes]
    )


def _table(scores: Scores, identity: Mapping[str, pa.Array], scorer: Scorer) -> pa.Table:
    selected = scores.selected
    points, classes = scorer.working_points, scorer.inputs.classes
    columns: dict[str, Any] = {
        **identity,
        "selected": selected,
        "reason": pa.array(scores.reason, pa.string(), mask=selected),
    }
    # without a working point nobody has said what to do with an event that has a score
    columns["decision"] = pa.array(scores.accepted.any(axis=1), mask=selected & (len(points) == 0))
    columns |= {f"accept_{point.stream}": scores.accepted[:, i] for i, point in enumerate(points)}
    for what, values in (("p", scores.probabilities), ("logit", scores.logits)):
        columns |= {
            f"{what}_{name}": pa.array(values[:, i].astype(np.float32), mask=~selected)
            for i, name in enumerate(classes)
        }
    return pa.table(columns, schema=schema(classes, points))


def write_scores(tables: list[pa.Table], stem: str, task: Task) -> str | None:
    """Put the scores into a file, whole or not at all; its name, or None where there are none."""
    if not tables:
        return None
    part = task.output / f".{uuid.uuid4().hex}.part"
    try:
        table = pa.concat_tables(tables)
        about = json.dumps({"key": task.key, "model": task.identity})
        pq.write_table(table.replace_schema_metadata({"hepflow": about}), part, compression="zstd")
        part.replace(task.output / f"{stem}.parquet")
    finally:
        part.unlink(missing_ok=True)
    return f"{stem}.parquet"


def scorer_of(task: Task) -> Scorer:
    """One a process: a worker scores many shares.

    Raises
    ------
    DataError
        The model file has changed since the run began.
    """
    return _scorer(task.model, task.identity, task.physics, task.working_points)


@lru_cache(maxsize=1)
def _scorer(
    model: Path, identity: str, physics: str | None, working_points: tuple[WorkingPoint, ...]
) -> Scorer:
    scorer = Scorer(model, physics, working_points=working_points)
    if scorer.net.identity != identity:
        raise DataError(
            f"{model}: it has changed since this run began. Run the same command again."
        )
    return scorer
