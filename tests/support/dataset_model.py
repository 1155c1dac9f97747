"""A model of ingest's commit: fragments, records, ``_records/finished.jsonl``, ``_hepflow.json``.

Each action is one change that readers and other writers can see. What a writer only reads is a part
of the action before.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

from tests.support.commit_model import (
    INPUTS,
    NONE,
    Protocol,
    Ranges,
    Several,
    State,
    Step,
    ends,
    in_order,
    lock_is_free_or_held_by_the_living,
    packings,
    ranges_in,
    text,
)

STANDS_FOR = {
    "lock": "hepflow.system.locks:exclusive",
    "unlock": "hepflow.system.locks:exclusive",
    "take over": "hepflow.system.locks:_claimed",
    "list": "hepflow.ingest.dataset:is_up_to_date",
    "finished": "hepflow.ingest.dataset:finished",
    "fragment": "hepflow.data.fragment_writer:FragmentWriter.finish",
    "record": "hepflow.ingest.task:run_task",
    "merge": "hepflow.data.task_records:merge_records",
    "catalogue": "hepflow.data.catalog:write_catalog",
    "marker": "hepflow.data.output:write_marker",
    "remove fragment": "hepflow.ingest.dataset:sweep",
    "remove record": "hepflow.data.task_records:remove_single_records",
}


class Dataset(NamedTuple):
    """The disk: fragments, and records by what their fragments hold."""

    fragments: Several = NONE
    singles: Several = NONE
    merged: Several | None = None
    marker: Several | None = None


class Writer(NamedTuple):
    """A run of the command, which has just begun."""

    step: str = "list"
    wanted: Ranges = frozenset()
    records: Several = NONE
    tasks: frozenset[tuple[Ranges, bool]] = frozenset()  # and whether half of each is done
    gone: tuple[Ranges, ...] = ()


IDLE = Writer("idle")


def steps(  # noqa: C901 - a case per step
    writer: Writer, disk: Dataset, now: int, how: Protocol
) -> Iterator[Step]:
    """Yield what a run may do next."""
    match writer.step:
        case "list":
            wanted, marker = INPUTS[now], disk.marker
            if marker is not None and ranges_in(marker) == wanted and marker <= disk.fragments:
                yield "list", _sweep(writer, "sweep", disk, marker), disk
            else:
                yield "list", writer._replace(step="finished", wanted=wanted), disk
        case "finished":
            records = finished(writer.wanted, disk, how)
            for tasks in packings(writer.wanted - ranges_in(records)):
                todo = frozenset((one, False) for one in tasks)
                yield "finished", writer._replace(step="tasks", records=records, tasks=todo), disk
        case "tasks" if writer.tasks:
            yield from _tasks(writer, disk, how)
        case "tasks":
            following = writer._replace(step="merge")
            if how.remove_first:
                following = _sweep(writer, "early sweep", disk, writer.records)
            yield from steps(following, disk, now, how)
        case "merge":
            after = disk._replace(merged=writer.records)
            yield "merge", writer._replace(step="catalogue"), after
        case "catalogue":
            yield "catalogue", writer._replace(step="marker"), disk
        case "marker":
            after = disk._replace(marker=writer.records)
            yield "marker", _sweep(writer, "sweep", after, writer.records), after
        case "sweep" | "early sweep" if writer.gone:
            first, *rest = writer.gone
            after = disk._replace(fragments=disk.fragments - {first})
            yield f"remove fragment:{text(first)}", writer._replace(gone=tuple(rest)), after
        case "early sweep":
            yield from steps(writer._replace(step="merge"), disk, now, how)
        case "sweep":
            gone = () if disk.merged is None else in_order(disk.singles)
            yield from steps(writer._replace(step="records", gone=gone), disk, now, how)
        case "records" if writer.gone:
            first, *rest = writer.gone
            after = disk._replace(singles=disk.singles - {first})
            yield f"remove record:{text(first)}", writer._replace(gone=tuple(rest)), after
        case "records":
            yield "unlock", IDLE, disk


def finished(wanted: Ranges, disk: Dataset, how: Protocol) -> Several:
    """Return the records that count: single ones first, and each range in one of them at most."""
    found, left = set[Ranges](), wanted
    for one in (*in_order(disk.singles), *in_order((disk.merged or NONE) - disk.singles)):
        fits = how.any_version or one <= (wanted if how.overlap else left)
        if fits and (how.trust_records or one in disk.fragments):
            found.add(one)
            left -= one
    return frozenset(found)


def _tasks(writer: Writer, disk: Dataset, how: Protocol) -> Iterator[Step]:
    for task in writer.tasks:
        one, half = task
        if half == how.record_first:
            label, after = "fragment", disk._replace(fragments=disk.fragments | {one})
        else:
            label, after = "record", disk._replace(singles=disk.singles | {one})
        left, records = writer.tasks - {task}, writer.records
        left, records = (left, records | {one}) if half else (left | {(one, True)}, records)
        yield f"{label}:{text(one)}", writer._replace(tasks=left, records=records), after
    planned = writer.records | {one for one, _ in writer.tasks}
    if how.commit_first and disk.marker != planned:
        yield "marker", writer, disk._replace(marker=planned)


def _sweep(writer: Writer, step: str, disk: Dataset, live: Several) -> Writer:
    return writer._replace(step=step, gone=in_order(disk.fragments - live))


def invariants(how: Protocol) -> dict[str, Any]:
    """Return what holds at every moment.

    After a lock was taken over from a writer that goes on, a fragment may be missing, which is an
    error to readers until the next run.
    """

    def is_there(state: State) -> bool:
        marker = state.disk.marker
        return how.lock == "stale" or marker is None or marker <= state.disk.fragments

    def one_version(state: State) -> bool:
        marker = state.disk.marker
        return marker is None or ranges_in(marker) in INPUTS.values()

    def once(state: State) -> bool:
        marker = state.disk.marker or NONE
        return sum(map(len, marker)) == len(ranges_in(marker))

    @cache
    def brings_up_to_date(disk: Dataset, now: int) -> bool:
        return all(
            ranges_in(left.marker or NONE) == INPUTS[now]
            and left.fragments == left.marker
            and not left.singles
            for left in ends(disk, now, how, steps, IDLE, Writer())
        )

    def rerun_ends(state: State) -> bool:
        free = lock_is_free_or_held_by_the_living(state, IDLE)
        return free and brings_up_to_date(state.disk, state.input)

    return {
        "what the marker names is there": is_there,
        "a reader sees one version": one_version,
        "no event twice": once,
        "a rerun ends, and none is lost": rerun_ends,
    }


START = State(Dataset(), (IDLE, IDLE))


def fragments_of(*names: Iterable[tuple[str, int]]) -> Several:
    """Return fragments by what they hold."""
    return frozenset(map(frozenset, names))
