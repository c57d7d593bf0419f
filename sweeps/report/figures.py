"""The report's figures, drawn once for a wide page and once for a narrow one.

In: a run's rows. Out: functions that draw a figure, and figures as SVG (sharp on every screen and on paper) and PNG.
No pyplot: no global state, no display.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.planes import TESTED_PLANES
from sweeps.core.files import atomic_path as written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

INK, MUTED, LINE = "#1b2430", "#5b6675", "#d9dee6"
HERE = "#1f5fa8"
REGIME_COLOURS = {"ES": "#6b7280", "ES+DA": "#9a6b1f", "HB": "#1f5fa8", "HB+DA": "#7a3b9c"}
RANK_COLOURS = ("#8fb8de", "#3f83c4", "#123f73", "#7a3b9c", "#b0507f")
SOURCES = {
    "spanish": ("Spanish", "#c9302c", "o"),
    "synthetic": ("Synthetic", "#e3a008", "^"),
    "african": ("African", "#2c8a4b", "s"),
}
"""Name, colour and marker by source. Colours: the paper's Fig. 3; markers, for who cannot tell red from green."""
MODEL_MARKS = (("#1f5fa8", "o"), ("#c9772c", "s"), ("#2c8a4b", "^"), ("#7a3b9c", "D"), ("#6b7280", "v"))
"""Colour and marker by model, in the order of the table; markers, for who cannot tell the colours."""
FEWEST_IN_BIN = 3
"""A reliability bin of fewer predictions is not drawn: it says nothing."""
STAGE_COLOURS = {"judge": "#8a93a0", "lora": "#c9772c", "sample": "#2c8a4b", "grid": "#1f5fa8"}

_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": "#9aa3af", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "svg.fonttype": "path", "svg.hashsalt": "fulora",
    "figure.facecolor": "white", "savefig.dpi": 160,
}  # fmt: skip

Draw = Callable[[bool], "Figure"]
"""Draws a figure; True: for a narrow page."""


def rendered(draw: Draw, kinds: Sequence[str], *, narrow: bool = False) -> list[bytes]:
    """Return the figure as files of these kinds, `svg` and `png`, in the house's style; equal input, equal bytes."""
    import matplotlib

    files = []
    with matplotlib.rc_context(_STYLE):
        figure = draw(narrow)
        for kind in kinds:
            content = io.BytesIO()
            figure.savefig(content, format=kind, metadata={"Date": None} if kind == "svg" else {})
            figure.set_layout_engine("none")  # laid out once; a second time costs as much and changes nothing
            files.append(content.getvalue())
    return files


def save(path: Path, content: bytes) -> None:
    """Write a figure's file, whole or not at all."""
    with written(path) as beside:
        beside.write_bytes(content)


def new(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, its parts laid out so that nothing overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def loss(losses: Mapping[int, Sequence[Row]]) -> Draw:
    """Return the drawing of the loss over steps, one curve per rank: as logged, its running mean, circles held out."""

    def draw(narrow: bool) -> Figure:
        figure = new(4.2, 3.0) if narrow else new(7.6, 3.4)
        axes = figure.subplots()
        for colour, (rank, rows) in zip(_cycle(RANK_COLOURS, len(losses)), sorted(losses.items())):
            steps = np.array([r["step"] for r in rows])
            values = np.array([r["loss"] for r in rows], dtype=float)
            axes.plot(steps, values, color=colour, lw=0.8, alpha=0.4)
            axes.plot(steps, _running_mean(values), color=colour, lw=2, label=f"rank {rank}")
            watched = [(r["step"], r["heldout_loss"]) for r in rows if r.get("heldout_loss") is not None]
            if watched:
                axes.plot(*zip(*watched), color=colour, marker="o", ms=5, mfc="white", lw=0, zorder=3)
        axes.set(xlabel="step", ylabel="mean squared error of the noise")
        axes.grid(axis="y", color=LINE, lw=0.6)
        axes.margins(x=0.01)
        axes.legend(ncols=3, loc="upper right")
        return figure

    return draw


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the tenth of the points around each, at the ends of those there are."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[i % len(colours)] for i in range(count)]


def scores(rows: Sequence[Row], published: Mapping[tuple[str, str], Row]) -> Draw:
    """Return the dot plot of Table 1: accuracy and F1 with 95 % intervals, the paper's values hollow beside them."""

    def draw(narrow: bool) -> Figure:
        count = len(rows)
        figure = new(4.2, 0.5 * count + 2.2) if narrow else new(10.6, 0.235 * count + 1.5)
        panels = figure.subplots(2, 1) if narrow else figure.subplots(1, 2, sharey=True)
        for axes, (name, title) in zip(panels, (("accuracy", "Accuracy, %"), ("f1", "F1, %"))):
            _dots(axes, rows, published, name)
            axes.set_title(title)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if narrow else 3)
        return figure

    return draw


def _dots(axes: Axes, rows: Sequence[Row], published: Mapping[tuple[str, str], Row], name: str) -> None:
    places: list[float] = []
    place, before = 0.0, None
    for row in rows:
        place += 1.0 if row["regime"] == before or before is None else 1.7
        before = row["regime"]
        places.append(place)
    named = set()
    for y, row in zip(places, rows):
        colour = REGIME_COLOURS.get(row["regime"], HERE)
        value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
        if low is not None and high is not None:
            label = None if "ci" in named else "95 % interval over test patients"
            axes.plot([low, high], [y, y], color=colour, lw=2.2, alpha=0.45, solid_capstyle="round", label=label)
            named.add("ci")
        if value is not None:
            label = None if "run" in named else "this run"
            axes.plot(value, y, "o", color=colour, ms=5.5, label=label, zorder=3)
            named.add("run")
        if paper := published.get((row["regime"], row["model"])):
            label = None if "paper" in named else "the paper, on its own data"
            axes.plot(paper[name], y, "D", mfc="white", mec=MUTED, ms=4.6, mew=1.1, label=label, zorder=2)
            named.add("paper")
    for regime in dict.fromkeys(r["regime"] for r in rows):
        mine = [(y, r[name]) for y, r in zip(places, rows) if r["regime"] == regime]
        values = [v for _, v in mine if v is not None]
        if len(values) > 1:
            mean = float(np.mean(values))
            colour = REGIME_COLOURS.get(regime, HERE)
            axes.plot(
                [mean, mean], [mine[0][0] - 0.45, mine[-1][0] + 0.45], color=colour, lw=1, ls=(0, (2, 2)), zorder=1
            )
    axes.set_yticks(places, [f"{r['regime']}   {r['model']}" for r in rows])
    axes.set_ylim(places[-1] + 0.8, places[0] - 0.8)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.grid(axis="x", color=LINE, lw=0.6)
    axes.set_axisbelow(True)


def amounts(rows: Sequence[Row]) -> Draw:
    """Return scores over the number of synthetic images and over their share, a panel each, with 95 % intervals."""
    kinds = [kind for kind in ("number", "share") if any(r["kind"] == kind for r in rows)]
    titles = {"number": "Synthetic images beside all real ones", "share": "Synthetic images in place of real ones"}

    def draw(narrow: bool) -> Figure:
        figure = new(4.2, 3.0 * len(kinds)) if narrow else new(5.3 * len(kinds), 3.5)
        grid = (len(kinds), 1) if narrow else (1, len(kinds))
        for axes, kind in zip(figure.subplots(*grid, sharey=True, squeeze=False).ravel(), kinds):
            mine = [r for r in rows if r["kind"] == kind and r["accuracy"] is not None]
            for name, label, (colour, marker) in zip(("accuracy", "f1"), ("accuracy", "F1"), MODEL_MARKS):
                x = [_amount(r) for r in mine]
                axes.plot(x, [r[name] for r in mine], color=colour, marker=marker, ms=5, lw=1.6, label=label)
                known = [r for r in mine if r[f"{name}_low"] is not None]
                ends = [[r[f"{name}{end}"] for r in known] for end in ("_low", "_high")]
                axes.fill_between([_amount(r) for r in known], *ends, color=colour, alpha=0.14, lw=0)
            axes.set_title(titles[kind])
            axes.set(xlabel="synthetic images" if kind == "number" else "synthetic share of the training set, %")
            axes.grid(axis="y", color=LINE, lw=0.6)
            axes.set_axisbelow(True)
        first = figure.axes[0]
        first.set_ylabel("percent")
        first.legend(loc="lower right", ncols=2)
        return figure

    return draw


def _amount(row: Row) -> float:
    """Return where a row lies on its panel's axis."""
    if row["kind"] == "number":
        return row["num_synthetic"]
    return 100 * row["num_synthetic"] / (row["num_es"] + row["num_synthetic"])


def reliability(rows: Sequence[Row]) -> Draw:
    """Return the reliability diagrams, one panel per regime: accuracy over confidence by bin, one line per model."""
    regimes = list(dict.fromkeys(r["regime"] for r in rows))
    models = list(dict.fromkeys(r["model"] for r in rows))

    def draw(narrow: bool) -> Figure:
        across = 2 if narrow else min(3, len(regimes))
        down = -(-len(regimes) // across)
        figure = new(4.2, 2.2 * down + 1.2) if narrow else new(10.6 / 3 * across, 3.3 * down + 0.5)
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in panels[len(regimes) :]:
            axes.set_visible(False)
        for place, (axes, regime) in enumerate(zip(panels, regimes)):
            axes.plot([0, 100], [0, 100], color=MUTED, lw=1, ls=(0, (4, 3)), label="calibrated")
            for model, (colour, marker) in zip(models, MODEL_MARKS * len(models)):
                mine = [r for r in rows if (r["regime"], r["model"]) == (regime, model)]
                shown = [r for r in mine if r["count"] >= FEWEST_IN_BIN]
                x, y = [r["confidence"] for r in shown], [r["accuracy"] for r in shown]
                total = sum(r["count"] for r in mine)
                sizes = [(60 if narrow else 150) * r["count"] / total + 6 for r in shown]
                axes.plot(x, y, color=colour, lw=1, alpha=0.6)
                axes.scatter(x, y, s=sizes, c=colour, marker=marker, lw=0.4, edgecolors="white", zorder=3)
                axes.plot([], [], color=colour, marker=marker, ms=5, lw=1, label=model)  # for the legend alone
            axes.set_title(regime)
            axes.set(xlim=(15, 102), ylim=(-3, 103), xticks=(20, 40, 60, 80, 100), yticks=(0, 25, 50, 75, 100))
            if place + across >= len(regimes):
                axes.set_xlabel("confidence, %")
                axes.tick_params(labelbottom=True)
            if place % across == 0:
                axes.set_ylabel("right, %")
            axes.grid(color=LINE, lw=0.6)
            axes.set_axisbelow(True)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2 if narrow else 6)
        return figure

    return draw


def tsne(rows: Sequence[Row]) -> Draw:
    """Return the drawing of the embedding, one panel per tested plane. Its axes have no unit."""

    def draw(narrow: bool) -> Figure:
        planes = [p.name for p in TESTED_PLANES if any(r["plane"] == p.name for r in rows)]
        across = 2 if narrow else max(1, len(planes))
        down = -(-len(planes) // across)
        figure = new(4.2, 2.1 * down + 0.5) if narrow else new(10.6, 3.1)
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes in panels[len(planes) :]:
            axes.set_visible(False)
        for axes, plane in zip(panels, planes):
            for source, (label, colour, marker) in SOURCES.items():
                mine = [r for r in rows if (r["plane"], r["source"]) == (plane, source)]
                x, y = [r["x"] for r in mine], [r["y"] for r in mine]
                size = 15 if narrow else 24
                axes.scatter(x, y, s=size, c=colour, marker=marker, label=label, lw=0.4, edgecolors="white", alpha=0.92)
            axes.set_title(plane)
            axes.set(xticks=[], yticks=[])
            for side in axes.spines.values():
                side.set(visible=True, color=LINE)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure

    return draw


def samples(sheet: Sequence[tuple[str, Sequence[bytes | None]]], columns: Sequence[str]) -> Draw:
    """Return the sheet of example pictures (JPEG each, None where there is none): rows by set, columns by plane."""

    def draw(narrow: bool) -> Figure:
        from PIL import Image

        figure = new(1.45 * len(columns) + 1.2, 1.45 * max(1, len(sheet)) + 0.3)
        grid = figure.subplots(max(1, len(sheet)), len(columns), squeeze=False)
        for panels, (title, pictures) in zip(grid, sheet):
            for axes, picture in zip(panels, pictures):
                axes.set(xticks=[], yticks=[])
                for side in axes.spines.values():
                    side.set_visible(False)
                if picture is None:
                    axes.text(0.5, 0.5, "none", ha="center", va="center", color=MUTED, transform=axes.transAxes)
                else:
                    axes.imshow(np.asarray(Image.open(io.BytesIO(picture))), interpolation="none")
            panels[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=8)
        for axes, column in zip(grid[0], columns):
            axes.set_title(column, loc="center", fontweight="normal")
        return figure

    return draw
