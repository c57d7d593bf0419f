"""Write the report of a run: the work of its step. It reads the run's folder, which shows what its needs have."""

from __future__ import annotations

from typing import Any

from sweeps.core.paths import RunPaths
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.report import write_report


def write_report_step(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write report.html and figures/."""
    write_report(RunPaths(place.store.root), place.out)
    return {}
