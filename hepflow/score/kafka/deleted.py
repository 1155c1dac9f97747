"""Messages that the broker deleted before they were read: counted, named, never left out silently.

The source of this package reports them itself. Spark's connector would end the query for good, so
it is told to go on, and `Skipped` compares the messages of a micro-batch with its offsets.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from hepflow.score.kafka.source import FIRST, offsets_in
from hepflow.score.kafka.task import deleted
from hepflow.score.kafka.topic import Topic
from hepflow.system.terminal import counted


def place_of(row: Mapping[str, Any], last: int | None = None) -> str:
    """Return the name of a message, or of those up to ``last``: ``topic[partition]@offset``."""
    until = "" if last is None or last == row["offset"] else f"-{last}"
    return f"{row['topic']}[{row['partition']}]@{row['offset']}{until}"


def earlier(n: int, reason: str) -> str:
    """Return the name of messages that are no longer named one by one."""
    return f"{counted(n, 'earlier message')} ({reason})"


def n_messages(place: str) -> int:
    """Return the number of messages at a place."""
    if found := re.search(r"@(\d+)-(\d+)$", place):
        return int(found[2]) - int(found[1]) + 1
    found = re.match(r"([\d,]+) earlier messages? \(", place)
    return int(found[1].replace(",", "")) if found else 1


class Skipped:
    """Messages within a micro-batch's offsets that it lacks, as the broker has deleted them.

    Offsets without a message are otherwise those of transactions, and gaps of a compacted topic.
    They are told apart by the first offset that the broker has after the reading: if deletion
    reaches it while it is read, a gap may count as deleted.
    """

    def __init__(self, topic: Topic, checkpoint: Path, timeout_s: float) -> None:
        self.topic, self.checkpoint, self.timeout_s = topic, checkpoint, timeout_s

    def rows(self, number: int, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows of missing messages, as those of `hepflow.score.kafka.task`."""
        files = [f"offsets/{number - 1}" if number else FIRST, f"offsets/{number}"]
        start, end = (offsets_in(self.checkpoint / file)[self.topic.name] for file in files)
        self.topic.require_same(start, end)
        here: dict[str, set[int]] = {partition: set() for partition in end}
        for row in rows:
            last = json.loads(row["report"])["last"] or row["offset"]
            here[str(row["partition"])].update(range(row["offset"], last + 1))
        missing = {p: [*_runs(start.get(p, 0), here[p], stop)] for p, stop in end.items()}
        missing = {partition: runs for partition, runs in missing.items() if runs}
        found = []
        for partition, low in self._first(missing).items():
            for first, stop in missing[partition]:
                if first < low:
                    where = {"topic": self.topic.name, "partition": int(partition), "offset": first}
                    report = deleted(first, min(stop, low) - 1).to_json()
                    found.append({**where, "time_ms": None, "report": report, "scores": None})
        return found

    def _first(self, partitions: Iterable[str]) -> dict[str, int]:
        """Return partition -> the first message that the broker still has."""
        places = {p: TopicPartition(self.topic.name, int(p)) for p in partitions}
        if not places:
            return {}
        wanted = {place: OffsetSpec.earliest() for place in places.values()}
        found = self._admin.list_offsets(wanted, request_timeout=self.timeout_s)
        return {p: found[place].result(self.timeout_s).offset for p, place in places.items()}

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient(self.topic.client())


def _runs(start: int, here: set[int], stop: int) -> Iterator[tuple[int, int]]:
    """Yield the first offset, and the one after the last, of each gap."""
    at = start
    for offset in [*sorted(here), stop]:
        if at < offset:
            yield at, offset
        at = offset + 1
