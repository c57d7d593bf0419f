"""Fidelity of the synthetic images, and whether the diffusion model memorised its training images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.report.files import RunFiles
from sweeps.report.samples import SheetRow, cell

_MOST_CASES = 5


def fidelity_section(run: RunFiles) -> dict[str, Any]:
    """Return the scores, the row of the memorisation audit of the images trained on, and the closest pairs."""
    rows = sorted(run.tables["fidelity"], key=lambda r: (r["sampler"] is None, r["rank"] or 0))
    audits = run.tables["memorisation"]
    return {
        "rows": rows,
        "audit": next((r for r in audits if r["chosen"]), audits[0] if audits else None),
        "planted": [r for r in run.tables["planted"] if r["share_found"] is not None],
        "cases": run.tables["nearest"][:_MOST_CASES],
        "sheet": _closest(run),
    }


def _closest(run: RunFiles) -> list[SheetRow]:
    """Return three rows: the synthetic images, and the training images nearest by pixels and by features."""
    cases = run.tables["nearest"][:_MOST_CASES]
    files = {r["image_id"]: run.folder("synthetic") / r["file_name"] for r in run.images["synthetic"]}
    real = {r["image_id"]: Path(r["path"]) for r in run.tables["catalog"]}
    if not cases or not files:
        return []
    return [
        SheetRow(label="synthetic", title="Synthetic", cells=[cell(c, files.get(c["image_id"])) for c in cases]),
        *(
            SheetRow(label=by, title=f"Nearest by {by}", cells=[cell(c, real.get(c[f"nearest_{by}"])) for c in cases])
            for by in ("pixels", "features")
        ),
    ]
