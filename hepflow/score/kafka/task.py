"""Work of a Spark executor: messages -> scores and a report per message. It writes no files."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Self

import pyarrow as pa

from hepflow.errors import ConfigError, DataError, one_line
from hepflow.score.fragment import table_of
from hepflow.score.kafka.messages import Content, Malformed, decode, encode
from hepflow.score.kafka.rows import arrow_of
from hepflow.score.scorer import Scorer, Scores
from hepflow.score.task import Tally, Task, scorer_of
from hepflow.system.terminal import counted

SCHEMA = "topic string, partition int, offset bigint, time_ms bigint, report string, scores binary"
"""One row per message; ``report``: a `Report` as JSON; ``scores``: an Arrow IPC stream."""


@dataclass(frozen=True)
class Report:
    """Outcome of a message; in a row as JSON."""

    reason: str = ""  # why it has no scores
    last: int | None = None  # last of the deleted messages, if it stands for these
    digest: str = ""  # hash of its event_ids
    n_in: int = 0
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the report in a row."""
        data = json.loads(text)
        return cls(**{**data, "tally": Tally(**data["tally"])})

    def to_json(self) -> str:
        """Return the text in a row."""
        return json.dumps(asdict(self))


def failed(error: str) -> str:
    """Return the reason for which a message has no scores, although it can be read."""
    return f"scoring it fails ({error[:200]})"


def deleted(first: int, last: int) -> Report:
    """Return the report of messages that the broker deleted before they were read."""
    return Report(f"{counted(last - first + 1, 'message')} deleted before being read", last)


def pass_on(batches: Iterable[pa.RecordBatch], task: Task) -> Iterator[pa.RecordBatch]:
    """Load the net into this process, and return what came in."""
    scorer_of(task)
    yield from batches


def score_messages(
    batches: Iterable[pa.RecordBatch], task: Task, most_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Return a row of `SCHEMA` per message.

    An error of its content costs a message its scores. One of the model or of a disk is raised: no
    message may be lost to it.
    """
    scorer = scorer_of(task)
    for batch in batches:
        rows = []
        for row in batch.to_pylist():
            value, gone, table = row.pop("value"), row.pop("gone"), None
            report = Report() if gone is None else deleted(row["offset"], gone)
            try:
                if gone is None:
                    content = decode(value, most_bytes)
                    scores = _scores(content, scorer)
                    table = encode(table_of(scores, content.identity, scorer))
                    tally = Tally.of(scores, scorer)
                    report = Report("", None, content.digest, len(content), tally)
            except (Malformed, DataError) as error:
                report = Report(str(error))
            except (OSError, MemoryError, ConfigError):
                raise
            except Exception as error:  # noqa: BLE001 - a user's physics may raise anything
                report = Report(failed(f"{type(error).__name__}: {one_line(error)}"))
            rows.append({**row, "report": report.to_json(), "scores": table})
        yield pa.RecordBatch.from_pylist(rows, arrow_of(SCHEMA))


def _scores(content: Content, scorer: Scorer) -> Scores:
    if scorer.physics is None:
        return scorer.score_columns(content.columns, content.finite)
    return scorer.score(content.events)
