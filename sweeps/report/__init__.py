"""The report: one self-contained page that a person would show a colleague, and its figures as files.

In: a finished or stopped run's files, nothing else. Out: report.html (no scripts, no other hosts, images inside) and
figures/. What a run lacks is said in its place on the page.
"""

from __future__ import annotations

from pathlib import Path

from sweeps.core.paths import RunPaths


def write_report(paths: RunPaths, out: Path) -> Path:
    """Write `report.html` and `figures/` from a run's files and return the page's path; a missing file is no error."""
    from sweeps.core.files import atomic_path as written
    from sweeps.report.files import read_run
    from sweeps.report.page import render

    page = render(read_run(paths))
    with written(paths.report) as beside:
        beside.write_text(page, encoding="utf-8")
    return paths.report
