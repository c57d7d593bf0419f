"""What ran where and for how long: stages, the timeline, failed attempts, every attempt."""

from __future__ import annotations

from typing import Any

from sweeps.report import figures, timeline
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles


def runtime_section(run: RunFiles) -> dict[str, Any]:
    """Return stages and attempts, and the timeline with the time it spans."""
    stages, trials = run.tables["stages"], run.tables["trials"]
    bars = timeline.bars(trials, stages)
    return {
        "stages": stages,
        "total": sum(r["seconds"] or 0 for r in stages),
        "cost": run.tables["cost"],
        "bars": bars,
        "busy": sum(bar.seconds for bar in bars),
        "span": max((bar.start + bar.seconds for bar in bars), default=0.0),
        "figure": figures.drawing(run.figures, "timeline", timeline.timeline_plot(bars)) if bars else None,
        "attempts": [_attempt(row) for row in trials],
        "failed": [row for row in trials if row["status"] != "SUCCEEDED"],
    }


def _attempt(row: Row) -> Row:
    """Return an attempt with what only some stages record: its speed and its GPU."""
    return row | {
        "steps_per_second": row.get("metric_steps_per_second"),
        "images_per_second": row.get("metric_images_per_second"),
        "gpu": row.get("provenance_gpu_ids"),
    }
