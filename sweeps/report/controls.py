"""Controls and centres: which of the controls explains a gain, read from intervals alone."""

from __future__ import annotations

from typing import Any

from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

_SHOWN = ("accuracy", "accuracy_4way", "share_other")
_VERDICTS = ("explains it", "does not explain it", "undecided")


def controls_section(run: RunFiles) -> dict[str, Any] | None:
    """Return the rows of the controls with their scores, their verdicts, and the centres; None where there are none."""
    controls, centres = run.tables["controls"], run.tables["centres"]
    if not controls and not centres:
        return None
    by_name: dict[str, dict[str, Row]] = {}
    for row in controls:
        by_name.setdefault(row["control"], {})[row["metric"]] = row
    rows = [rows for rows in by_name.values() if all(name in rows for name in _SHOWN)]
    tested = [r["accuracy"] for r in rows if r["accuracy"]["verdict"] is not None]
    negative = [r["recall"] for r in rows if (r["recall"]["verdict"] or "").endswith("chance")]
    return {
        "rows": rows,
        "verdicts": {v: [r["about"] for r in tested if r["verdict"] == v] for v in _VERDICTS},
        "gain": next((r["accuracy"] for r in rows[1:2]), None),
        "negative": negative[0] if negative else None,
        "tested": bool(tested),
        "centres": centres,
        "comparisons": list({(r["regime"], r["reference"]): r for r in centres}.values()),
    }
