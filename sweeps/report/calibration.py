"""Calibration of the classifiers: expected calibration error, Brier score and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fulora.evaluate.calibration import NUM_BINS
from sweeps.report import figures
from sweeps.report.colours import LINE, MODELS, MUTED
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST_IN_BIN = 3
"""Bins with fewer predictions are not drawn."""


def calibration_section(run: RunFiles, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return every row's calibration, means over rows, and the reliability diagrams; `colours` has one per regime."""
    rows, bins = run.tables["calibration"], run.tables["reliability"]
    if not rows:
        return {"rows": []}
    return {
        "rows": rows,
        "confidence": fmean(r["confidence"] for r in rows),
        "accuracy": fmean(r["accuracy"] for r in rows),
        "best": min(rows, key=lambda r: r["ece"]),
        "num_miscalibrated": sum(r["ece"] > r["ece_calibrated"] for r in rows),
        "num_bins": NUM_BINS,
        "fewest_in_bin": FEWEST_IN_BIN,
        "figure": figures.drawing(run.figures, "reliability", _reliability(bins, colours)) if bins else None,
    }


def _reliability(rows: Sequence[Row], colours: Mapping[str, str]) -> figures.Draw:
    """Return the reliability diagrams, one panel per regime: accuracy over confidence by bin, one line per model."""
    regimes = list(dict.fromkeys(r["regime"] for r in rows))
    models = list(dict.fromkeys(r["model"] for r in rows))

    def draw(narrow: bool) -> Figure:
        across = 2 if narrow else min(3, len(regimes))
        down = -(-len(regimes) // across)
        figure = figures.new(4.2, 2.2 * down + 1.2) if narrow else figures.new(10.6 / 3 * across, 3.3 * down + 0.5)
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in panels[len(regimes) :]:
            axes.set_visible(False)
        for place, (axes, regime) in enumerate(zip(panels, regimes)):
            axes.plot([0, 100], [0, 100], color=MUTED, lw=1, ls=(0, (4, 3)), label="perfect calibration")
            for model, (colour, marker) in zip(models, MODELS * len(models)):
                mine = [r for r in rows if (r["regime"], r["model"]) == (regime, model)]
                shown = [r for r in mine if r["count"] >= FEWEST_IN_BIN]
                x, y = [r["confidence"] for r in shown], [r["accuracy"] for r in shown]
                total = sum(r["count"] for r in mine)
                sizes = [(60 if narrow else 150) * r["count"] / total + 6 for r in shown]
                axes.plot(x, y, color=colour, lw=1, alpha=0.6)
                axes.scatter(x, y, s=sizes, c=colour, marker=marker, lw=0.4, edgecolors="white", zorder=3)
                axes.plot([], [], color=colour, marker=marker, ms=5, lw=1, label=model)  # for the legend alone
            axes.set_title(regime, color=colours[regime])
            axes.set(xlim=(15, 102), ylim=(-3, 103), xticks=(20, 40, 60, 80, 100), yticks=(0, 25, 50, 75, 100))
            if place + across >= len(regimes):
                axes.set_xlabel("confidence, %")
                axes.tick_params(labelbottom=True)
            if place % across == 0:
                axes.set_ylabel("accuracy, %")
            axes.grid(color=LINE, lw=0.6)
            axes.set_axisbelow(True)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 if narrow else 6)
        return figure

    return draw
