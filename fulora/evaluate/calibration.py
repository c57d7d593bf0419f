"""Calibration of a classifier: expected calibration error, Brier score, reliability bins.

In: probabilities [S, N, 5], plane indices [N], resamples of patients. Out: `Calibration`.
Confidence is the probability of the predicted plane; a classifier is calibrated if it is right on 80 % of the images
predicted with confidence 80 %. Under domain shift, networks tend to stay confident while their accuracy drops.
Source: Guo et al., "On calibration of modern neural networks", ICML 2017 (arXiv 1706.04599), equations 2 and 3, 15 bins
of equal width; equal-mass bins, Nguyen and O'Connor, EMNLP 2015 (arXiv 1508.05154); Brier, Mon. Weather Rev. 78 (1950)
1 (the sum over planes, so 0 to 2); the reference value, Bröcker and Smith, "Increasing the reliability of reliability
diagrams", Weather and Forecasting 22 (2007) 651 (consistency resampling).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fulora.evaluate.intervals import NUM_RESAMPLES, Resamples, percentile_interval
from fulora.seeds import numpy_rng

NUM_BINS = 15
"""Bins of equal width between 0 and 1. Source: Guo et al., section 4."""
_EDGES = np.arange(NUM_BINS + 1) / NUM_BINS


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """The predictions whose confidence lies in (low, high]."""

    low: float
    """Lower edge, 0 to 1; 0 belongs to the first bin."""
    high: float
    """Upper edge."""
    count: int
    """Predictions in it: images times trainings."""
    confidence: float
    """Their mean confidence in percent; nan for an empty bin."""
    accuracy: float
    """Their accuracy in percent; nan where there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The calibration of one cell, means over its trainings; in percent except the Brier score."""

    ece: float
    """Expected calibration error: mean over images of |accuracy - confidence| of their bin, equal widths."""
    ece_interval: tuple[float, float]
    """Its 95 % interval over patients. The error cannot be negative, so few images bias it and both ends upwards."""
    ece_by_chance: float
    """Expected value of `ece` for a perfectly calibrated classifier with these confidences on as many images."""
    ece_equal_mass: float
    """The same error with bins of equal numbers of images (as nearly as possible)."""
    brier: float
    """Brier score: mean squared distance of the probabilities from the one-hot label, 0 (best) to 2."""
    brier_interval: tuple[float, float]
    """Its 95 % interval over patients."""
    confidence: float
    """Mean confidence."""
    accuracy: float
    """Accuracy."""
    bins: tuple[ReliabilityBin, ...]
    """NUM_BINS bins over the predictions of all trainings."""


def calibrate(probabilities: np.ndarray, labels: np.ndarray, resamples: Resamples, *, seed: int) -> Calibration:
    """Return the calibration of the trainings of one cell: probabilities [S, N, 5] (or [N, 5]), plane indices [N].

    `seed` is the random seed of `ece_by_chance`.
    """
    trainings = np.asarray(probabilities, dtype=np.float64)
    trainings = trainings[None] if trainings.ndim == 2 else trainings
    confidence = trainings.max(axis=2)
    right = (trainings.argmax(axis=2) == np.asarray(labels)).astype(np.float64)
    squares = ((trainings - np.eye(trainings.shape[2])[np.asarray(labels, dtype=np.int64)]) ** 2).sum(axis=2)
    place = bin_of(confidence)
    rng = numpy_rng(seed, "calibration")
    resampled = np.mean([_resampled(c, r, p, resamples) for c, r, p in zip(confidence, right, place)], axis=0)
    brier = resamples.sums(squares.mean(axis=0)[:, None]) / resamples.sums(np.ones((len(labels), 1)))
    return Calibration(
        ece=100 * float(np.mean([_error(c, r, p) for c, r, p in zip(confidence, right, place)])),
        ece_interval=percentile_interval(resampled),
        ece_by_chance=100 * float(np.mean([_by_chance(c, p, rng) for c, p in zip(confidence, place)])),
        ece_equal_mass=100 * float(np.mean([_error(c, r, _equal_mass(c)) for c, r in zip(confidence, right)])),
        brier=float(squares.mean()),
        brier_interval=percentile_interval(brier[:, 0]),
        confidence=100 * float(confidence.mean()),
        accuracy=100 * float(right.mean()),
        bins=_bins(confidence.ravel(), right.ravel(), place.ravel()),
    )


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Return the bin 0 to NUM_BINS - 1 of each confidence: bin k holds (k / NUM_BINS, (k + 1) / NUM_BINS]."""
    return np.minimum(np.searchsorted(_EDGES[1:], confidence), NUM_BINS - 1)


def _equal_mass(confidence: np.ndarray) -> np.ndarray:
    """Return a bin per image by the rank of its confidence; equal confidences share the bin of the first of them."""
    ordered = np.sort(confidence)
    return np.searchsorted(ordered, confidence) * NUM_BINS // len(confidence)


def _error(confidence: np.ndarray, right: np.ndarray, place: np.ndarray) -> float:
    """Return the expected calibration error, 0 to 1: the bins' |sum right - sum confidence| over the images."""
    return float(np.abs(np.bincount(place, right - confidence)).sum() / len(confidence))


def _resampled(confidence: np.ndarray, right: np.ndarray, place: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Return the expected calibration error in percent of each resample, float64 [B]."""
    gaps = np.zeros((len(confidence), NUM_BINS))
    gaps[np.arange(len(confidence)), place] = right - confidence
    return 100 * np.abs(resamples.sums(gaps)).sum(1) / resamples.sums(np.ones((len(confidence), 1)))[:, 0]


def _by_chance(confidence: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> float:
    """Return the mean calibration error, 0 to 1, if each prediction is right with the probability it gives."""
    gaps = (rng.random((NUM_RESAMPLES, len(confidence))) < confidence) - confidence
    return float(np.abs(gaps @ np.eye(NUM_BINS)[place]).sum(1).mean() / len(confidence))


def _bins(confidence: np.ndarray, right: np.ndarray, place: np.ndarray) -> tuple[ReliabilityBin, ...]:
    """Return the reliability bins of predictions [M]."""
    bins = []
    for k in range(NUM_BINS):
        inside = place == k
        known = bool(inside.any())
        bins.append(
            ReliabilityBin(
                low=float(_EDGES[k]),
                high=float(_EDGES[k + 1]),
                count=int(inside.sum()),
                confidence=100 * float(confidence[inside].mean()) if known else float("nan"),
                accuracy=100 * float(right[inside].mean()) if known else float("nan"),
            )
        )
    return tuple(bins)
