"""Notes of a run, and the code, versions, data and configuration behind its numbers."""

from __future__ import annotations

import json
from typing import Any

from sweeps.report.files import RunFiles


def note_section(run: RunFiles) -> dict[str, Any]:
    """Return the notes of the run's stages."""
    return {"rows": run.tables["notes"]}


def provenance_section(run: RunFiles) -> dict[str, Any]:
    """Return provenance as pairs of name and value, the commits of the attempts, and the configuration as JSON."""
    commits = {r.get("provenance_commit") for r in run.tables["trials"]} - {None}
    return {
        "folder": run.paths.root.resolve().name,
        "plan": {key: run.plan[key] for key in ("data_hash", "cluster") if run.plan.get(key)},
        "recorded": dict(run.plan.get("provenance") or {}),
        "commits": sorted(map(str, commits)),
        "configuration": json.dumps(run.experiment, indent=2) if run.experiment else None,
    }
