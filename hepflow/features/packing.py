"""Fragments of events -> the plan of a store's parts, which is recorded before one is written.

A run that resumes, or that finds more events, keeps the planned parts whose fragments are
unchanged; the other fragments make new parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from hepflow.data.events import Fragment
from hepflow.data.packing import packed, part_bytes
from hepflow.data.records import read_plan
from hepflow.data.store import EventStore

_size = attrgetter("n_bytes", "n_events")


@dataclass(frozen=True)
class PlannedPart:
    """Fragments that make a part."""

    number: int
    fragments: tuple[Fragment, ...]

    @property
    def n_events(self) -> int:
        """Events in the fragments."""
        return sum(fragment.n_events for fragment in self.fragments)

    @property
    def sources(self) -> dict[str, str]:
        """Fragment -> its fingerprint."""
        return {fragment.name: fragment.fingerprint for fragment in self.fragments}

    def rounds(self, round_bytes: int) -> list[list[Fragment]]:
        """Return the fragments that are in memory together, at most ``round_bytes`` of them."""
        return packed(self.fragments, round_bytes, _size)

    def absolute(self) -> "PlannedPart":
        """Return this part for a process that may run in another folder."""
        fragments = (replace(one, path=one.path.absolute()) for one in self.fragments)
        return replace(self, fragments=tuple(fragments))


def plan_parts(
    store: EventStore, fragments: Sequence[Fragment], most_bytes: int
) -> tuple[list[PlannedPart], list[int]]:
    """Return the parts to write, and the finished ones to discard; nothing is written."""
    wanted = {one.name: one for one in sorted(fragments, key=attrgetter("name"))}
    finished, incomplete = store.sources(), set(store.incomplete().values())
    planned = read_plan(store.path) | finished

    def is_unchanged(name: str, fingerprint: str) -> bool:
        return name in wanted and wanted[name].fingerprint == fingerprint

    kept = {n: own for n, own in planned.items() if all(map(is_unchanged, own, own.values()))}
    missing = kept.keys() - (finished.keys() - incomplete)
    parts = [PlannedPart(n, tuple(map(wanted.__getitem__, sorted(kept[n])))) for n in missing]
    covered = {name for own in kept.values() for name in own}
    new = [fragment for name, fragment in wanted.items() if name not in covered]
    first = max([store.n_numbers, *(number + 1 for number in planned)])
    size = part_bytes(sum(fragment.n_bytes for fragment in fragments), most_bytes)
    groups = packed(new, size, _size)
    parts += [PlannedPart(first + i, tuple(group)) for i, group in enumerate(groups)]
    return parts, sorted((finished.keys() - kept.keys()) | incomplete)
