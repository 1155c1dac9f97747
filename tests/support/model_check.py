"""Explicit-state model checking: every state that some actions reach, and the first wrong one."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
Actions = Callable[[S], Iterable[tuple[str, S]]]
Invariants = Mapping[str, Callable[[S], bool]]


@dataclass(frozen=True)
class Explored(Generic[S]):
    """All states that can be reached; or, if an invariant is violated, the shortest way there."""

    n_states: int
    violated: str = ""
    way: tuple[str, ...] = ()


def explore(start: S, actions: Actions[S], invariants: Invariants[S]) -> Explored[S]:
    """Reach every state, breadth first, and check each."""
    came_from: dict[S, tuple[S, str] | None] = {start: None}
    waiting = deque([start])

    def way_to(state: S) -> Iterator[str]:
        while (step := came_from[state]) is not None:
            state, label = step
            yield label

    while waiting:
        state = waiting.popleft()
        for name, holds in invariants.items():
            if not holds(state):
                return Explored(len(came_from), name, (*reversed([*way_to(state)]),))
        for label, following in actions(state):
            if following not in came_from:
                came_from[following] = state, label
                waiting.append(following)
    return Explored(len(came_from))


def follows(start: S, actions: Actions[S], trace: Iterable[str], hidden: Iterable[str]) -> str:
    """Return the first step of a trace that the model does not allow; nothing if it allows all.

    Labels begin with the kind of an action, and a trace has the kinds; ``hidden`` kinds are not in
    it.
    """
    silent = set(hidden)

    def closed(states: set[S]) -> set[S]:
        found, waiting = set(states), list(states)
        while waiting:
            for label, following in actions(waiting.pop()):
                if label.split(":")[0] in silent and following not in found:
                    found.add(following)
                    waiting.append(following)
        return found

    states = closed({start})
    for number, step in enumerate(trace):
        steps = ((label, following) for state in states for label, following in actions(state))
        states = closed({following for label, following in steps if label.split(":")[0] == step})
        if not states:
            return f"{step} (step {number})"
    return ""
