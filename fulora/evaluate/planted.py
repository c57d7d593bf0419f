"""Sensitivity of the near-copy audit, measured on planted copies: slightly altered training images.

In: training images. Out: planted copies with their sources, and after the audit the share of each kind it found. An
audit that finds no copies is evidence only if it finds planted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fulora.errors import InputError, fault
from fulora.evaluate.copies import CopyAudit
from fulora.evaluate.feature_sets import FeatureSet
from fulora.seeds import numpy_rng

KINDS: tuple[str, ...] = ("exact", "cropped", "shifted", "rotated", "brightened", "blended")
"""Alterations of planted copies.

Cropped: a random crop of 90 % of each side, resized to the full size. Shifted by 5 % of the side along one axis,
rotated by 5 degrees, in either direction; uncovered pixels are black. Brightened: 70 % of the contrast and 40 levels of
255 more. Blended: with 30 % of another training image."""
CROPPED_SHARE, SHIFT_SHARE, ROTATION_DEGREES, BLENDED_SHARE = 0.9, 0.05, 5.0, 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedCopies:
    """Altered training images."""

    pixels: np.ndarray
    """uint8, as the training images."""
    kinds: tuple[str, ...]
    """Alteration of each, one of KINDS."""
    sources: tuple[int, ...]
    """Row of the training image each is a copy of."""

    def image_set(self, features: np.ndarray) -> FeatureSet:
        """Return them as the synthetic side of an audit; `features` [N, D] of `pixels` from the audit's extractor."""
        ids = [f"planted/{kind}-{i:04d}" for i, kind in enumerate(self.kinds)]
        return FeatureSet(pixels=self.pixels, features=features, image_ids=ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedShare:
    """Result of the audit for one kind of planted copies."""

    kind: str
    """One of KINDS."""
    num_planted: int
    """Number of copies of this kind."""
    share_found: float | None
    """Percent closer than every held-out image; None without held-out images."""
    share_below_percentile: float | None
    """Percent below the first percentile of held-out images; None without held-out images."""
    share_traced: float
    """Percent whose nearest image by any distance is their source."""


def plant_copies(training: np.ndarray, *, per_kind: int, seed: int) -> PlantedCopies:
    """Return `per_kind` copies of each kind of training images uint8 [N, H, W, 3] or [N, H, W], drawn by `seed`.

    At most N of each kind, no source twice within a kind. Raises InputError for fewer than two images or no copies.
    """
    if len(training) < 2 or per_kind < 1:
        rule = "training images and copies per kind: must be at least 2 and 1"
        raise InputError(fault("planted", (len(training), per_kind), rule, "Give more images."))
    rng = numpy_rng(seed, "planted copies")
    pixels, kinds, sources = [], list[str](), list[int]()
    for kind in KINDS:
        for source in rng.permutation(len(training))[:per_kind].tolist():
            other = (source + int(rng.integers(1, len(training)))) % len(training)
            pixels.append(_changed(np.asarray(training[source]), np.asarray(training[other]), kind, rng))
            kinds.append(kind)
            sources.append(source)
    return PlantedCopies(pixels=np.stack(pixels), kinds=tuple(kinds), sources=tuple(sources))


def shares_found(planted: PlantedCopies, audit: CopyAudit, training_ids: Sequence[str]) -> list[PlantedShare]:
    """Return what an audit of `planted.image_set` found, per kind; `training_ids` are the audit's, in their order."""
    if len(audit.images) != len(planted.kinds):
        counts, rule = (len(audit.images), len(planted.kinds)), "must be the audit of these planted copies"
        raise InputError(fault("audit", counts, rule, "Audit `planted.image_set` first."))
    found = []
    for kind in KINDS:
        rows = [row for row, k in enumerate(planted.kinds) if k == kind]
        if not rows:
            continue
        closer = [audit.images[row].closer_than_real for row in rows]
        below = [audit.aligned_images[row].below_percentile for row in rows]
        traced = [
            str(training_ids[planted.sources[row]])
            in (audit.images[row].nearest_pixels, audit.images[row].nearest_features, audit.aligned_images[row].nearest)
            for row in rows
        ]
        found.append(
            PlantedShare(
                kind=kind,
                num_planted=len(rows),
                share_found=None if None in closer else 100 * float(np.mean(np.array(closer, dtype=bool))),
                share_below_percentile=None if None in below else 100 * float(np.mean(np.array(below, dtype=bool))),
                share_traced=100 * float(np.mean(traced)),
            )
        )
    return found


def _changed(image: np.ndarray, other: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return an altered image uint8 [H, W] or [H, W, 3]."""
    height, width = image.shape[:2]
    way = float(rng.choice([-1, 1]))
    picture = Image.fromarray(image)
    if kind == "cropped":
        left, top = rng.random(2) * (1 - CROPPED_SHARE) * (width, height)
        box = (left, top, left + CROPPED_SHARE * width, top + CROPPED_SHARE * height)
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))
    if kind == "shifted":
        across, down = ((way, 0.0), (0.0, way))[int(rng.integers(2))]
        move = (1.0, 0.0, across * SHIFT_SHARE * width, 0.0, 1.0, down * SHIFT_SHARE * height)
        moved = picture.transform((width, height), Image.Transform.AFFINE, move, Image.Resampling.BILINEAR)
        return np.asarray(moved)
    if kind == "rotated":
        return np.asarray(picture.rotate(way * ROTATION_DEGREES, Image.Resampling.BILINEAR))
    if kind == "brightened":
        return np.clip(0.7 * image + 40, 0, 255).round().astype(np.uint8)
    if kind == "blended":
        mixed = (1 - BLENDED_SHARE) * image.astype(np.float64) + BLENDED_SHARE * other
        return mixed.round().astype(np.uint8)
    return image.copy()
