"""Memorisation: synthetic images closer to a training image than real images of other patients are.

In: pixels and features of synthetic, training and held-out images, and the patients of the real ones. Out: each
synthetic image's nearest training image by both, whether it is closer than held-out real images, and the worst cases.
Source: the question is that of Carlini et al., "Extracting training data from diffusion models"
(arXiv 2301.13188), and Somepalli et al., "Diffusion art or digital forgery?" (CVPR 2023, arXiv 2212.03860). Their
fixed thresholds are not used: all ultrasound fans look alike, so the reference is held-out patients' distances to the
same training images (the data-copying test of Meehan et al., AISTATS 2020, arXiv 2004.05675, asks the same on average).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fulora.errors import raise_if_any
from fulora.evaluate.alignment import nearest_aligned
from fulora.evaluate.feature_sets import FeatureSet, faults_of_sets
from fulora.evaluate.thumbnails import grey_thumbnails, nearest_rows, normalised, unit_rows

SAME_IMAGE = 1e-6
"""Pixel distance below which a held-out image counts as a duplicate of a training image."""
NUM_WORST = 16
"""Number of worst cases listed."""
_BLOCK = 512
_DISTANCES = ("pixels", "alignment", "features")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NearestImage:
    """A synthetic image and the training images nearest to it."""

    image_id: str
    """The synthetic image."""
    nearest_pixels: str
    """Id of the training image nearest by pixels."""
    distance_pixels: float
    """RMS difference of the standardised grey thumbnails: 0 a copy, 1.41 unrelated, 2 a negative."""
    flipped: bool
    """Whether it is nearest after turning left to right."""
    nearest_features: str
    """Id of the training image nearest by features."""
    distance_features: float
    """Euclidean distance of the features at unit length: sqrt(2 - 2 cosine)."""
    closer_than_real: bool | None
    """Whether any distance (aligned included) is below that of every held-out real image; None without those."""
    ratio: float | None
    """Minimum over all distances of distance / closest held-out distance; below 1: closer than real images."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlignedImage:
    """The training image nearest to a synthetic one under small rotations, shifts and scalings."""

    image_id: str
    """The synthetic image."""
    nearest: str
    """Id of the training image."""
    distance: float
    """RMS difference of the standardised windows: 0 a copy, 1.41 unrelated."""
    flipped: bool
    """Whether it is nearest after turning left to right."""
    below_percentile: bool | None
    """Whether any of the three distances is below the first percentile of held-out images; None without those."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Distances of held-out real images to their nearest training image."""

    minimum: float
    """The minimum."""
    first_percentile: float
    """The first percentile: more robust than the minimum, which one outlier determines."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CopyAudit:
    """Results of the audit."""

    images: list[NearestImage]
    """One entry per synthetic image, in their order."""
    aligned_images: list[AlignedImage]
    """The same under alignment."""
    share_closer: float | None
    """Percent of synthetic images closer than every held-out image; None without held-out images."""
    share_by_chance: float | None
    """Expected percent, at most, for real images of new patients: 3 / (held-out patients + 1), as there are three
    distances."""
    share_below_percentile: float | None
    """Percent of synthetic images below the first percentile by any distance; 1 to 3 % for real images. More
    robust than `share_closer`, which depends on one held-out image."""
    pixels: Thresholds | None
    """Held-out distances by pixels."""
    aligned: Thresholds | None
    """Held-out distances after alignment."""
    features: Thresholds | None
    """Held-out distances by features."""
    num_synthetic: int
    """Number of synthetic images."""
    num_training: int
    """Number of training images."""
    num_heldout: int
    """Number of held-out real images behind the thresholds."""
    num_heldout_patients: int
    """Number of their patients."""
    num_heldout_repeats: int
    """Held-out images left out: duplicates of training images, and the others of the patients of these."""
    worst: tuple[int, ...]
    """Indices into `images`, the worst first: by ratio, or without held-out images by the smaller of distance over
    the mean distance."""
    extractor: str
    """Name of the feature extractor."""
    notes: list[str]
    """Sentences on what was not measured and what was left out."""


def audit_copies(
    synthetic: FeatureSet,
    training: FeatureSet,
    heldout: FeatureSet | None = None,
    *,
    extractor: str,
    num_worst: int = NUM_WORST,
    block: int = _BLOCK,
) -> CopyAudit:
    """Return the nearest training image of every synthetic one, and which are closer than held-out real images.

    By pixels: RMS difference of grey thumbnails of 32 px (area averages), standardised to mean 0 and deviation 1 so
    that brightness and contrast do not matter; the minimum over upright and mirrored. An image without contrast has
    distance 1.41 to all with contrast. Aligned: the same for central crops under rotations up to 5 degrees, shifts up
    to 6 % and scalings up to 12 % (`fulora.evaluate.alignment`). By features: Euclidean distance at unit length, which
    orders as the cosine does. `extractor` is the name of the feature extractor.
    Held-out images, which must be of other patients than the training images, are measured in the same way; a synthetic
    image is closer than real if one of its distances is below their minimum. Held-out duplicates of training images are
    left out and counted, as one of them would make the minimum 0 and the audit blind; so are the other images of their
    patients, who are training patients under another number: frames of one sweep would pass for another woman's.
    A flagged image is a suspect, not a proof: blurred images are closer to all others by pixels. Held-out images should
    be of the same planes and device as the synthetic ones. Without held-out images, thresholds and shares are None.
    Computes in blocks of `block` rows: memory grows with N, not with N times the training images.
    Raises InputError for inconsistent shapes, features that are not finite, or a shared patient.
    """
    raise_if_any(faults_of_sets(synthetic, training, heldout, num_worst, block))
    small, features = grey_thumbnails(training.pixels, block), unit_rows(training.features)
    num = len(synthetic.image_ids)
    sides = [synthetic] if heldout is None or not len(heldout.image_ids) else [synthetic, heldout]
    everything = _Nearest.of(sides, small, features, block)
    found = everything.part(slice(0, num))
    notes: list[str] = []
    kept = np.zeros(0, dtype=np.int64)
    repeats, patients = 0, 0
    thresholds: list[Thresholds] = []
    if heldout is not None and len(heldout.image_ids):
        real = everything.part(slice(num, None))
        owners = np.asarray(heldout.patient_ids, dtype=str)
        repeated = real.distances[:, 0] < SAME_IMAGE
        kept = np.flatnonzero(~np.isin(owners, owners[repeated]))
        repeats = len(real.distances) - len(kept)
        patients = len(set(owners[kept].tolist()))
        if repeats:
            notes.append(
                f"{repeats} held-out images are left out: {int(repeated.sum())} duplicates of training images, and the "
                "others of their patients, who are training patients under another number."
            )
        if len(kept):
            thresholds = [_thresholds(column) for column in real.distances[kept].T]
    closer: np.ndarray | None = None
    below: np.ndarray | None = None
    if not thresholds:
        notes.append(
            "There are no held-out real images, so the distances have no reference and no image is flagged. "
            "The worst cases are the closest ones."
        )
        ratios = _ratios(found.distances, found.distances.mean(0))
    else:
        least = np.array([t.minimum for t in thresholds])
        ratios = _ratios(found.distances, least)
        for name in np.array(_DISTANCES)[least == 0]:
            notes.append(f"The closest held-out image is at distance 0 by {name}: nothing can be closer by {name}.")
        closer = np.asarray((found.distances < least).any(1))
        below = np.asarray((found.distances < np.array([t.first_percentile for t in thresholds])).any(1))
    by_pixels, aligned, by_features = thresholds or (None, None, None)
    names = np.asarray(training.image_ids, dtype=str)[found.nearest]
    images = [
        NearestImage(
            image_id=str(image_id),
            nearest_pixels=str(names[row, 0]),
            distance_pixels=float(found.distances[row, 0]),
            flipped=bool(found.flipped[row, 0]),
            nearest_features=str(names[row, 2]),
            distance_features=float(found.distances[row, 2]),
            closer_than_real=None if closer is None else bool(closer[row]),
            ratio=None if closer is None else float(ratios[row]),
        )
        for row, image_id in enumerate(synthetic.image_ids)
    ]
    aligned_images = [
        AlignedImage(
            image_id=str(image_id),
            nearest=str(names[row, 1]),
            distance=float(found.distances[row, 1]),
            flipped=bool(found.flipped[row, 1]),
            below_percentile=None if below is None else bool(below[row]),
        )
        for row, image_id in enumerate(synthetic.image_ids)
    ]
    return CopyAudit(
        images=images,
        aligned_images=aligned_images,
        share_closer=None if closer is None else 100 * float(closer.mean()),
        share_by_chance=None if closer is None else min(100.0, 100 * len(thresholds) / (patients + 1)),
        share_below_percentile=None if below is None else 100 * float(below.mean()),
        pixels=by_pixels,
        aligned=aligned,
        features=by_features,
        num_synthetic=len(images),
        num_training=len(training.image_ids),
        num_heldout=len(kept),
        num_heldout_patients=patients,
        num_heldout_repeats=repeats,
        worst=tuple(int(row) for row in np.argsort(ratios, kind="stable")[:num_worst]),
        extractor=extractor,
        notes=notes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Nearest:
    """Rows of the nearest training images and the distances to them, each [N, 3] in the order of _DISTANCES."""

    nearest: np.ndarray
    distances: np.ndarray
    flipped: np.ndarray

    @classmethod
    def of(cls, sides: list[FeatureSet], training: np.ndarray, features: np.ndarray, block: int) -> _Nearest:
        """Return those of all sides' images, one after the other, among thumbnails [M, 32, 32] and features."""
        small = np.concatenate([grey_thumbnails(images.pixels, block) for images in sides])
        rows = normalised(training.reshape(len(training), -1))
        # Mirroring either image is equivalent.
        upright = nearest_rows(normalised(small.reshape(len(small), -1)), rows, block)
        mirrored = nearest_rows(normalised(small[:, :, ::-1].reshape(len(small), -1)), rows, block)
        flipped = mirrored[1] < upright[1]
        aligned = nearest_aligned(small, training, block)
        by_features = nearest_rows(unit_rows(np.concatenate([s.features for s in sides])), features, block)
        whole = (np.where(flipped, mirrored[side], upright[side]) for side in (0, 1))
        nearest, distance = whole
        return cls(
            nearest=np.stack([nearest, aligned.nearest, by_features[0]], axis=1),
            distances=np.stack([distance, aligned.distance, by_features[1]], axis=1),
            flipped=np.stack([flipped, aligned.flipped, np.zeros(len(small), dtype=bool)], axis=1),
        )

    def part(self, rows: slice) -> _Nearest:
        """Return some rows."""
        return _Nearest(nearest=self.nearest[rows], distances=self.distances[rows], flipped=self.flipped[rows])


def _thresholds(distances: np.ndarray) -> Thresholds:
    return Thresholds(minimum=float(distances.min()), first_percentile=float(np.percentile(distances, 1)))


def _ratios(distances: np.ndarray, yardsticks: np.ndarray) -> np.ndarray:
    """Return the smaller of distance over yardstick, float64 [N], of [N, K] and [K]; a yardstick of 0 is ignored."""
    none = np.full(distances.shape, np.inf)
    return np.divide(distances, yardsticks, out=none, where=np.broadcast_to(yardsticks > 0, distances.shape)).min(1)
