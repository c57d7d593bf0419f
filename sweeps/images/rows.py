"""What is known of a synthetic image: its row before it is drawn, and its row of metadata.parquet after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fulora.data.records import ImageRecord
from fulora.diffusion.sampler import SampleRow
from sweeps.core.tables import read_rows

ROWS_FILE = "metadata.parquet"


def planned_record(row: SampleRow) -> ImageRecord:
    """Return an image that is to be drawn as a record; its pixels are decided by the shard that draws it."""
    return _record(row.image_id, row.plane)


def record_of(row: Mapping[str, Any], folder: Path) -> ImageRecord:
    """Return an image that was drawn as a record."""
    return _record(
        row["image_id"], row["plane"], path=str(folder / row["file_name"]), sha256=row["sha256"],
        pixel_hash=row["pixel_hash"],
    )  # fmt: skip


def drawn_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a shard that was drawn."""
    return read_rows(folder / ROWS_FILE, "metadata")


def _record(image_id: str, plane: str, path: str = "", sha256: str = "", pixel_hash: str = "") -> ImageRecord:
    return ImageRecord(
        image_id=f"synthetic/{image_id}", path=path, source="synthetic", plane=plane, patient_id="", centre="",
        machine=None, split="train", width_px=0, height_px=0, sha256=sha256, pixel_hash=pixel_hash,
    )  # fmt: skip
