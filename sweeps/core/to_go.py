"""What is left of a run while it goes on: time and GPU-hours, by what its finished steps took.

In: the steps to do, what each takes of the room, steps that end. Out: a `Left`. The rough costs that order steps are
scaled by kind, with the time that steps of it took against their costs, or where none is done with the progress of
those under way; a kind of which nothing is known takes the scale of all on its device, GPU or CPU. Without any such
nothing is known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweeps.core.simulation import lower_bound, simulate
from sweeps.core.step import Kind, Step

_MOST_SIMULATED = 2000
"""Steps up to which the schedule is followed; with more, its lower bound is taken, which is close by then."""
_LEAST_FRACTION = 0.05
"""Of a step under way, from which on its own progress tells how long it takes."""

Room = tuple[Mapping[str, float], Mapping[str, tuple[str, float]]]
"""The capacity of each lane, and by the key of a step its lane and how much it takes of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What is to go."""

    seconds: float
    gpu_hours: float


class ToGo:
    """The steps that are to be done in a call of an executor."""

    def __init__(self, steps: Sequence[Step], room: Room, before: Iterable[tuple[Step, float]] = ()) -> None:
        """Take the steps in topological order, and steps that were done before with their seconds."""
        self._left = {step.key: step for step in steps}
        self._capacity, self._takes = room
        self._took: defaultdict[Kind, float] = defaultdict(float)
        self._cost: defaultdict[Kind, float] = defaultdict(float)
        for step, seconds in before:
            self._learn(step, seconds)

    def ended(self, step: Step, seconds: float | None) -> None:
        """Note that a step ended; the seconds of one that succeeded."""
        self._left.pop(step.key, None)
        if seconds is not None:
            self._learn(step, seconds)

    def left(self, under_way: Mapping[str, tuple[float, float]]) -> Left | None:
        """Return what is left, None where nothing is known; `under_way` is (fraction, seconds so far) by key."""
        took, cost = dict(self._took), dict(self._cost)
        for key, (fraction, so_far) in under_way.items():
            step = self._left.get(key)
            if step is not None and step.kind not in self._took and fraction >= _LEAST_FRACTION:
                took[step.kind] = took.get(step.kind, 0.0) + so_far
                cost[step.kind] = cost.get(step.kind, 0.0) + fraction * step.cost
        scales = {kind: took[kind] / cost[kind] for kind in cost if cost[kind]}
        for device in {step.kind.runs_on for step in self._left.values() if step.kind not in scales and step.cost}:
            of_device = [kind for kind in scales if kind.runs_on == device]
            if not of_device:
                return None
            scale = sum(took[kind] for kind in of_device) / sum(cost[kind] for kind in of_device)
            others = {step.kind for step in self._left.values() if step.kind.runs_on == device} - scales.keys()
            scales |= dict.fromkeys(others, scale)

        def seconds(step: Step) -> float:
            whole = step.cost * scales.get(step.kind, 0.0)
            fraction, so_far = under_way.get(step.key, (0.0, 0.0))
            return so_far * (1 / fraction - 1) if fraction >= _LEAST_FRACTION else max(0.0, whole - so_far)

        def takes(step: Step) -> tuple[str, float]:
            return self._takes[step.key]

        steps = [step for step in self._left.values() if step.key in self._takes]
        held = sum(seconds(step) * takes(step)[1] for step in steps if takes(step)[0] == "gpu")
        if len(steps) > _MOST_SIMULATED:
            end = lower_bound(steps, self._capacity, seconds=seconds, takes=takes)
        else:
            end = simulate(steps, self._capacity, seconds=seconds, takes=takes).seconds
        return Left(seconds=end, gpu_hours=held / 3600)

    def _learn(self, step: Step, seconds: float) -> None:
        self._took[step.kind] += seconds
        self._cost[step.kind] += step.cost
