"""Work of a Spark executor: messages -> scores and a report per message. It writes no files."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from hepflow.errors import DataError
from hepflow.score.kafka.messages import Malformed, decode, encode
from hepflow.score.task import Tally, Task, scorer_of

SCHEMA = "topic string, partition int, offset bigint, time_ms bigint, report string, scores binary"
"""One row per message; ``report``: a `Report` as JSON; ``scores``: an Arrow IPC stream."""


@dataclass(frozen=True)
class Report:
    """Outcome of a message."""

    reason: str = ""
    """Why it has no scores."""
    digest: str = ""
    """Hash of its event_ids."""
    n_in: int = 0
    n_not_finite: int = 0
    n_out: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    histograms: Sequence[Sequence[int]] = ()


def score_messages(
    batches: Iterable[pa.RecordBatch], task: Task, most_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Return a row of `SCHEMA` per message."""
    for batch in batches:
        rows = []
        for row in batch.to_pylist():
            value, gone, scores = row.pop("value"), row.pop("gone"), None
            report = Report(gone or "")
            try:
                if gone is None:
                    content, tally = decode(value, most_bytes), Tally(scorer_of(task))
                    tally.add(content.events, content.identity)
                    report = Report(
                        digest=content.digest,
                        n_in=len(content.events),
                        n_not_finite=tally.n_not_finite,
                        n_out=tally.n_out,
                        rejected=tally.rejected,
                        accepted=tally.accepted,
                        histograms=tally.histograms,
                    )
                    scores = encode(tally.tables[0])
            except (Malformed, DataError) as error:
                report = Report(str(error))
            rows.append({**row, "report": json.dumps(report.__dict__), "scores": scores})
        yield pa.RecordBatch.from_pylist(rows, _ARROW)


_ARROW = pa.schema(
    {
        "topic": pa.string(),
        "partition": pa.int32(),
        "offset": pa.int64(),
        "time_ms": pa.int64(),
        "report": pa.string(),
        "scores": pa.binary(),
    }
)
