"""Sheets of example images: generated ones beside real ones, one column per plane.

In: a run's images. Out: rows of cells, each a small picture with words, or the reason why there is none.
Nothing is picked by eye: the first image of each set, and real images drawn from the run's seed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora.planes import PLANES, Plane
from fulora.seeds import numpy_rng
from sweeps.core.paths import BASE_LABEL
from sweeps.report.files import RunFiles

THUMBNAIL_PX = 208
"""Side of a picture on the page; real images are larger, phantoms smaller."""

SAMPLER_NAMES = {"euler": "Euler", "unipc": "UniPC"}
COLUMNS: tuple[Plane, ...] = PLANES


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One picture of a sheet."""

    words: str
    """What it shows, for the alternative text; why there is none where `path` is None."""
    path: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """One row of a sheet."""

    title: str
    detail: str
    cells: Sequence[Cell]


def overview(run: RunFiles) -> list[SheetRow]:
    """Return the rows of the paper's Fig. 2 and one more: each sampler, the base without adapter, Spanish, African."""
    synthetic = run.images["synthetic"]
    samplers = list(dict.fromkeys(r["sampler"] for r in synthetic)) or list(SAMPLER_NAMES)
    rank = next((r["rank"] for r in synthetic), None)
    with_adapter = f"adapter, rank {rank}" if rank is not None else "adapter"
    rows = [
        SheetRow(title=SAMPLER_NAMES.get(s, s), detail=with_adapter, cells=_generated(run, "synthetic", s))
        for s in samplers
    ]
    base = f"{SAMPLER_NAMES.get(samplers[0], samplers[0])}, same prompts and seeds"
    rows.append(SheetRow(title="Base, no adapter", detail=base, cells=_generated(run, BASE_LABEL, samplers[0])))
    for source, name in (("spanish", "Spanish"), ("african", "African")):
        kind = {True: "phantoms", False: "real", None: "source unknown"}[run.on_phantoms(source)]
        rows.append(SheetRow(title=name, detail=kind, cells=_catalogued(run, source)))
    return rows


def ranks(run: RunFiles) -> list[SheetRow]:
    """Return one row per rank and one for the base, of the same prompts and seeds; empty where there are no ranks."""
    labels = {label: rows[0]["rank"] for label, rows in run.images.items() if rows and label != BASE_LABEL}
    if not labels or not run.images[BASE_LABEL]:
        return []
    ordered = [BASE_LABEL, *sorted(labels, key=lambda label: labels[label])]
    sampler = run.images[BASE_LABEL][0]["sampler"]
    titles = {label: f"Rank {rank}" for label, rank in labels.items()} | {BASE_LABEL: "Base"}
    details = {"synthetic": "trained on", BASE_LABEL: "no adapter"}
    return [
        SheetRow(title=titles[label], detail=details.get(label, ""), cells=_generated(run, label, sampler))
        for label in ordered
    ]


def thumbnail(path: Path) -> bytes:
    """Return the image as a JPEG of THUMBNAIL_PX, enlarged smoothly or reduced, on black where it is not square."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        square = ImageOps.pad(
            image.convert("RGB"), (THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC, color=(0, 0, 0)
        )
    content = io.BytesIO()
    square.save(content, format="JPEG", quality=86)
    return content.getvalue()


def _generated(run: RunFiles, label: str, sampler: str) -> list[Cell]:
    cells = []
    for plane in COLUMNS:
        rows = [r for r in run.images.get(label, []) if r["plane"] == plane.name and r["sampler"] == sampler]
        cells.append(_cell(run.folder(label), rows[0], label) if rows else Cell(words="not sampled"))
    return cells


def _cell(folder: Path, row: dict[str, Any], label: str) -> Cell:
    path = folder / row["file_name"]
    who = "the base without adapter" if label == BASE_LABEL else f"the rank {row['rank']} adapter"
    sampler = SAMPLER_NAMES.get(row["sampler"], row["sampler"])
    words = f"Generated for “{row['prompt']}” by {who}, {sampler}, seed {row['seed']}"
    return Cell(words=words, path=path) if path.is_file() else Cell(words="file missing")


def _catalogued(run: RunFiles, source: str) -> list[Cell]:
    cells = []
    for plane in COLUMNS:
        rows = [r for r in run.tables["catalog"] if (r["source"], r["plane"]) == (source, plane.name)]
        rows.sort(key=lambda r: r["image_id"])
        if not rows:
            cells.append(Cell(words="none in this source"))
            continue
        row = rows[int(numpy_rng(run.seed, "report", source, plane.name).integers(len(rows)))]
        path = Path(row["path"])
        what = "phantom" if run.on_phantoms(source) else "image"
        words = f"{source.capitalize()} {what} of the plane {plane.name}, {row['centre']}, {row['image_id']}"
        cells.append(Cell(words=words, path=path) if path.is_file() else Cell(words="file missing"))
    return cells
