"""Two writers, a lock, deaths, and changing input: what the models of commits have in common.

The input are two entry ranges (or fragments of events), ``a`` and ``b``; ``b`` changes once, at any
moment. What is written is called by what it holds: ``a1 b1`` are both in their first version.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.model_check import Actions

Range = tuple[str, int]  # name and version
Ranges = frozenset[Range]
Several = frozenset[Ranges]

INPUTS: dict[int, Ranges] = {
    1: frozenset({("a", 1), ("b", 1)}),
    2: frozenset({("a", 1), ("b", 2)}),
}
NONE: Several = frozenset()


@dataclass(frozen=True)
class Protocol:
    """What writers do; the defaults are hepflow's, and the others are errors."""

    lock: str = "flock"
    """flock: it ends with its writer; file: it stays when its writer dies; stale: others take it
    over from a writer that is only slow; none."""
    record_first: bool = False
    trust_records: bool = False  # without looking for the file
    overlap: bool = False  # records of the same events count, too
    any_version: bool = False  # records of older input count, too
    remove_first: bool = False  # what the commit will not name
    commit_first: bool = False
    reuse_numbers: bool = False


class State(NamedTuple):
    """The disk, and everybody."""

    disk: Any
    writers: tuple[Any, Any]
    input: int = 1
    holder: int | None = None
    runs: tuple[int, int] = (2, 2)  # that each may still begin
    deaths: int = 2


Step = tuple[str, Any, Any]  # label, and the writer and the disk afterwards
Steps = Callable[[Any, Any, int, Protocol], Iterator[Step]]


def two_writers(how: Protocol, steps: Steps, idle: Any, begin: Any) -> Actions[State]:
    """Return the actions of two writers that run the command; the last of a run is ``unlock``."""

    def actions(state: State) -> Iterator[tuple[str, State]]:
        if state.input == 1:
            yield "change", state._replace(input=2)
        for i, writer in enumerate(state.writers):
            if writer == idle:
                if state.runs[i] and (state.holder is None or how.lock in {"stale", "none"}):
                    label = "lock" if state.holder is None else "take over"
                    runs, writers = list(state.runs), _put(state.writers, i, begin)
                    runs[i] -= 1
                    after = state._replace(holder=i, writers=writers, runs=(runs[0], runs[1]))
                    yield f"{label}:{i}", after
                continue
            for label, following, disk in steps(writer, state.disk, state.input, how):
                holder = None if label == "unlock" and state.holder == i else state.holder
                writers = _put(state.writers, i, following)
                yield label, state._replace(disk=disk, holder=holder, writers=writers)
            if state.deaths:
                holder = None if state.holder == i and how.lock != "file" else state.holder
                writers, deaths = _put(state.writers, i, idle), state.deaths - 1
                yield f"death:{i}", state._replace(holder=holder, writers=writers, deaths=deaths)

    return actions


def _put(writers: tuple[Any, Any], i: int, writer: Any) -> tuple[Any, Any]:
    return (writer, writers[1]) if i == 0 else (writers[0], writer)


def ends(disk: Any, now: int, how: Protocol, steps: Steps, idle: Any, begin: Any) -> Iterator[Any]:
    """Yield what one more run, undisturbed, leaves, whatever it decides."""
    waiting, seen = [(begin, disk)], set()
    while waiting:
        writer, left = waiting.pop()
        if (writer, left) in seen:
            continue
        seen.add((writer, left))
        if writer == idle:
            yield left
        else:
            waiting += [(after, then) for _, after, then in steps(writer, left, now, how)]


def lock_is_free_or_held_by_the_living(state: State, idle: Any) -> bool:
    return state.holder is None or state.writers[state.holder] != idle


def packings(left: Ranges) -> Iterator[Several]:
    """Yield the ways to make tasks, or parts, of some ranges."""
    yield frozenset(frozenset({one}) for one in left)
    if len(left) == 2:
        yield frozenset({left})


def ranges_in(several: Iterable[Ranges]) -> Ranges:
    return frozenset[Range]().union(*several)


def in_order(several: Iterable[Ranges]) -> tuple[Ranges, ...]:
    return tuple(sorted(several, key=sorted))


def text(ranges: Ranges) -> str:
    return " ".join(f"{name}{version}" for name, version in sorted(ranges))
