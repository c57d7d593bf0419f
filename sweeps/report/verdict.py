"""The head of the page: what the run is, how it deviates from the paper's setting, its endpoint and headline result."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fulora.diffusion.base_files import TINY
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

FROM_SCRATCH = "from scratch"
"""How `fulora.classify.models` names randomly initialised weights."""

_SHOWN = ("accuracy", "f1")
POINTS = 5
"""The difference in points for which the table `headline` has the number of replicates needed."""


def head(run: RunFiles) -> dict[str, Any]:
    """Return the facts of the page's head."""
    scored = _scored(run)
    counts = Counter(r["source"] if r["source"] == "spanish" else r["split"] for r in run.tables["catalog"])
    grid = [r for r in run.tables["trials"] if r["stage"] == "grid" and r["status"] == "SUCCEEDED"]
    return {
        "headline": _headline(run),
        "primary": _primary(run),
        "endpoint": _endpoint(run),
        "points": POINTS,
        "sizes": {r["regime"]: r for r in run.tables["table1"] if r["num_es"] is not None},
        "adapter": chosen_rank(run),
        "base": base_name(run),
        "tiny_base": base_name(run).split(" ")[0] == TINY,
        "num_scored": len(scored),
        "num_scratch": sum(FROM_SCRATCH in (r["weights"] or "") for r in scored),
        "counts": counts,
        "num_trained": len({r["trial_id"] for r in grid}),
    }


def _headline(run: RunFiles) -> list[dict[str, Row]]:
    """Return {score: row} of each comparison that has both scores shown, in the order of the table."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in run.tables["headline"]:
        found.setdefault((row["regime"], row["reference"]), {})[row["metric"]] = row
    return [rows for rows in found.values() if all(name in rows for name in _SHOWN)]


def _primary(run: RunFiles) -> Row | None:
    """Return the endpoint's row; of a run that named none, the first difference in accuracy."""
    rows = run.tables["headline"]
    named = bool(run.plan.get("endpoint"))
    return next((r for r in rows if r["primary"] or (not named and r["metric"] == "accuracy")), None)


def _endpoint(run: RunFiles) -> dict[str, Any]:
    """Return the endpoint and its power as they were recorded before the run; empty for a run that named none."""
    return dict(run.plan.get("endpoint") or {})


def _scored(run: RunFiles) -> list[Row]:
    """Return the rows of Tables 1 and 2 that have scores, each cell once."""
    rows = [r for name in ("table1", "table2") for r in run.tables[name] if r["accuracy"] is not None]
    return list({(r["regime"], r["model"]): r for r in rows}.values())


def base_name(run: RunFiles) -> str:
    """Return the diffusion base as recorded, else as configured, else an empty string."""
    recorded = next((r["base"] for r in run.tables["ranks"] if r["base"]), None)
    generated = next((rows[0]["base"] for rows in run.images.values() if rows and rows[0]["base"]), None)
    return str(recorded or generated or run.experiment.get("base") or "")


def best_row(run: RunFiles) -> Row | None:
    """Return the row of Table 1 with the highest accuracy, the first of equals; None where none has scores."""
    rows = [r for r in run.tables["table1"] if r["accuracy"] is not None]
    return max(rows, key=lambda r: r["accuracy"], default=None)


def chosen_rank(run: RunFiles) -> Row | None:
    """Return the row of the adapter whose images the classifiers are trained on; None where there are no adapters."""
    rows = run.tables["ranks"]
    return next((r for r in rows if r["chosen"]), rows[-1] if rows else None)
