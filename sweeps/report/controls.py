"""Controls and centres: which of the controls explains a gain, read from intervals alone."""

from __future__ import annotations

from typing import Any

from fulora.classify.models import MODELS
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

_SHOWN = ("accuracy", "accuracy_4way", "share_other")
_COMPARED = (("ES", "HB"), ("ES+DA", "HB+DA"))
_VERDICTS = ("explains it", "does not explain it", "undecided")


def controls_section(run: RunFiles) -> dict[str, Any] | None:
    """Return the rows of the controls with their scores, their verdicts, and the centres; None where there are none."""
    controls, centres = run.tables["controls"], run.tables["centres"]
    if not controls and not centres:
        return None  # the encoders' rows are there only where centres are
    by_name: dict[str, dict[str, Row]] = {}
    for row in controls:
        by_name.setdefault(row["control"], {})[row["metric"]] = row
    rows = [rows for rows in by_name.values() if all(name in rows for name in _SHOWN)]
    tested = [r["accuracy"] for r in rows if r["accuracy"]["verdict"] is not None]
    negative = [r["recall"] for r in rows if (r["recall"]["verdict"] or "").endswith("chance")]
    return {
        "encoders": _encoders(run),
        "rows": rows,
        "verdicts": {v: [r["about"] for r in tested if r["verdict"] == v] for v in _VERDICTS},
        "gain": next((r["accuracy"] for r in rows[1:2]), None),
        "negative": negative[0] if negative else None,
        "tested": bool(tested),
        "centres": centres,
        "comparisons": list({(r["regime"], r["reference"]): r for r in centres}.values()),
    }


def _encoders(run: RunFiles) -> list[dict[str, Any]]:
    """Return what synthetic images change where a strong encoder is frozen: differences in accuracy, with intervals."""
    found = []
    for row in run.tables["comparisons"]:
        spec = MODELS.get(row["model_a"])
        if row["metric"] != "accuracy" or row["model_a"] != row["model_b"] or spec is None or spec.trained != "head":
            continue
        for pair, sign in ((p, s) for p in _COMPARED for s in (1, -1)):
            if (row["regime_a"], row["regime_b"]) == pair[::sign] and row["difference"] is not None:
                ends = [None if row[end] is None else sign * row[end] for end in ("low", "high")[::sign]]
                change = {"change": sign * row["difference"], "low": ends[0], "high": ends[1]}
                found.append({"model": row["model_a"], "reference": pair[0], "regime": pair[1], **change,
                              "significant": row["significant"]})  # fmt: skip
    return found
