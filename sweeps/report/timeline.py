"""The timeline of a run: when each attempt ran and on which device, concurrent attempts in separate lanes.

In: rows of trials and stages. Out: `Bar`s with lanes, and their drawing. Idle time is shortened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sweeps.report import figures
from sweeps.report.colours import MUTED, STAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IDLE_SECONDS = 60.0
"""Longer gaps, as between a stop and its resumption, are shortened to this."""
_UNITS = ((1.0, "seconds", 180.0), (60.0, "minutes", 3 * 3600.0))
"""Unit of the time axis in seconds, its name, and the length up to which it is used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One attempt or stage on the time axis."""

    label: str
    stage: str
    start: float
    """Seconds after the first bar, gaps shortened."""
    seconds: float
    device: str
    lane: int
    failed: bool


def bars(trials: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> list[Bar]:
    """Return the attempts in lanes: two bars share a lane only where one ended before the other began."""
    found = []
    for row in trials:
        if row["started_at"] and row["seconds"] is not None:
            place = row.get("provenance_gpu_ids")
            device = f"GPU {place}" if place else row["device"] or "unknown device"
            failed = row["status"] != "SUCCEEDED"
            found.append((_seconds(row["started_at"]), row["seconds"], row["label"], row["stage"], device, failed))
    for row in stages:
        if row["stage"] == "sample" and row["started_at"] and row["num_done"]:
            label = f"sampling, {row['num_done']} images"
            found.append((_seconds(row["started_at"]), row["seconds"], label, "sample", "all", False))
    found.sort()
    ends: list[tuple[str, float]] = []
    done: list[Bar] = []
    cut = origin = found[0][0] if found else 0.0
    latest = origin
    for start, seconds, label, stage, device, failed in found:
        if start - latest > IDLE_SECONDS:
            cut += start - latest - IDLE_SECONDS
        latest = max(latest, start + seconds)
        # Clocks are read in whole seconds: a bar that begins within one of another's end follows it.
        free = [i for i, (d, end) in enumerate(ends) if d == device and end <= start + 1.0]
        if free:
            lane = free[0]
            ends[lane] = (device, start + seconds)
        else:
            lane = len(ends)
            ends.append((device, start + seconds))
        done.append(
            Bar(label=label, stage=stage, start=start - cut, seconds=seconds, device=device, lane=lane, failed=failed)
        )
    return done


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def timeline_plot(found: Sequence[Bar]) -> figures.Draw:
    """Return the drawing of the bars: colour by stage, failed attempts hatched, labelled where there is room."""

    def draw(narrow: bool) -> Figure:
        width = 4.2 if narrow else 10.6
        lanes = 1 + max(bar.lane for bar in found)
        figure = figures.new(width, 0.42 * lanes + 1.05)
        axes = figure.subplots()
        end = max(bar.start + bar.seconds for bar in found)
        unit, name = next(((u, n) for u, n, most in _UNITS if end < most), (3600.0, "hours"))
        points_per_second = 0.86 * width * 72 / end
        for bar in found:
            axes.barh(
                bar.lane, bar.seconds / unit, left=bar.start / unit, height=0.74, lw=0.6, edgecolor="white",
                color=STAGES.get(bar.stage, MUTED), hatch="////" if bar.failed else None,
            )  # fmt: skip
            size = 8.0
            if bar.seconds * points_per_second > len(bar.label) * size * 0.62 + 4:
                middle = (bar.start + bar.seconds / 2) / unit
                axes.text(middle, bar.lane, bar.label, ha="center", va="center", color="white", fontsize=size)
        devices = {bar.lane: bar.device for bar in found}
        axes.set_yticks(range(lanes), [devices[lane] for lane in range(lanes)])
        axes.set_ylim(lanes - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(name)
        axes.margins(x=0.005)
        from matplotlib.patches import Patch

        names = {"judge": "judge", "lora": "LoRA", "sample": "sampling", "grid": "classifiers"}
        stages = [s for s in names if any(bar.stage == s for bar in found)]
        handles = [Patch(color=STAGES[s], label=names[s]) for s in stages]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=8)
        return figure

    return draw
