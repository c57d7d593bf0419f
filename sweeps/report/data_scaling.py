"""Scores over the number and over the share of synthetic training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sweeps.report import figures
from sweeps.report.colours import LINE, MODELS
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KINDS = {"number": "Real images fixed, synthetic added", "share": "Size fixed, real replaced by synthetic"}
_SETTING = "amounts"
"""The field of the experiment that asks for these trainings."""


def data_scaling_section(run: RunFiles) -> dict[str, Any] | None:
    """Return the rows by kind, the best and the smallest of each, and the figure; None where the run does not ask."""
    asked = run.experiment.get(_SETTING) or {}
    if not (asked.get("numbers") or asked.get("shares")):
        return None
    rows = run.tables["data_scaling"]
    scored = [r for r in rows if r["accuracy"] is not None]
    if not scored:
        return {"rows": []}
    kinds = {}
    for kind in _KINDS:
        if mine := [r for r in rows if r["kind"] == kind]:
            known = [r for r in mine if r["accuracy"] is not None]
            best = max(known, key=lambda r: r["accuracy"], default=None)
            kinds[kind] = {"known": known, "best": best, "fewest": known[0] if known else None}
    return {
        "rows": rows,
        "kinds": kinds,
        "num_trainings": max(r["num_trainings"] or 0 for r in rows),
        "covers": next(r["covers"] for r in scored),
        "figure": figures.drawing(
            run.figures, "data_scaling", _curves(scored), width_px=1052 if len(kinds) > 1 else 620
        ),
    }


def _curves(rows: Sequence[Row]) -> figures.Draw:
    """Return the drawing of scores over the number and the share of synthetic images, with 95 % intervals."""
    kinds = [kind for kind in _KINDS if any(r["kind"] == kind for r in rows)]

    def draw(narrow: bool) -> Figure:
        from matplotlib.ticker import MaxNLocator

        figure = figures.new(4.2, 3.0 * len(kinds)) if narrow else figures.new(5.3 * len(kinds), 3.5)
        grid = (len(kinds), 1) if narrow else (1, len(kinds))
        for axes, kind in zip(figure.subplots(*grid, sharey=True, squeeze=False).ravel(), kinds):
            mine = [r for r in rows if r["kind"] == kind]
            for name, label, (colour, marker) in zip(("accuracy", "f1"), ("accuracy", "F1 score"), MODELS):
                axes.plot(
                    [_place(r) for r in mine], [r[name] for r in mine], color=colour, marker=marker, ms=5, lw=1.6,
                    label=label,
                )  # fmt: skip
                known = [r for r in mine if r[f"{name}_low"] is not None]
                ends = [[r[f"{name}{end}"] for r in known] for end in ("_low", "_high")]
                axes.fill_between([_place(r) for r in known], *ends, color=colour, alpha=0.14, lw=0)
            axes.set_title(_KINDS[kind])
            axes.set(xlabel="synthetic images" if kind == "number" else "synthetic share of the training set, %")
            if kind == "number":
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y", color=LINE, lw=0.6)
            axes.set_axisbelow(True)
        first = figure.axes[0]
        first.set_ylabel("score, %")
        first.legend(loc="lower right", ncols=2)
        return figure

    return draw


def _place(row: Row) -> float:
    """Return where a row lies on its panel's x-axis."""
    if row["kind"] == "number":
        return row["num_synthetic"]
    return 100 * row["num_synthetic"] / (row["num_es"] + row["num_synthetic"])
