"""The report of a run: one self-contained HTML page, and its figures as files.

In: the files of a finished or stopped run. Out: `report.html`, without scripts, loading nothing from other hosts, and
`figures/`. Where a file is missing the page says so in its place. The text is in `templates/` (Jinja2).
"""

from __future__ import annotations

from pathlib import Path

from sweeps.core.paths import RunPaths


def write_report(paths: RunPaths, out: Path) -> Path:
    """Write `report.html` and `figures/` from a run's files into `out` and return the page's path.

    A missing file is no error: the page says so in its place.
    """
    from sweeps.core.files import atomic_path
    from sweeps.report.files import read_run
    from sweeps.report.page import render

    page = render(read_run(paths, figures=out / "figures"))
    with atomic_path(out / "report.html") as beside:
        beside.write_text(page, encoding="utf-8")
    return out / "report.html"
