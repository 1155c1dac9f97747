"""The shares of a run as Dask tasks, for batch and live alike."""

from collections.abc import Sequence
from concurrent.futures import CancelledError

from distributed import Client, Future, KilledWorker

from hepflow.data.ledger import Lost
from hepflow.physics import own
from hepflow.reading.ranges import EntryRange
from hepflow.reading.record import WORKER_DIED
from hepflow.score.task import Record, Task, score_share
from hepflow.system.terminal import counted


def upload(client: Client, task: Task) -> None:
    """Give the workers a user's own physics, if it is a loose file."""
    loose = own.loose_file(task.physics)
    if loose is not None:
        client.upload_file(str(loose))


def submit(client: Client, split: EntryRange, task: Task) -> Future:
    """Hand a share to a worker."""
    return client.submit(score_share, split, task, pure=False, retries=0)


def outcome(future: Future, split: EntryRange, task: Task) -> Record:
    """What came of a share; one that takes its workers down again and again is given up, so that one file cannot stop the rest."""
    try:
        record: Record = future.result()
    except (KilledWorker, CancelledError):
        record = Record(
            split.key,
            split.file.name,
            split,
            lost=(Lost(split.file.name, WORKER_DIED),),
            transient=True,
        ).write(task.output)
    return record


def told(lost: Sequence[Lost]) -> str:
    """What was lost of one file or message, in words."""
    n_lost = sum(item.events or 0 for item in lost)
    events = (
        "an unknown number of events"
        if any(item.events is None for item in lost)
        else counted(n_lost, "event")
    )
    return f"{lost[0].file}, {events} lost: {'; '.join(item.reason for item in lost)}"
