"""How long the works of a study take on a machine: learned from steps that ran, kept as JSON, found by what they are.

In: steps with their records. Out: `Speed`s. A speed holds for equal settings on an equal device and for nothing else:
what was not measured is None, never guessed. `speeds.json` beside this file holds those kept from
`benchmarks/results/speeds-*.json`, made by `benchmarks/speeds.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from sweeps.core.hashing import to_jsonable
from sweeps.core.step import Step
from sweeps.core.store import Done, Store
from sweeps.core.tables import read_rows
from sweeps.cost.work import Counts, Work, work_of
from sweeps.ranks.finetune import LOSS_FILE

_WITH_A_CLOCK = ("optimizer step", "image trained on")
"""Units of steps that measure their own pace."""
KEPT = Path(__file__).with_name("speeds.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How long a work takes."""

    what: str
    unit: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds_per_unit: float
    start_seconds: float = 0.0
    """Before the first unit: loading, encoding, writing. Of a shard: once for each adapter a process loads."""
    bytes_per_item: float | None = None
    """Size of the files, by `Work.items`."""
    peak_memory_bytes: int | None = None
    num_measured: int = 1

    def of(self, work: Work) -> bool:
        """Return whether it is a work's speed."""
        return (self.what, self.unit) == (work.what, work.unit) and dict(self.settings) == dict(work.settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A device and its speeds."""

    device: str
    """Name of the GPU, or of the CPU with the threads of a step."""
    source: str
    """How they were measured: `pilot`, `run`, or `kept`."""
    measured_at: str
    """ISO 8601, UTC."""
    at_once: int = 1
    """Steps that ran side by side meanwhile."""
    commit: str | None = None
    speeds: tuple[Speed, ...] = ()

    def find(self, work: Work) -> Speed | None:
        """Return the speed of a work; None where it was not measured."""
        return next((speed for speed in self.speeds if speed.of(work)), None)

    @property
    def in_words(self) -> str:
        """What the legend of a plan says."""
        beside = f", {self.at_once} at once" if self.at_once > 1 else ""
        at = f" at {self.commit}" if self.commit else ""
        return f"measured on {self.device}{beside}, {self.measured_at[:10]}{at}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A step that ran."""

    work: Work
    seconds: float
    pace: float | None
    """Seconds per unit by the step's own clock, without its start; None where it has none."""
    num_bytes: int
    peak_memory_bytes: int | None
    loaded: str
    """What its process had to load: an adapter's key."""


def measured_of(step: Step, record: Done, counts: Counts, store: Store) -> Measured | None:
    """Return what a step that is done took; None where its duration is not known."""
    if record.seconds is None:
        return None
    adapter, work = step.in_role("adapter"), work_of(step, counts)
    return Measured(
        work=work,
        seconds=record.seconds,
        pace=_own_pace(record, store.folder(step)) if work.unit in _WITH_A_CLOCK else None,
        num_bytes=sum(size for size, _, _ in record.files.values()),
        peak_memory_bytes=record.peak_memory_bytes,
        loaded=adapter[0].key if adapter else "",
    )


def _own_pace(record: Done, folder: Path) -> float | None:
    rate = record.metrics.get("images_per_second")
    if rate:
        return 1 / rate
    if losses := sorted(folder.rglob(LOSS_FILE)):  # of several ranks in one pass each has the pass's times
        rows = read_rows(losses[0], "loss")[:-1]  # the last is of the held-out images too
        if len(rows) > 1 and rows[-1]["seconds"] is not None:
            return (rows[-1]["seconds"] - rows[0]["seconds"]) / (rows[-1]["step"] - rows[0]["step"])
    rate = record.metrics.get("steps_per_second")
    return 1 / rate if rate else None


def speeds_of(found: Iterable[Measured]) -> tuple[Speed, ...]:
    """Return the speeds of the works among some steps that ran."""
    groups: dict[str, list[Measured]] = defaultdict(list)
    for one in found:
        groups[json.dumps([one.work.what, one.work.unit, to_jsonable(one.work.settings)], sort_keys=True)].append(one)
    return tuple(_speed(group) for group in groups.values())


def _speed(group: Sequence[Measured]) -> Speed:
    work = group[0].work
    pace, start = _pace_and_start(group)
    peaks = [one.peak_memory_bytes for one in group if one.peak_memory_bytes]
    return Speed(
        what=work.what, unit=work.unit, settings=dict(work.settings), seconds_per_unit=pace, start_seconds=start,
        bytes_per_item=fmean(one.num_bytes / max(one.work.items, 1) for one in group),
        peak_memory_bytes=max(peaks, default=None), num_measured=len(group),
    )  # fmt: skip


def _pace_and_start(group: Sequence[Measured]) -> tuple[float, float]:
    units, seconds = [one.work.units for one in group], [one.seconds for one in group]
    own = [one.pace for one in group if one.pace is not None]
    if own:
        pace = fmean(own)
        return pace, max(0.0, fmean(s - u * pace for u, s in zip(units, seconds)))
    if group[0].work.what == "images":  # the first shard of an adapter loads it
        pace = median(s / max(u, 1) for u, s in zip(units, seconds))
        loads = len({one.loaded for one in group})
        return pace, sum(max(0.0, s - u * pace) for u, s in zip(units, seconds)) / loads
    return _line(units, seconds)


def _line(units: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return (slope, intercept) of the least squares line, neither negative; a line through 0 for units all equal."""
    through_zero = sum(seconds) / max(sum(units), 1e-9), 0.0
    if len(set(units)) < 2:
        return through_zero
    x, y = fmean(units), fmean(seconds)
    slope = sum((u - x) * (s - y) for u, s in zip(units, seconds)) / sum((u - x) ** 2 for u in units)
    if slope <= 0:
        return 0.0, y
    return (slope, y - slope * x) if y >= slope * x else through_zero


def read_machines(file: Path = KEPT) -> list[Machine]:
    """Return the machines of a file, newest first; none where it is missing."""
    content = json.loads(file.read_text()) if file.is_file() else {"machines": []}
    found = [
        Machine(**{**one, "source": "kept", "speeds": tuple(Speed(**speed) for speed in one["speeds"])})
        for one in content["machines"]
    ]
    return sorted(found, key=lambda one: one.measured_at, reverse=True)


def named(machines: Iterable[Machine], name: str) -> list[Machine]:
    """Return the machines whose device has a name in it, whatever its case."""
    return [machine for machine in machines if name.casefold() in machine.device.casefold()]
