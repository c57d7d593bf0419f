"""Sheets of example images: generated ones beside real ones, one column per plane.

In: a run's images. Out: rows of cells, each a thumbnail or the reason why there is none. Nothing is selected by eye:
the first image of each generated set, and real images drawn from the run's seed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.planes import PLANES
from fulora.seeds import numpy_rng
from sweeps.core.paths import BASE_LABEL
from sweeps.report import figures
from sweeps.report.colours import MUTED
from sweeps.report.columns import Row
from sweeps.report.files import RunFiles
from sweeps.report.formats import data_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL_PX = 208
"""Side of a thumbnail; real images are larger, phantoms smaller."""

SAMPLERS = {"euler": "Euler", "unipc": "UniPC"}
"""Samplers by the names the paper uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One image of a sheet."""

    row: Row | None
    """Its row of the metadata or the catalog; None where there is no such image."""
    jpeg: bytes | None
    """The thumbnail; None where the file is missing or cannot be read."""

    @property
    def uri(self) -> str | None:
        """The thumbnail as a data URI."""
        return None if self.jpeg is None else data_uri(self.jpeg, "image/jpeg")


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """One row of a sheet."""

    label: str
    """A set of generated images (`synthetic`, `base`, `rank-008`) or a source (`spanish`, `african`)."""
    title: str
    """Name of the row."""
    cells: Sequence[Cell]
    """One per column."""
    sampler: str | None = None
    """Sampler of generated images."""
    rank: int | None = None
    """Rank of the adapter of generated images."""


def sample_section(run: RunFiles) -> dict[str, Any]:
    """Return the sheet of examples; it is written to `figures/samples.png`, too."""
    if not run.images["synthetic"] and not run.tables["catalog"]:
        return {"sheet": []}
    sheet = overview(run)
    draw = _sheet_figure([(row.title, [cell.jpeg for cell in row.cells]) for row in sheet], [p.name for p in PLANES])
    figures.save(run.figures / "samples.png", figures.rendered(draw, ("png",))[0])
    return {"sheet": sheet}


def overview(run: RunFiles) -> list[SheetRow]:
    """Return the rows of the paper's Fig. 2 and one more: each sampler, the base without adapter, Spanish, African."""
    synthetic = run.images["synthetic"]
    samplers = list(dict.fromkeys(r["sampler"] for r in synthetic)) or list(SAMPLERS)
    rows = [_generated(run, "synthetic", s, SAMPLERS.get(s, s)) for s in samplers]
    rows.append(_generated(run, BASE_LABEL, samplers[0], "Base model"))
    for source in ("spanish", "african"):
        rows.append(SheetRow(label=source, title=source.capitalize(), cells=_drawn(run, source)))
    return rows


def by_rank(run: RunFiles) -> list[SheetRow]:
    """Return one row per rank and one for the base, of the same prompts and seeds; empty where there are no ranks."""
    labels = {label: rows[0]["rank"] for label, rows in run.images.items() if rows and label != BASE_LABEL}
    if not labels or not run.images[BASE_LABEL]:
        return []
    sampler = run.images[BASE_LABEL][0]["sampler"]
    ordered = sorted(labels, key=lambda label: labels[label])
    rows = [_generated(run, label, sampler, f"Rank {labels[label]}") for label in ordered]
    return [_generated(run, BASE_LABEL, sampler, "Base model"), *rows]


def cell(row: Row | None, path: Path | None) -> Cell:
    """Return the cell of an image; it has no thumbnail where the file is missing or cannot be read."""
    try:
        return Cell(row=row, jpeg=thumbnail(path) if row and path else None)
    except OSError:
        return Cell(row=row, jpeg=None)


def thumbnail(path: Path) -> bytes:
    """Return the image as a JPEG of THUMBNAIL_PX, padded with black to a square; OSError where it cannot be read."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        square = ImageOps.pad(
            image.convert("RGB"), (THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC, color=(0, 0, 0)
        )
    content = io.BytesIO()
    square.save(content, format="JPEG", quality=86)
    return content.getvalue()


def _generated(run: RunFiles, label: str, sampler: str, title: str) -> SheetRow:
    rows = [r for r in run.images.get(label, []) if r["sampler"] == sampler]
    first = [next((r for r in rows if r["plane"] == plane.name), None) for plane in PLANES]
    cells = [cell(row, run.folder(label) / row["file_name"] if row else None) for row in first]
    rank = next((r["rank"] for r in rows), None)
    return SheetRow(label=label, title=title, cells=cells, sampler=SAMPLERS.get(sampler, sampler), rank=rank)


def _drawn(run: RunFiles, source: str) -> list[Cell]:
    cells = []
    for plane in PLANES:
        rows = [r for r in run.tables["catalog"] if (r["source"], r["plane"]) == (source, plane.name)]
        rows.sort(key=lambda r: r["image_id"])
        if rows:
            row = rows[int(numpy_rng(run.seed, "report", source, plane.name).integers(len(rows)))]
            cells.append(cell(row, Path(row["path"])))
        else:
            cells.append(cell(None, None))
    return cells


def _sheet_figure(sheet: Sequence[tuple[str, Sequence[bytes | None]]], columns: Sequence[str]) -> figures.Draw:
    """Return the drawing of a sheet of JPEG thumbnails."""

    def draw(narrow: bool) -> Figure:
        from PIL import Image

        figure = figures.new(1.45 * len(columns) + 1.2, 1.45 * max(1, len(sheet)) + 0.3)
        grid = figure.subplots(max(1, len(sheet)), len(columns), squeeze=False)
        for panels, (title, images) in zip(grid, sheet):
            for axes, image in zip(panels, images):
                axes.set(xticks=[], yticks=[])
                for side in axes.spines.values():
                    side.set_visible(False)
                if image is None:
                    axes.text(0.5, 0.5, "none", ha="center", va="center", color=MUTED, transform=axes.transAxes)
                else:
                    axes.imshow(np.asarray(Image.open(io.BytesIO(image))), interpolation="none")
            panels[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=8)
        for axes, column in zip(grid[0], columns):
            axes.set_title(column, loc="center", fontweight="normal")
        return figure

    return draw
