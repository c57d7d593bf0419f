"""Decode and resize images once, into a file that all trials of a node map into memory.

In: a selection of real images, or shards of synthetic ones. Out: a pixel store (`fulora.data.pixels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fulora.data.pixels import PixelRows, open_store, write_store
from fulora.data.records import ImageRecord
from sweeps.core.selections import SELECTION, read_images
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.images.rows import drawn_rows, record_of


def decode_images(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write the store of all images of a step's needs."""
    records: list[ImageRecord] = []
    for need in step.needs["images"]:
        folder = place.folder_of(need)
        if need.kind.name == SELECTION.name:
            records += [r for group in read_images(folder, place.store).values() for r in group]
        else:
            records += [record_of(row, folder) for row in drawn_rows(folder)]
    write_store(place.out, records, step.config.resolution_px)
    return {"num_images": len(records)}


def pixels_of(folders: Sequence[Path], records: Sequence[ImageRecord]) -> PixelRows:
    """Return the images in the order of the records, left in the stores that all trials of a node map."""
    return PixelRows([open_store(folder) for folder in folders], [r.image_id for r in records])
