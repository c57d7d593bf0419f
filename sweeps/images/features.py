"""Features of a set of images and the judge's predictions: computed once, for fidelity, memorisation and tables.

In: shards or a selection, the judge (its features stand in where Inception's weights are not available, and are named).
Out: features.npy float32 [N, D], pixels.npy uint8 [N, R, R, 3], images.parquet, in one order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fulora.data.pixels import decode_square
from fulora.planes import PLANES, plane_from_label
from sweeps.core.selections import SELECTION, read_images
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.images.quality_plan import FeaturesConfig
from sweeps.images.rows import drawn_rows

_FEATURES, _PIXELS, _IMAGES = "features.npy", "pixels.npy", "images.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """Pixels, features and predictions of a set of images."""

    pixels: np.ndarray
    """uint8 [N, R, R, 3]."""
    features: np.ndarray
    """float32 [N, D]."""
    image_ids: list[str]
    planes: list[str]
    samplers: list[str | None]
    """None for a real image."""
    seen_planes: list[str]
    """The plane the judge predicts for each."""


def take_features(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Decode the images, take their features and the judge's predictions."""
    from fulora.classify.training import predict
    from fulora.device import resolve_device
    from fulora.evaluate.features import choose_features, features_from_classifier
    from fulora.evaluate.judge import load_judge

    config: FeaturesConfig = step.config
    judge, device = load_judge(place.of("judge")), resolve_device("auto")
    own = features_from_classifier(judge.model, judge.name, device=device)
    extractor = choose_features(place.local(config.feature_weights), own, device=device)
    rows = _rows(step, place)
    files, sha256 = [row["file"] for row in rows], [row["sha256"] for row in rows]
    small = decode_square(files, resolution_px=config.judge_resolution_px, workers=2, sha256=sha256)
    # The judge takes its own size alone; Inception resizes by itself.
    same = extractor.name == judge.name or config.image_resolution_px == config.judge_resolution_px
    pixels = small if same else decode_square(files, resolution_px=config.image_resolution_px, workers=2)
    seen = predict(judge.model, small, device=device).argmax(1)
    np.save(place.out / _FEATURES, extractor(pixels))
    np.save(place.out / _PIXELS, pixels)
    table = {
        "image_id": [row["image_id"] for row in rows], "plane": [row["plane"] for row in rows],
        "sampler": pa.array([row["sampler"] for row in rows], pa.string()),
        "seen": [PLANES[index].name for index in seen],
    }  # fmt: skip
    pq.write_table(pa.table(table), place.out / _IMAGES)
    return {"features": extractor.name, "num_images": len(rows), "device": device}


def _rows(step: Step, place: Place) -> list[dict[str, Any]]:
    """Return id, file, plane, sampler and hash of every image."""
    found = []
    for need in step.needs["images"]:
        folder = place.folder_of(need)
        if need.kind.name == SELECTION.name:
            for records in read_images(folder, place.store).values():
                found += [{"image_id": r.image_id, "file": r.path, "plane": plane_from_label(r.plane).name,
                           "sampler": None, "sha256": r.sha256} for r in records]  # fmt: skip
        else:
            found += [{**row, "file": str(folder / row["file_name"])} for row in drawn_rows(folder)]
    return found


def read_features(folder: Path) -> ImageFeatures:
    """Return the features in a step's folder."""
    table = pq.read_table(folder / _IMAGES).to_pydict()
    return ImageFeatures(
        pixels=np.load(folder / _PIXELS), features=np.load(folder / _FEATURES), image_ids=table["image_id"],
        planes=table["plane"], samplers=table["sampler"], seen_planes=table["seen"],
    )  # fmt: skip
