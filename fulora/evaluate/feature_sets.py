"""One side of a near-copy audit: pixels, features, ids and patients of its images, and their validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fulora.errors import fault


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """The images of one side, with patients if they are real."""

    pixels: np.ndarray
    """uint8 [N, H, W, 3] or [N, H, W]; sizes may differ between sides; read in blocks, so may be memory-mapped."""
    features: np.ndarray
    """float [N, D], all sides from one extractor."""
    image_ids: Sequence[str]
    """Id per image."""
    patient_ids: Sequence[str] = ()
    """Patient per image; required of training and held-out images if there are held-out ones."""


def faults_of_sets(
    synthetic: FeatureSet, training: FeatureSet, heldout: FeatureSet | None, num_worst: int, block: int
) -> list[str]:
    """Return every fault of an audit's arguments, empty when there is none."""
    sides = {"synthetic": synthetic, "training": training} | ({"heldout": heldout} if heldout is not None else {})
    found = [one for name, side in sides.items() for one in _faults_of(name, side, 0 if name == "heldout" else 1)]
    for name, value, least in (("num_worst", num_worst, 0), ("block", block, 1)):
        if value < least:
            found.append(fault(name, value, f"must be at least {least}", "Choose a larger number"))
    if found:
        return found
    widths = {name: side.features.shape[1] for name, side in sides.items() if len(side.image_ids)}
    if len(set(widths.values())) > 1:
        found.append(fault("features", widths, "must be of one width", "Take all from one extractor"))
    if heldout is None or not len(heldout.image_ids):
        return found
    for name, side in (("training", training), ("heldout", heldout)):
        if len(side.patient_ids) != len(side.image_ids):
            rule = f"must be as many as images ({len(side.image_ids)})"
            found.append(fault(f"{name}.patient_ids", len(side.patient_ids), rule, "Give each image's patient"))
    if shared := sorted(set(map(str, training.patient_ids)) & set(map(str, heldout.patient_ids))):
        rule = f"must not hold patients of the training images ({len(shared)} are)"
        found.append(fault("heldout.patient_ids", shared[0], rule, "Leave the images of these patients out"))
    return found


def _faults_of(name: str, side: FeatureSet, least: int) -> list[str]:
    found: list[str] = []
    shape, kind = side.pixels.shape, side.pixels.dtype
    if kind != np.uint8 or side.pixels.ndim not in (3, 4) or (side.pixels.ndim == 4 and shape[3] != 3):
        rule = "must be uint8 [N, H, W, 3] or [N, H, W]"
        found.append(fault(f"{name}.pixels", f"{kind} {shape}", rule, "Decode the images to bytes"))
    elif len(side.image_ids) and 0 in shape[1:]:
        found.append(fault(f"{name}.pixels", shape, "must have pixels", "Give whole images"))
    if side.features.ndim != 2:
        found.append(fault(f"{name}.features", side.features.shape, "must be [N, D]", "Give one row per image"))
    elif bad := int((~np.isfinite(side.features)).any(1).sum()):
        rule = f"of {len(side.features)} rows hold numbers that are not finite"
        found.append(fault(f"{name}.features", bad, rule, "Look at these images and at the extractor"))
    counts = (len(side.pixels), len(side.features), len(side.image_ids))
    if len(set(counts)) > 1:
        found.append(fault(name, counts, "must be equally many pixels, features and ids", "Give one each per image"))
    elif counts[0] < least:
        found.append(fault(name, counts[0], f"must be at least {least} images", "Give more images"))
    return found
