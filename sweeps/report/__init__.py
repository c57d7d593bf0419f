"""The report of a run: one self-contained HTML page, and its figures as files.

In: the files of a finished or stopped run. Out: `report.html`, without scripts, loading nothing from other hosts, and
`figures/`. Where a file is missing the page says so in its place. The text is in `templates/` (Jinja2).
"""

from __future__ import annotations

from pathlib import Path

from sweeps.paths import RunPaths


def write_report(paths: RunPaths) -> Path:
    """Write `report.html` and `figures/` from a run's files and return the page's path; a missing file is no error."""
    from sweeps.paths import written
    from sweeps.report.files import read_run
    from sweeps.report.page import render

    page = render(read_run(paths))
    with written(paths.report) as beside:
        beside.write_text(page, encoding="utf-8")
    return paths.report
