"""What an executor does: messages -> the scores of their events, and what became of each. It writes nothing, the driver does."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from hepflow.errors import DataError
from hepflow.score.kafka.messages import Malformed, decode, encode
from hepflow.score.task import Tally, Task, scorer_of

SCHEMA = "topic string, partition int, offset bigint, time_ms bigint, report string, scores binary"
"""A row a message; ``report``: a `Report` as JSON; ``scores``: an Arrow IPC stream."""


@dataclass(frozen=True)
class Report:
    """What became of a message."""

    reason: str = ""
    """Why it has no scores."""
    digest: str = ""
    """Of its event_ids."""
    n_in: int = 0
    n_not_finite: int = 0
    n_out: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    histograms: Sequence[Sequence[int]] = ()


def score_messages(
    batches: Iterable[pa.RecordBatch], task: Task, most_bytes: int
) -> Iterator[pa.RecordBatch]:
    """What an executor does: a row for each message, with its report and its scores as an Arrow IPC stream."""
    for batch in batches:
        reports, scores = [], []
        for value, gone in zip(batch["value"], batch["gone"].to_pylist(), strict=True):
            report, table = _score(value.as_py(), gone, task, most_bytes)
            reports.append(json.dumps(report.__dict__))
            scores.append(None if table is None else encode(table))
        where = [batch[name] for name in ("topic", "partition", "offset", "time_ms")]
        names = [column.partition(" ")[0] for column in SCHEMA.split(", ")]
        yield pa.RecordBatch.from_arrays(
            [*where, pa.array(reports, pa.string()), pa.array(scores, pa.binary())], names=names
        )


def _score(
    value: bytes | None, gone: str | None, task: Task, most_bytes: int
) -> tuple[Report, pa.Table | None]:
    if gone is not None:
        return Report(gone), None
    try:
        content = decode(value, most_bytes)
        tally = Tally(scorer_of(task))
        tally.add(content.events, content.identity)
    except (Malformed, DataError) as error:
        return Report(str(error)), None
    return Report(
        "", content.digest, len(content.events), tally.n_not_finite, **tally.counts
    ), tally.tables[0]
