"""GPU-hours that a run has used, over all its calls, and their limit.

In: the log, how many GPUs a step holds. Out: what is spent by now, attempts under way counted; whether a limit is
reached. A share of a GPU counts as that share; work on CPUs counts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from sweeps.core.attempts import Attempt, AttemptLog, attempt_of
from sweeps.core.step import Step

LIMIT_REACHED = "GpuHoursSpent"
"""The error type of what did not start because of the limit."""

Gpus = Callable[[Step], float]
"""How many GPUs, or which share of one, a step holds while it runs."""


def no_gpu(step: Step) -> float:
    """Return that a step holds none."""
    return 0.0


def gpu_hours(attempts: Iterable[Attempt]) -> float:
    """Return the GPU-hours of some attempts."""
    return sum((a.gpus or 0.0) * (a.seconds or 0.0) for a in attempts) / 3600


def refused_attempt(step: Step, number: int, words: str) -> Attempt:
    """Return the attempt that stands for a step which the limit kept from starting."""
    return attempt_of(step, "CANCELLED", number, error_type=LIMIT_REACHED, error_message=words)


class GpuMeter:
    """Counts the GPU-hours of a run."""

    def __init__(self, log: AttemptLog, gpus: Gpus = no_gpu, limit: float | None = None) -> None:
        self.gpus, self.limit = gpus, limit
        """GPU-hours after which no step that holds a GPU starts; None: no limit."""
        self._ended = gpu_hours(log.attempts)
        self._under_way: dict[str, tuple[float, float]] = {}

    def begin(self, step: Step) -> None:
        """Note that the work of a step began."""
        self._under_way[step.key] = (self.gpus(step), time.monotonic())

    def end(self, step: Step, attempt: Attempt) -> Attempt:
        """Return an attempt with the GPUs it held, and its time where its process did not say it."""
        if step.key not in self._under_way:  # it never began
            return attempt
        gpus, began = self._under_way.pop(step.key)
        if attempt.seconds is None:
            attempt = replace(attempt, seconds=round(time.monotonic() - began, 3))
        alone = gpus >= 1  # a counter of energy is the whole GPU's
        attempt = replace(attempt, gpus=gpus, energy_joules=attempt.energy_joules if alone else None)
        self._ended += gpu_hours([attempt])
        return attempt

    @property
    def spent(self) -> float:
        """GPU-hours used by now."""
        now = time.monotonic()
        return self._ended + sum(gpus * (now - began) for gpus, began in self._under_way.values()) / 3600

    @property
    def reached(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.spent >= self.limit

    @property
    def in_words(self) -> str:
        """The limit and what is used."""
        return f"--max-gpu-hours {self.limit:g} is reached: {self.spent:.2f} GPU-hours are used"
