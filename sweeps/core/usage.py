"""What a run has used, by stage: GPU-hours, retries, how idle its devices were, memory, energy, money.

In: the attempts of all calls, the stage of each step. Out: rows of the table `cost`. What never began counts nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sweeps.core.attempts import Attempt
from sweeps.core.gpu_hours import gpu_hours
from sweeps.core.step import STAGES

ALL = "all"
"""The row of the whole run."""
Interval = tuple[float, float]


def usage_rows(
    attempts: Sequence[Attempt], stages: Mapping[str, str], *, slots: float | None, price: float | None
) -> list[dict[str, Any]]:
    """Return a row for each stage that used something, and one for all.

    `stages` is by the key of a step. `slots` are the GPUs there are, or without any the steps that run at once; None
    where that is not known.
    """
    began = [a for a in attempts if a.seconds is not None and a.trial_id in stages]
    on_gpus = any(a.gpus for a in began)
    amounts = [(span(a), (a.gpus or 0.0) if on_gpus else 1.0) for a in began if a.started_at]
    rows = []
    for stage in (*STAGES, ALL):
        mine = [a for a in began if stage in (stages[a.trial_id], ALL)]
        if not mine:
            continue
        windows = merged([span(a) for a in mine if a.started_at and (a.gpus or not on_gpus)])
        hours = gpu_hours(mine)
        tries = Counter(a.trial_id for a in mine)
        energies = [a.energy_joules for a in mine if a.gpus]
        told = [energy for energy in energies if energy is not None]
        rows.append(
            {
                "stage": stage, "num_steps": len(tries), "num_attempts": len(mine),
                "num_retries": sum(tries.values()) - len(tries), "attempt_seconds": sum(a.seconds or 0.0 for a in mine),
                "gpu_hours": hours, "idle_share": _idle(amounts, windows, slots),
                "peak_memory_bytes": max((a.peak_memory_bytes for a in mine if a.peak_memory_bytes), default=None),
                "energy_joules": sum(told) if told and len(told) == len(energies) else None,
                "slots": slots, "price": price, "money": None if price is None else price * hours,
            }
        )  # fmt: skip
    return rows


def busy_seconds(attempts: Sequence[Attempt]) -> float:
    """Return how long at least one of some attempts ran."""
    return sum(end - start for start, end in merged([span(a) for a in attempts]))


def span(attempt: Attempt) -> Interval:
    """Return when an attempt began and ended, in seconds since 1970."""
    start = datetime.fromisoformat(attempt.started_at).astimezone(UTC).timestamp() if attempt.started_at else 0.0
    return start, start + (attempt.seconds or 0.0)


def merged(spans: Sequence[Interval]) -> list[Interval]:
    """Return the times that at least one of some spans covers, in order, apart from each other."""
    found: list[Interval] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _idle(amounts: Sequence[tuple[Interval, float]], windows: Sequence[Interval], slots: float | None) -> float | None:
    """Return the share of the slots that nothing held within some windows; None where it is not known."""
    length = sum(end - start for start, end in windows)
    if not slots or not length:
        return None
    starts = [start for start, _ in windows]
    held = 0.0
    for (start, end), amount in amounts:
        for window in windows[max(0, bisect_right(starts, start) - 1) :]:
            if window[0] >= end:
                break
            held += amount * max(0.0, min(end, window[1]) - max(start, window[0]))
    return max(0.0, 1 - held / (slots * length))
