"""Fidelity of the synthetic images, and whether the diffusion model memorised its training images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.report import figures
from sweeps.report.colours import LINE, MODELS, MUTED
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles
from sweeps.report.samples import SheetRow, cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CASES = 5


def fidelity_section(run: RunFiles) -> dict[str, Any]:
    """Return the scores, the row of the memorisation audit of the images trained on, and the closest pairs."""
    rows = sorted(run.tables["fidelity"], key=lambda r: (r["sampler"] is None, r["rank"] or 0))
    audits = run.tables["memorisation"]
    return {
        "rows": rows,
        "audit": next((r for r in audits if r["chosen"]), audits[0] if audits else None),
        "planted": [r for r in run.tables["planted"] if r["share_found"] is not None],
        "by_rank": _by_rank_figure(run),
        "cases": run.tables["nearest"][:_MOST_CASES],
        "sheet": _closest(run),
    }


def _by_rank_figure(run: RunFiles) -> figures.Drawing | None:
    """Return the figure of memorisation against rank; None with fewer than two ranks that were audited."""
    rows = sorted((r for r in run.tables["memorisation"] if r["share_closer"] is not None), key=lambda r: r["rank"])
    return figures.drawing(run.figures, "copies_by_rank", _by_rank(rows), width_px=760) if len(rows) > 1 else None


def _by_rank(rows: Sequence[Row]) -> figures.Draw:
    """Return the drawing of suspected copies and of the membership attack over ranks, with what chance gives."""

    def draw(narrow: bool) -> Figure:
        figure = figures.new(4.2, 5.0) if narrow else figures.new(7.6, 3.2)
        copies, attack = figure.subplots(*((2, 1) if narrow else (1, 2)))
        places = range(len(rows))
        (colour, marker), (other, square) = MODELS[:2]
        shared = {"lw": 1.6, "ms": 5}
        copies.plot(places, [r["share_closer"] for r in rows], color=colour, marker=marker, label="closest", **shared)
        below = [r["share_below_percentile"] for r in rows]
        copies.plot(places, below, color=other, marker=square, label="first percentile", **shared)
        copies.plot(places, [r["share_expected"] for r in rows], color=MUTED, ls="--", lw=1, label="closest, by chance")
        copies.set(ylabel="synthetic images, %", title="Closer than held-out images")
        copies.legend()
        known = [(i, r) for i, r in enumerate(rows) if r["membership_auc"] is not None]
        attack.plot(
            [i for i, _ in known], [r["membership_auc"] for _, r in known], color=colour, marker=marker, **shared
        )
        for i, r in known:
            if r["membership_auc_low"] is not None:
                attack.plot([i, i], [r["membership_auc_low"], r["membership_auc_high"]], color=colour, lw=1.2)
        attack.axhline(50, color=MUTED, ls="--", lw=1)
        attack.set(ylabel="AUC, %", title="Membership inference")
        for axes in (copies, attack):
            axes.set_xticks(list(places), [str(r["rank"]) for r in rows])
            axes.set_xlabel("LoRA rank")
            axes.grid(axis="y", color=LINE, lw=0.6)
        return figure

    return draw


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
