"""When each step of a schedule would run, in a time that is only counted: the very order that the executors follow.

In: the steps, their durations, what each takes of the room there is. Out: when each begins and ends. Starting a process
costs what `loads` says; failures, and a queue's own time, are not counted.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from sweeps.core.schedule import Schedule
from sweeps.core.step import Step

Seconds = Callable[[Step], float]
"""How long a step takes, in seconds."""
Takes = Callable[[Step], tuple[str, float]]
"""The lane a step runs in, and how much of its capacity it takes."""
Loads = Callable[[Step], tuple[Hashable, float]]
"""What a process must have loaded for a step, and the seconds that takes; a process holds one thing at a time."""

_EPSILON = 1e-6
ONE_LANE = "slots"
"""The lane of steps that are alike, where nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """When a step runs, in seconds after the first."""

    step: Step
    lane: str
    amount: float
    """How much of its lane it takes."""
    start: float
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """A schedule that was followed to its end."""

    spans: tuple[Span, ...] = ()
    """In the order in which the steps begin."""
    held: Mapping[str, float] = field(default_factory=dict)
    """Capacity-seconds that steps held, by lane: GPU-seconds of the lane `gpu`."""

    @property
    def seconds(self) -> float:
        """When the last step ends."""
        return max((span.end for span in self.spans), default=0.0)


def one_each(step: Step) -> tuple[str, float]:
    """Return that a step takes one slot."""
    return ONE_LANE, 1.0


def rough(step: Step) -> float:
    """Return the duration by which steps are ordered."""
    return step.cost


def loads_nothing(step: Step) -> tuple[Hashable, float]:
    """Return that a step begins at once."""
    return None, 0.0


def simulate(
    steps: Sequence[Step],
    capacity: Mapping[str, float],
    *,
    seconds: Seconds = rough,
    takes: Takes = one_each,
    loads: Loads = loads_nothing,
) -> Simulated:
    """Return when each step runs, given in topological order; the order is by their costs, as in a run.

    `capacity` is by lane. Raises ValueError for a step that takes more than there is.
    """
    schedule, now, count = Schedule(steps), 0.0, itertools.count()
    free = dict(capacity)
    idle: dict[tuple[str, bool], list[Hashable]] = {}
    running: list[tuple[float, int, Span, Hashable]] = []
    spans: list[Span] = []
    held: defaultdict[str, float] = defaultdict(float)

    def fits(step: Step) -> bool:
        lane, amount = takes(step)
        return amount <= free[lane] + _EPSILON

    while not schedule.finished:
        while (step := schedule.take(fits)) is not None:
            lane, amount = takes(step)
            free[lane] -= amount
            what, load = loads(step)
            waiting = idle.setdefault((lane, step.kind.is_shard), [])
            end = now + seconds(step)
            if what in waiting:
                waiting.remove(what)
            else:
                end += load
                if waiting:
                    waiting.pop(0)
            span = Span(step=step, lane=lane, amount=amount, start=now, end=end)
            spans.append(span)
            held[lane] += amount * (end - now)
            heapq.heappush(running, (end, next(count), span, what))
        if not running:
            (step, *_) = schedule.in_state("ready")
            lane, amount = takes(step)
            raise ValueError(f"capacity: {step} takes {amount:g} of {lane!r}, of which there is {capacity[lane]:g}.")
        now, _, span, what = heapq.heappop(running)
        free[span.lane] += span.amount
        idle[span.lane, span.step.kind.is_shard].append(what)
        schedule.succeeded(span.step)
    return Simulated(spans=tuple(spans), held=dict(held))


def lower_bound(
    steps: Sequence[Step], capacity: Mapping[str, float], *, seconds: Seconds = rough, takes: Takes = one_each
) -> float:
    """Return the seconds that no order can go below: the longest chain, or all work over the capacity of its lane."""
    ends: dict[str, float] = {}
    work: defaultdict[str, float] = defaultdict(float)
    for step in steps:
        lane, amount = takes(step)
        work[lane] += amount * seconds(step)
        ends[step.key] = seconds(step) + max((ends.get(need.key, 0.0) for need in step.all_needs), default=0.0)
    return max([*ends.values(), *(held / capacity[lane] for lane, held in work.items() if held)], default=0.0)
