"""Near copies: synthetic images that lie closer to a training image than real images of other patients ever do.

In: pixels and features of synthetic, training and held-out images, and the patients of the real ones. Out: each
synthetic image's nearest training image by both, whether it is closer than real patients are, and the worst cases.
Source: the question is that of Carlini et al., "Extracting training data from diffusion models"
(arXiv 2301.13188), and Somepalli et al., "Diffusion art or digital forgery?" (CVPR 2023, arXiv 2212.03860). Their
fixed thresholds are not used: ultrasound fans are all alike, so the yardstick is held-out patients' distances to the
same training images (the data-copying test of Meehan et al., AISTATS 2020, arXiv 2004.05675, asks the same on average).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fulora.errors import fault, raise_if_any

THUMBNAIL_PX = 32
"""Images are compared at this side: small shifts, speckle and compression do not hide a copy."""
SAME_IMAGE = 1e-6
"""Pixel distance below which a held-out image is a training image (a catalog's repeat), not another patient's."""
NUM_WORST = 16
"""Worst cases that are listed."""
_BLOCK = 512
_LUMA = (np.float32(299), np.float32(587), np.float32(114))
"""Thousandths of the channels in grey (ITU-R BT.601, as Pillow has it): exact in float32, so grey images stay grey."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """The images of one side; real ones with their patients."""

    pixels: np.ndarray
    """uint8 [N, H, W, 3] or [N, H, W]; sides may differ in size, and are read in blocks (a mapped file will do)."""
    features: np.ndarray
    """float [N, D], all sides from one extractor."""
    image_ids: Sequence[str]
    """Id per image."""
    patient_ids: Sequence[str] = ()
    """Patient per image; needed of training and held-out images where there are held-out ones."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NearestImage:
    """A synthetic image and the training images nearest to it."""

    image_id: str
    """The synthetic image."""
    nearest_pixels: str
    """Id of the training image nearest by pixels."""
    distance_pixels: float
    """RMS difference of the grey thumbnails at mean 0 and deviation 1: 0 a copy, 1.41 unrelated, 2 a negative."""
    flipped: bool
    """Whether it is nearest after turning left to right."""
    nearest_features: str
    """Id of the training image nearest by features."""
    distance_features: float
    """Distance of the features, each of length 1: sqrt(2 - 2 cosine)."""
    closer_than_real: bool | None
    """Whether either distance is below that of every held-out real image; None without held-out images."""
    ratio: float | None
    """The smaller of distance over closest held-out distance, by pixels and features; below 1 is closer than real."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Distances of held-out real images to their nearest training image."""

    minimum: float
    """The closest held-out image's."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CopyAudit:
    """What the audit found."""

    images: list[NearestImage]
    """One entry per synthetic image, in their order."""
    share_closer: float | None
    """Percent of synthetic images that are closer than real; None without held-out images."""
    share_by_chance: float | None
    """Percent that new images of new patients would show at most on average: 2 / (held-out patients + 1), two
    distances being looked at."""
    pixels: Thresholds | None
    """Held-out distances by pixels."""
    features: Thresholds | None
    """Held-out distances by features."""
    num_synthetic: int
    """Synthetic images."""
    num_training: int
    """Training images."""
    num_heldout: int
    """Held-out real images that make the thresholds."""
    num_heldout_patients: int
    """Their patients."""
    worst: tuple[int, ...]
    """Indices into `images`, the worst first: by ratio, or without held-out images by the smaller of distance over
    the mean distance."""
    extractor: str
    """What made the features."""
    notes: list[str]
    """What could not be said, and what was left out, in sentences."""


def audit_copies(
    synthetic: FeatureSet,
    training: FeatureSet,
    heldout: FeatureSet | None = None,
    *,
    extractor: str,
    num_worst: int = NUM_WORST,
    block: int = _BLOCK,
) -> CopyAudit:
    """Return the nearest training image of every synthetic one, and which are closer than real patients' images are.

    By pixels: grey thumbnails of 32 px (area averages), each brought to mean 0 and deviation 1, so that brightness and
    contrast hide nothing; RMS difference, the lower of upright and turned left to right. An image without contrast is
    1.41 from all but its like. By features: Euclidean distance at length 1, which orders as the cosine does; the length
    follows contrast more than content. `extractor` names what made them. Held-out images, which must be of none of the
    training patients, go the same way; a synthetic image is closer than real where one of its distances is below the
    least of theirs. Held-out images that are a training image pixel by pixel are left out and counted: catalogs hold
    images twice under two patients, and one such would make the least distance 0 and the audit blind.
    A flag is a case to look at, not a proof: blurred images are nearer to all others by pixels. Held-out images should
    be of the same planes and device as the synthetic ones. Without held-out images thresholds and shares are None.
    Float64 products in blocks of `block` rows: memory grows with N, not with N times the training images.
    Raises InputError for sides that do not fit together, for features that are not finite, and for a shared patient.
    """
    raise_if_any(_faults(synthetic, training, heldout, num_worst, block))
    pixels, features = _thumbnails(training.pixels, block), _unit(training.features)
    found = _Nearest.of(synthetic, pixels, features, block)
    notes: list[str] = []
    kept = np.zeros(0, dtype=np.int64)
    patients = 0
    by_pixels = by_features = None
    closer: np.ndarray | None = None
    if heldout is not None and len(heldout.image_ids):
        real = _Nearest.of(heldout, pixels, features, block)
        kept = np.flatnonzero(real.distance_pixels >= SAME_IMAGE)
        repeats = len(real.distance_pixels) - len(kept)
        patients = len(set(np.asarray(heldout.patient_ids, dtype=str)[kept].tolist()))
        if repeats:
            notes.append(f"{repeats} held-out images are left out: their pixels are a training image's.")
        if len(kept):
            by_pixels, by_features = (_thresholds(d[kept]) for d in (real.distance_pixels, real.distance_features))
    distances = np.stack([found.distance_pixels, found.distance_features], axis=1)
    if by_pixels is None or by_features is None:
        notes.append(
            "There are no held-out real images: how close real patients come is not known, so nothing is said of which "
            "images are too close. The worst cases are the closest ones."
        )
        ratios = _ratios(distances, distances.mean(0))
    else:
        least = np.array([by_pixels.minimum, by_features.minimum])
        ratios = _ratios(distances, least)
        for name in np.array(["pixels", "features"])[least == 0]:
            notes.append(f"The closest held-out image is at distance 0 by {name}: nothing can be closer by {name}.")
        closer = np.asarray((distances < least).any(1))
    images = [
        NearestImage(
            image_id=str(image_id),
            nearest_pixels=str(training.image_ids[int(found.nearest_pixels[row])]),
            distance_pixels=float(found.distance_pixels[row]),
            flipped=bool(found.flipped[row]),
            nearest_features=str(training.image_ids[int(found.nearest_features[row])]),
            distance_features=float(found.distance_features[row]),
            closer_than_real=None if closer is None else bool(closer[row]),
            ratio=None if closer is None else float(ratios[row]),
        )
        for row, image_id in enumerate(synthetic.image_ids)
    ]
    return CopyAudit(
        images=images,
        share_closer=None if closer is None else 100 * float(closer.mean()),
        share_by_chance=None if closer is None else min(100.0, 200 / (patients + 1)),
        pixels=by_pixels,
        features=by_features,
        num_synthetic=len(images),
        num_training=len(training.image_ids),
        num_heldout=len(kept),
        num_heldout_patients=patients,
        worst=tuple(int(row) for row in np.argsort(ratios, kind="stable")[:num_worst]),
        extractor=extractor,
        notes=notes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Nearest:
    """Rows of the nearest training images and the distances to them, each [N]."""

    nearest_pixels: np.ndarray
    distance_pixels: np.ndarray
    flipped: np.ndarray
    nearest_features: np.ndarray
    distance_features: np.ndarray

    @classmethod
    def of(cls, images: FeatureSet, pixels: np.ndarray, features: np.ndarray, block: int) -> _Nearest:
        """Return those of `images` among thumbnails and features of length 1."""
        own = _thumbnails(images.pixels, block)
        # Turning the one is turning the other.
        turned = own.copy()
        turned[:, :-1] = own[:, :-1].reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)[:, :, ::-1].reshape(len(own), -1)
        upright = _nearest(own, pixels, block)
        mirrored = _nearest(turned, pixels, block)
        flipped = mirrored[1] < upright[1]
        by_features = _nearest(_unit(images.features), features, block)
        return cls(
            nearest_pixels=np.where(flipped, mirrored[0], upright[0]),
            distance_pixels=np.where(flipped, mirrored[1], upright[1]),
            flipped=flipped,
            nearest_features=by_features[0],
            distance_features=by_features[1],
        )


def _nearest(rows: np.ndarray, others: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of the nearest of `others` and the distance to it, int64 and float64 [N], of unit vectors.

    The nearest has the largest product; its distance is then taken from the difference, so that a copy's is 0.
    """
    nearest = np.empty(len(rows), dtype=np.int64)
    distance = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        nearest[part] = (rows[part] @ others.T).argmax(1)
        distance[part] = np.linalg.norm(rows[part] - others[nearest[part]], axis=1)
    return nearest, distance


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return rows [N, D] at length 1 in float64 [N, D + 1]; a row of zeros becomes 1 in the added column, and so is
    at a right angle to all but its like."""
    rows = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    flat = lengths <= 1e-9
    out = np.zeros((len(rows), rows.shape[1] + 1))
    out[:, :-1] = np.where(flat[:, None], 0, rows / np.where(flat, 1, lengths)[:, None])
    out[:, -1] = flat
    return out


def _thumbnails(pixels: np.ndarray, block: int) -> np.ndarray:
    """Return grey thumbnails of mean 0 and length 1, float64 [N, 32 * 32 + 1], of uint8 [N, H, W, 3] or [N, H, W].

    Between two of them the Euclidean distance is the RMS difference at deviation 1. The last column is `_unit`'s.
    """
    down, across = (_area_weights(side) for side in pixels.shape[1:3])
    out = np.empty((len(pixels), THUMBNAIL_PX**2 + 1))
    step = max(1, min(block, 64))  # In floats the images are eight times as large, and cost more than the products.
    for start in range(0, len(pixels), step):
        part = pixels[start : start + step]
        if part.ndim == 4:
            red, green, blue = (part[..., channel] * _LUMA[channel] for channel in range(3))
            part = (red + green + blue).astype(np.float64) / 1000
        rows = part.reshape(-1, part.shape[2]).astype(np.float64) @ across.T
        small = (down @ rows.reshape(len(part), -1, THUMBNAIL_PX)).reshape(len(part), -1)
        out[start : start + step] = _unit(_centred(small))
    return out


def _centred(small: np.ndarray) -> np.ndarray:
    """Return rows less their mean; exactly 0 for rows whose deviation is rounding of an image without contrast."""
    centred = small - small.mean(1, keepdims=True)
    return np.where(centred.std(1, keepdims=True) < 1e-3, 0, centred)


def _area_weights(side: int) -> np.ndarray:
    """Return the weights float64 [32, side] that average `side` pixels by area; rows sum to 1."""
    edges = np.linspace(0, side, THUMBNAIL_PX + 1)
    cells = np.arange(side)
    shared = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.maximum(shared, 0) * (THUMBNAIL_PX / side)


def _thresholds(distances: np.ndarray) -> Thresholds:
    return Thresholds(minimum=float(distances.min()))


def _ratios(distances: np.ndarray, yardsticks: np.ndarray) -> np.ndarray:
    """Return the smaller of distance over yardstick, float64 [N], of [N, 2] and [2]; a yardstick of 0 says nothing."""
    none = np.full(distances.shape, np.inf)
    return np.divide(distances, yardsticks, out=none, where=np.broadcast_to(yardsticks > 0, distances.shape)).min(1)


def _faults(
    synthetic: FeatureSet, training: FeatureSet, heldout: FeatureSet | None, num_worst: int, block: int
) -> list[str]:
    """Return every fault of what the audit was given."""
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
