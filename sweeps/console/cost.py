"""What a study costs, as `sweeps plan` says it: text that fits 80 columns, or JSON.

In: a `StudyCost`. Out: text in which every figure names its source, and what was not measured is said.
"""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from sweeps.console.terminal import grid
from sweeps.console.words import clock
from sweeps.core.hashing import to_jsonable
from sweeps.cost.estimate import StudyCost

_UNKNOWN = "unknown"


def to_json(cost: StudyCost) -> str:
    """Return the cost as JSON; null is what is not known."""
    found: dict[str, Any] = {
        "device": cost.device,
        "num_gpus": cost.cluster.num_gpus,
        "num_cpus": cost.cluster.num_cpus,
        "steps_done": cost.num_done,
        "stages": to_jsonable(cost.stages),
        "gpu_hours": cost.gpu_hours if cost.cluster.num_gpus else 0.0,
        "wall_seconds": cost.seconds,
        "wall_seconds_bound": cost.bound_seconds,
        "wall_seconds_at_least": cost.at_least,
        "price_per_gpu_hour": cost.price,
        "money_rented": cost.rented,
        "money_used": cost.used,
        "sources": [{"source": m.source, "about": m.in_words} for m in cost.machines],
    }
    return json.dumps(found, indent=1)


def print_cost(cost: StudyCost, console: Console) -> None:
    """Print the table of stages, then wall time, money and where the figures come from."""
    gpus = cost.cluster.num_gpus
    console.print(
        f"\non {gpus:g} x {cost.device}" if gpus else f"\non {cost.device}, {_slots(cost)} at once", style="bold"
    )
    if cost.num_done:
        console.print(f"{cost.num_done} steps are done already and not counted")
    hours = ["GPU-hours", "CPU-hours"] if gpus else ["CPU-hours"]
    table = grid(["stage", "trials", "images", *hours, "storage", "from"], 1)
    for stage in cost.stages:
        figures = [_hours(stage.gpu_hours), _hours(stage.cpu_hours)] if gpus else [_hours(stage.cpu_hours)]
        size = _size(stage.storage_bytes, bool(stage.not_sized))
        source = "+".join(stage.sources) or "-"
        table.add_row(stage.stage, f"{stage.num_trials}", f"{stage.num_images}", *figures, size, source)
    cpu_hours, stages = _sum(stage.cpu_hours for stage in cost.stages), cost.stages
    every = [cost.gpu_hours, cpu_hours] if gpus else [cpu_hours]
    trials, images = sum(stage.num_trials for stage in stages), sum(stage.num_images for stage in stages)
    size = _size(sum(stage.storage_bytes for stage in stages), any(stage.not_sized for stage in stages))
    table.add_row("all", f"{trials}", f"{images}", *map(_hours, every), size, "")
    console.print(table)
    least = "at least " if cost.at_least else ""
    if cost.seconds is None:
        console.print("wall time: unknown")
    else:
        bound = f"no order of these steps ends before {clock(cost.bound_seconds or 0)}"
        console.print(f"wall time: {least}{clock(cost.seconds)} (the schedule simulated; {bound})")
    if cost.price is not None and gpus:
        _print_money(cost, least, console)
    if gpus and cost.seconds is not None:
        console.print("trials that share a GPU are counted as if they took turns there")
    for machine in cost.machines:
        console.print(f"{machine.source}: {machine.in_words}")
    if unsized := dict.fromkeys(kind for stage in cost.stages for kind in stage.not_sized):
        console.print(f"files of unknown size, not counted: {', '.join(unsized)}")
    missing = dict.fromkeys(kind for stage in cost.stages for kind in stage.not_measured)
    if missing:
        console.print(f"not measured on {cost.device}: {', '.join(missing)}")
        console.print("--measure on such a machine measures them in a pilot of some minutes")


def _print_money(cost: StudyCost, least: str, console: Console) -> None:
    if cost.rented is None:
        console.print("money: unknown")
        return
    used = "" if cost.used is None else f"; {cost.used:,.2f} for GPU-hours held, as with GPUs on demand"
    gpus = f"{cost.cluster.num_gpus:g} GPUs from beginning to end"
    console.print(f"money: {least}{cost.rented:,.2f} for {gpus}{used}")


def _slots(cost: StudyCost) -> str:
    slots = cost.cluster.num_slots
    return f"{slots} step" + ("s" if slots > 1 else "")


def _sum(values: Any) -> float | None:
    found = list(values)
    return None if None in found else sum(found)


def _hours(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}" if value < 99.5 else f"{value:,.0f}"


def _size(num_bytes: float, is_part: bool) -> str:
    """Return a size; with `>` where some of it is not known."""
    if is_part and not num_bytes:
        return _UNKNOWN
    unit, name = next(((u, n) for u, n in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if num_bytes >= u), (1e3, "kB"))
    return f"{'>' if is_part else ''}{num_bytes / unit:.1f} {name}"
