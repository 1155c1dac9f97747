"""The shares of a run as Dask tasks, for batch and live alike."""

from concurrent.futures import CancelledError

from distributed import Client, Future, KilledWorker

from hepflow.ingest.splits import Split
from hepflow.physics import own
from hepflow.score.task import WORKER_DIED, Record, Task, score_share


def upload(client: Client, task: Task) -> None:
    """Give the workers a user's own physics, if it is a loose file."""
    loose = own.loose_file(task.physics)
    if loose is not None:
        client.upload_file(str(loose))


def submit(client: Client, split: Split, task: Task) -> Future:
    """Hand a share to a worker."""
    return client.submit(score_share, split, task, pure=False, retries=0)


def outcome(future: Future, split: Split, task: Task) -> Record:
    """What came of a share; one that takes its workers down again and again is given up, so that one file cannot stop the rest."""
    try:
        record: Record = future.result()
    except (KilledWorker, CancelledError):
        record = Record(split, lost={WORKER_DIED: None}, transient=True).write(task.output)
    return record


def told(record: Record) -> str:
    """A record that lost events, in words."""
    n_lost = sum(n or 0 for n in record.lost.values())
    events = "an unknown number of" if None in record.lost.values() else f"{n_lost:,}"
    return f"{record.split.file.name}, {events} events lost: {'; '.join(record.lost)}"
