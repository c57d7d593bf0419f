"""Which step is to start next: ready steps in the order of the critical path. Pure: it starts and writes nothing.

In: the steps to do, each after those it needs. Out: one ready step at a time, and what a failure blocks. The path of a
step is its own cost plus the longest chain of costs that waits for it; the longest path starts first, then the longest
step, then the first of the list. Source: highest level first (Hu 1961), a list schedule.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sweeps.core.step import Step

State = Literal["waiting", "ready", "running", "succeeded", "failed", "blocked"]
_ENDED = ("succeeded", "failed", "blocked")

Wanted = Callable[[Step], bool]
"""Whether a step may start now; asked of the first ready step of each kind."""


def any_step(step: Step) -> bool:
    """Return True: every step is wanted."""
    return True


@dataclass(slots=True, eq=False)
class _Item:
    """A step of the schedule and what is known of it."""

    step: Step
    index: int
    path: float = 0.0
    state: State = "waiting"
    num_unmet: int = 0
    """Needs within the schedule that have not succeeded."""

    @property
    def order(self) -> tuple[float, float, int]:
        return (-self.path, -self.step.cost, self.index)

    def __lt__(self, other: _Item) -> bool:
        return self.order < other.order


@dataclass(slots=True)
class _Ready:
    """The ready steps of a kind, in order; some of a heap may be ready no more."""

    heap: list[_Item] = field(default_factory=list)

    def push(self, item: _Item) -> None:
        heapq.heappush(self.heap, item)

    def first(self) -> _Item | None:
        """Return the first ready item; it stays in the heap."""
        while self.heap and self.heap[0].state != "ready":
            heapq.heappop(self.heap)
        return self.heap[0] if self.heap else None


class Schedule:
    """The steps to do, from first to last: what is ready, running and ended."""

    def __init__(self, steps: Sequence[Step]) -> None:
        """Take the steps in topological order; needs outside of them are taken to be done.

        Raises ValueError where a step stands before one it needs.
        """
        self._items: dict[str, _Item] = {}
        self._dependants: dict[str, list[_Item]] = {}
        self._ready: dict[str, _Ready] = {}
        self._counts: dict[State, int] = dict.fromkeys(("waiting", "ready", "running", *_ENDED), 0)  # type: ignore[arg-type]
        for step in steps:
            if step.key in self._items:
                continue
            if step.key in self._dependants:
                raise ValueError(f"steps: {step} stands after a step that needs it. Give them in topological order.")
            self._add(step)
        for item in reversed(list(self._items.values())):
            item.path = self._path(item.step)
        for item in list(self._items.values()):
            self._queue(item)

    def take(self, wanted: Wanted = any_step) -> Step | None:
        """Return the first ready step that is wanted; it is running from here on. None where there is none."""
        item = self._first(wanted)
        if item is None:
            return None
        self._set(item, "running")
        return item.step

    def peek(self, wanted: Wanted = any_step) -> Step | None:
        """Return what `take` would, without taking it."""
        item = self._first(wanted)
        return None if item is None else item.step

    def num_ahead(self, step: Step, wanted: Wanted) -> int:
        """Return how many ready steps that are wanted come before a step of the schedule."""
        order = self._items[step.key].order
        heaps = (ready.heap for ready in self._ready.values() if (first := ready.first()) and wanted(first.step))
        return len({item.index for heap in heaps for item in heap if item.state == "ready" and item.order < order})

    def path(self, step: Step) -> float:
        """Return the cost of a step and of the longest chain that waits for it."""
        return self._items[step.key].path

    def knows(self, step: Step) -> bool:
        """Return whether a step is of the schedule."""
        return step.key in self._items

    def state(self, step: Step) -> State:
        """Return where a step of the schedule stands."""
        return self._items[step.key].state

    def in_state(self, state: State) -> list[Step]:
        """Return the steps in a state, in the order of the list; ready ones in the order they start."""
        found = [item for item in self._items.values() if item.state == state]
        return [item.step for item in (sorted(found, key=lambda i: i.order) if state == "ready" else found)]

    def count(self, state: State) -> int:
        """Return how many steps are in a state."""
        return self._counts[state]

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing can start any more."""
        return not (self._counts["waiting"] or self._counts["ready"] or self._counts["running"])

    def succeeded(self, step: Step) -> None:
        """Note that a running step is done; what waited for it alone is ready."""
        self._set(self._items[step.key], "succeeded")
        for item in self._dependants.get(step.key, ()):
            if item.state == "waiting":
                item.num_unmet -= 1
                if not item.num_unmet:
                    self._make_ready(item)

    def failed(self, step: Step) -> list[Step]:
        """Note that a step cannot be done, and return what is blocked by that, directly and by what it blocks."""
        self._set(self._items[step.key], "failed")
        return self._block(step)

    def _block(self, step: Step) -> list[Step]:
        blocked: list[Step] = []
        todo = [step]
        while todo:
            for item in self._dependants.get(todo.pop().key, ()):
                if item.state in ("waiting", "ready"):
                    self._set(item, "blocked")
                    blocked.append(item.step)
                    todo.append(item.step)
        return blocked

    def again(self, step: Step) -> list[Step]:
        """Give a running step back: it starts again once its needs are done.

        Returns what is blocked, the step among it, where one of its needs failed meanwhile.
        """
        if any(self._is_lost(need) for need in step.all_needs):
            self._set(self._items[step.key], "blocked")
            return [step, *self._block(step)]
        self._queue(self._items[step.key])
        return []

    def redo(self, step: Step) -> None:
        """Have a step done again that was taken to be done and is not, whether or not it was of the schedule.

        What needs it waits for it, but for what runs by now. Nothing changes where it is to be done already.
        """
        item = self._items.get(step.key)
        if item is None:
            item = self._add(step)
            item.path = self._path(step)
        elif item.state != "succeeded":
            return
        self._queue(item)
        for dependant in self._dependants.get(step.key, ()):
            if dependant.state in ("waiting", "ready"):
                dependant.num_unmet += 1
                self._set(dependant, "waiting")

    def _is_lost(self, step: Step) -> bool:
        return step.key in self._items and self._items[step.key].state in ("failed", "blocked")

    def _add(self, step: Step) -> _Item:
        item = self._items[step.key] = _Item(step, len(self._items))
        self._counts[item.state] += 1
        for need in step.all_needs:
            self._dependants.setdefault(need.key, []).append(item)
        return item

    def _path(self, step: Step) -> float:
        return step.cost + max((item.path for item in self._dependants.get(step.key, ())), default=0.0)

    def _queue(self, item: _Item) -> None:
        """Make an item ready, or have it wait for those of its needs that are not done."""
        needs = (self._items.get(need.key) for need in item.step.all_needs)
        item.num_unmet = sum(need is not None and need.state != "succeeded" for need in needs)
        if item.num_unmet:
            self._set(item, "waiting")
        else:
            self._make_ready(item)

    def _make_ready(self, item: _Item) -> None:
        self._set(item, "ready")
        self._ready.setdefault(item.step.kind.name, _Ready()).push(item)

    def _set(self, item: _Item, state: State) -> None:
        self._counts[item.state] -= 1
        self._counts[state] += 1
        item.state = state

    def _first(self, wanted: Wanted) -> _Item | None:
        firsts = (ready.first() for ready in self._ready.values())
        return min((item for item in firsts if item is not None and wanted(item.step)), default=None)
