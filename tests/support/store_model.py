"""A model of a feature store's commit: shards, records of parts, and the group's ``zarr.json``.

Each part has two shards here, x and y, which are published in any order, and a number that is never
given to a part of other events. A shard is called by its number and what it holds.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from tests.support.commit_model import (
    INPUTS,
    Protocol,
    Ranges,
    State,
    Step,
    ends,
    lock_is_free_or_held_by_the_living,
    packings,
    ranges_in,
    text,
)

STANDS_FOR = {
    "lock": "hepflow.system.locks:exclusive",
    "unlock": "hepflow.system.locks:exclusive",
    "list": "hepflow.features.job:_up_to_date",
    "begin": "hepflow.data.store_writer:StoreWriter.create",
    "remove shard": "hepflow.data.store_writer:StoreWriter._sweep",
    "plan": "hepflow.data.records:write_plan",
    "discard": "hepflow.data.store_writer:StoreWriter.discard",
    "shard": "hepflow.data.part_writer:PartWriter.finish",
    "record": "hepflow.data.part_writer:PartWriter.finish",
    "ranges": "hepflow.data.store_writer:StoreWriter._write_ranges",
    "merge": "hepflow.data.records:merge_records",
    "complete": "hepflow.data.store_writer:StoreWriter.finalise",
    "remove record": "hepflow.data.records:remove_single_records",
    "remove plan": "hepflow.data.records:remove_plan",
}

Part = tuple[int, Ranges]  # number, and what it is made of
Parts = frozenset[Part]
Shard = tuple[int, str, Ranges]
ARRAYS = ("x", "y")


class Store(NamedTuple):
    """The disk; ``read`` are the parts that a reader may have opened at some time."""

    begun: bool = False
    complete: bool = False
    n_numbers: int = 0
    shards: frozenset[Shard] = frozenset()
    singles: Parts = frozenset()
    merged: Parts = frozenset()
    plan: Parts = frozenset()
    ranges: Parts = frozenset()
    read: Parts = frozenset()

    @property
    def records(self) -> dict[int, Ranges]:
        """Records as `read_records` returns them: a single one is later than the merged one."""
        return dict(self.merged) | dict(self.singles)

    @property
    def incomplete(self) -> set[int]:
        """Parts of which a shard is missing."""
        there = {(number, name) for number, name, _ in self.shards}
        return {n for n in self.records if any((n, name) not in there for name in ARRAYS)}


class Writer(NamedTuple):
    """A run of the command, which has just begun."""

    step: str = "list"
    wanted: Ranges = frozenset()
    then: str = ""  # step after the sweep
    stale: frozenset[int] = frozenset()
    todo: frozenset[Any] = frozenset()
    gone: tuple[Any, ...] = ()


IDLE = Writer("idle")


def steps(  # noqa: C901 - a case per step
    writer: Writer, disk: Store, now: int, how: Protocol
) -> Iterator[Step]:
    """Yield what a run may do next."""
    match writer.step:
        case "list":
            whole = disk.complete and not disk.incomplete
            if whole and ranges_in(disk.records.values()) == INPUTS[now]:
                yield "list", writer._replace(step="unlock"), disk
            else:
                yield "list", writer._replace(step="begin", wanted=INPUTS[now]), disk
        case "begin":
            after = disk._replace(begun=True, complete=how.commit_first and disk.complete)
            yield "begin", writer._replace(step="sweep", then="plan"), after
        case "sweep" | "discard sweep":
            live = disk.records.keys()
            gone = tuple(sorted((s for s in disk.shards if s[0] not in live), key=_order))
            yield from steps(writer._replace(step="swept", gone=gone), disk, now, how)
        case "swept" if writer.gone:
            (first, *rest) = writer.gone
            after = disk._replace(shards=disk.shards - {first})
            yield f"remove shard:{_name(first)}", writer._replace(gone=tuple(rest)), after
        case "swept":
            yield from steps(writer._replace(step=writer.then), disk, now, how)
        case "plan":
            yield from _plan(writer, disk, how)
        case "discard" if writer.stale:
            left = {one for one in disk.records.items() if one[0] not in writer.stale}
            following = writer._replace(step="discard records", then="parts")
            yield "discard", following, disk._replace(merged=frozenset(left))
        case "discard":
            yield from steps(writer._replace(step="parts"), disk, now, how)
        case "discard records":
            own = frozenset(one for one in disk.singles if one[0] in writer.stale)
            gone = tuple(sorted(own, key=_order))
            following = writer._replace(step="singles", then="discard sweep", gone=gone)
            yield from steps(following, disk, now, how)
        case "singles" if writer.gone:
            (first, *rest) = writer.gone
            after = disk._replace(singles=disk.singles - {first})
            yield f"remove record:{first[0]}", writer._replace(gone=tuple(rest)), after
        case "singles":
            then = "parts" if writer.then == "discard sweep" else ""
            following = writer._replace(step=writer.then, then=then)
            yield from steps(following, disk, now, how)
        case "parts" if writer.todo:
            yield from _parts(writer, disk, how)
        case "parts":
            yield from steps(writer._replace(step="sweep", then="ranges"), disk, now, how)
        case "ranges":
            after = disk._replace(ranges=frozenset(disk.records.items()))
            yield "ranges", writer._replace(step="merge"), after
        case "merge":
            after = disk._replace(merged=frozenset(disk.records.items()))
            yield "merge", writer._replace(step="complete"), after
        case "complete":
            following = writer._replace(
                step="singles", then="remove plan", gone=tuple(sorted(disk.singles, key=_order))
            )
            n_numbers = _numbers(disk)
            after = disk._replace(complete=True, n_numbers=n_numbers, read=disk.read | disk.ranges)
            yield "complete", following, after
        case "remove plan":
            yield "remove plan", writer._replace(step="unlock"), disk._replace(plan=frozenset())
        case "unlock":
            yield "unlock", IDLE, disk


def _numbers(disk: Store) -> int:
    return max([disk.n_numbers, *(number + 1 for number in disk.records)])


def _order(one: Any) -> Any:
    return one[0], str(one[1]), sorted(one[-1])


def _name(shard: Shard) -> str:
    return f"{shard[1]}{shard[0]} {text(shard[2])}"


def _plan(writer: Writer, disk: Store, how: Protocol) -> Iterator[Step]:
    """Keep the planned parts whose events are unchanged, and make new ones, as `plan_parts`."""
    finished = disk.records
    incomplete = set() if how.trust_records else disk.incomplete
    planned = dict(disk.plan) | finished
    kept = {n: own for n, own in planned.items() if how.any_version or own <= writer.wanted}
    missing = kept.keys() - (finished.keys() - incomplete)
    stale = frozenset(finished.keys() - kept.keys()) | incomplete
    first = max([_numbers(disk), *(number + 1 for number in planned)])
    if how.reuse_numbers:
        first = min(stale, default=first)
    for groups in packings(writer.wanted - ranges_in(kept.values())):
        new = enumerate(sorted(groups, key=sorted), first)
        plan = frozenset({*((n, kept[n]) for n in missing), *new})
        todo = frozenset((number, own, frozenset(ARRAYS), False) for number, own in plan)
        following = writer._replace(step="discard", stale=stale, todo=todo)
        yield "plan", following, disk._replace(plan=plan)


def _parts(writer: Writer, disk: Store, how: Protocol) -> Iterator[Step]:
    """Publish the shards of a part in any order, then its record."""
    for task in writer.todo:
        number, own, left, has_record = task
        rest = writer.todo - {task}
        for name in left if has_record == how.record_first else ():
            others = frozenset(s for s in disk.shards if s[:2] != (number, name))
            after = disk._replace(shards=others | {(number, name, own)})
            more = (number, own, left - {name}, has_record)
            todo = rest if has_record and not left - {name} else rest | {more}
            yield f"shard:{name}{number} {text(own)}", writer._replace(todo=todo), after
        if not has_record and (how.record_first or not left):
            after = disk._replace(singles=_recorded(disk, number, own))
            todo = rest | {(number, own, left, True)} if left else rest
            yield f"record:{number}", writer._replace(todo=todo), after


def _recorded(disk: Store, number: int, own: Ranges) -> Parts:
    return frozenset(one for one in disk.singles if one[0] != number) | {(number, own)}


def invariants(how: Protocol) -> dict[str, Any]:
    """Return what holds at every moment."""

    def is_there(state: State) -> bool:
        disk = state.disk
        shards = {(number, name, own) for number, own in disk.ranges for name in ARRAYS}
        return not disk.complete or shards <= disk.shards

    def one_version(state: State) -> bool:
        disk = state.disk
        return not disk.complete or ranges_in(own for _, own in disk.ranges) in INPUTS.values()

    def once(state: State) -> bool:
        parts = [own for _, own in state.disk.ranges]
        return not state.disk.complete or sum(map(len, parts)) == len(ranges_in(parts))

    def stays_true(state: State) -> bool:
        read = dict(state.disk.read)
        return all(read.get(number, own) == own for number, _, own in state.disk.shards)

    @cache
    def brings_up_to_date(disk: Store, now: int) -> bool:
        return all(_is_finished(left, now) for left in ends(disk, now, how, steps, IDLE, Writer()))

    def rerun_ends(state: State) -> bool:
        free = lock_is_free_or_held_by_the_living(state, IDLE)
        return free and brings_up_to_date(state.disk, state.input)

    return {
        "what the store lists is there": is_there,
        "a reader sees one version": one_version,
        "no event twice": once,
        "what was read of a shard stays true": stays_true,
        "a rerun ends, and none is lost": rerun_ends,
    }


def _is_finished(disk: Store, now: int) -> bool:
    shards = {(number, name, own) for number, own in disk.ranges for name in ARRAYS}
    listed = ranges_in(own for _, own in disk.ranges) == INPUTS[now]
    return disk.complete and listed and disk.shards == shards


START = State(Store(), (IDLE, IDLE))
