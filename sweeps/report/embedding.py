"""The t-SNE embedding of Spanish, synthetic and African images, one panel per plane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fulora.planes import TESTED_PLANES
from sweeps.report import figures
from sweeps.report.colours import LINE, SOURCES
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def embedding_section(run: RunFiles) -> dict[str, Any]:
    """Return the figure, the counts by plane and source, and the names of the feature extractors."""
    rows = run.tables["embedding"]
    if not rows:
        return {"figure": None}
    counts = Counter((r["plane"], r["source"]) for r in rows)
    planes = list(dict.fromkeys(r["plane"] for r in rows))
    sizes = {plane: {name: counts[plane, key] for key, (name, _, _) in SOURCES.items()} for plane in planes}
    return {
        "figure": figures.drawing(run.figures, "tsne", _tsne(rows)),
        "sizes": sizes,
        "same": len({tuple(size.values()) for size in sizes.values()}) == 1,
        "features": sorted({r["features"] or "not recorded" for r in rows}),
    }


def _tsne(rows: Sequence[Row]) -> figures.Draw:
    """Return the drawing of the embedding, one panel per tested plane. Its axes have no unit."""

    def draw(narrow: bool) -> Figure:
        planes = [p.name for p in TESTED_PLANES if any(r["plane"] == p.name for r in rows)]
        across = 2 if narrow else max(1, len(planes))
        down = -(-len(planes) // across)
        figure = figures.new(4.2, 2.1 * down + 0.5) if narrow else figures.new(10.6, 3.1)
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
