"""Renders figures as SVG (sharp at any size, in print too) and PNG, for a wide and for a narrow page.

In: a function that draws a figure. Out: files under `figures/`, and data URIs for the page. pyplot is not used:
no global state, no display.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.core.files import atomic_path
from sweeps.report.colours import INK, MUTED
from sweeps.report.formats import data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": "#9aa3af", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "svg.fonttype": "path", "svg.hashsalt": "fulora",
    "figure.facecolor": "white", "savefig.dpi": 160,
}  # fmt: skip

Draw = Callable[[bool], "Figure"]
"""Draws a figure; the argument is True for a narrow page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A figure as the page embeds it."""

    wide: str
    """SVG for a wide page, as a data URI."""
    narrow: str
    """SVG for a narrow page, as a data URI."""
    width_px: int
    """Width on a wide page."""


def drawing(folder: Path, name: str, draw: Draw, *, width_px: int = 1052) -> Drawing:
    """Return a figure for the page, and write the wide one to `NAME.svg` and `NAME.png` in a folder."""
    wide, png = rendered(draw, ("svg", "png"))
    (narrow,) = rendered(draw, ("svg",), narrow=True)
    save(folder / f"{name}.svg", wide)
    save(folder / f"{name}.png", png)
    svg = "image/svg+xml"
    return Drawing(wide=data_uri(wide, svg), narrow=data_uri(narrow, svg), width_px=width_px)


def rendered(draw: Draw, kinds: Sequence[str], *, narrow: bool = False) -> list[bytes]:
    """Return the figure as files of these kinds, `svg` and `png`; equal input gives equal bytes."""
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
    """Write a figure's file atomically."""
    with atomic_path(path) as beside:
        beside.write_bytes(content)


def new(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, with a layout in which nothing overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
