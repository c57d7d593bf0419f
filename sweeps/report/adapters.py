"""LoRA adapters by rank: cost, prompt agreement, loss curves and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeps.report import figures, samples
from sweeps.report.colours import LINE, RANKS, cycle
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rank_section(run: RunFiles) -> dict[str, Any]:
    """Return the facts of the comparison of ranks."""
    rows = run.tables["ranks"]
    known = [r["agreement"] for r in rows if r["agreement"] is not None]
    return {
        "rows": rows,
        "best": max(known, default=None),
        "alpha_is_rank": all(r["alpha"] == r["rank"] for r in rows),
        "ends": {rank: found[-1]["loss"] for rank, found in sorted(run.losses.items())},
        "loss": figures.drawing(run.figures, "loss", _loss(run.losses), width_px=730) if run.losses else None,
        "heldout": any(r.get("heldout_loss") is not None for found in run.losses.values() for r in found),
        "sheet": samples.by_rank(run),
    }


def _loss(losses: Mapping[int, Sequence[Row]]) -> figures.Draw:
    """Return the drawing of the loss over steps, one curve per rank: as logged, running mean, held-out loss."""

    def draw(narrow: bool) -> Figure:
        from matplotlib.ticker import MaxNLocator

        figure = figures.new(4.2, 3.0) if narrow else figures.new(7.6, 3.4)
        axes = figure.subplots()
        for colour, (rank, rows) in zip(cycle(RANKS, len(losses)), sorted(losses.items())):
            steps = np.array([r["step"] for r in rows])
            values = np.array([r["loss"] for r in rows], dtype=float)
            axes.plot(steps, values, color=colour, lw=0.8, alpha=0.4)
            axes.plot(steps, _running_mean(values), color=colour, lw=2, label=f"rank {rank}")
            heldout = [(r["step"], r["heldout_loss"]) for r in rows if r.get("heldout_loss") is not None]
            if heldout:
                axes.plot(*zip(*heldout), color=colour, marker="o", ms=5, mfc="white", lw=0, zorder=3)
        axes.set(xlabel="step", ylabel="noise-prediction loss (MSE)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y", color=LINE, lw=0.6)
        axes.margins(x=0.01)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=4 if narrow else 6)
        return figure

    return draw


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window of a tenth of the points, shorter at the ends."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
