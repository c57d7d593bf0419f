"""The step that writes the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.core.step import Kind, Step

REPORT = Kind(name="report", stage="report", work="sweeps.report.work:write_report_step")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """The page has no settings: it shows what its needs have."""


def report_step(shown: Sequence[Step]) -> Step:
    """Return the step that writes report.html and figures/ from the steps that it shows."""
    return Step(kind=REPORT, label="report", config=ReportConfig(), needs={"shown": tuple(shown)}, cost=5.0)
