"""Calibration gives what its definition and scikit-learn give, and says what chance alone would."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from fulora.evaluate.calibration import NUM_BINS, bin_of, calibrate
from fulora.evaluate.intervals import Resamples, draw_resamples


def predictions(num: int = 233, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Resamples]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(5, 0.5), num)
    labels = rng.integers(1, 5, num)
    return probabilities, labels, draw_resamples([str(i) for i in rng.integers(0, 64, num)], seed=0)


def plain_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error in percent, bin by bin as Guo et al. write it."""
    total = 0.0
    for k in range(NUM_BINS):
        inside = (confidence > k / NUM_BINS) & (confidence <= (k + 1) / NUM_BINS)
        if inside.any():
            total += inside.sum() / len(confidence) * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * total


def test_error_bins_and_brier_equal_their_definitions_and_scikit_learn() -> None:
    probabilities, labels, resamples = predictions()
    found = calibrate(probabilities, labels, resamples, seed=0)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    assert found.ece == pytest.approx(plain_error(confidence, right))
    assert found.brier == pytest.approx(
        np.mean([((p - np.eye(5)[y]) ** 2).sum() for p, y in zip(probabilities, labels)])
    )
    filled = [b for b in found.bins if b.count]
    accuracy, sure = calibration_curve(right, confidence, n_bins=NUM_BINS)
    assert [b.accuracy for b in filled] == pytest.approx(100 * accuracy)
    assert [b.confidence for b in filled] == pytest.approx(100 * sure)
    assert sum(b.count for b in found.bins) == 233 and len(found.bins) == NUM_BINS
    assert (found.confidence, found.accuracy) == pytest.approx((100 * confidence.mean(), 100 * right.mean()))
    assert found.ece_interval[0] < found.ece_interval[1]
    assert found.brier_interval[0] < found.brier < found.brier_interval[1]


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    assert bin_of(edges).tolist() == [0, *range(NUM_BINS)]
    assert bin_of(np.nextafter(edges[:-1], 1)).tolist() == list(range(NUM_BINS))


def test_resampled_errors_equal_those_of_repeated_images() -> None:
    """With one resample both ends of the interval are its value."""
    probabilities, labels, _ = predictions(60)
    times = np.random.default_rng(2).integers(0, 3, 60)
    found = calibrate(probabilities, labels, Resamples(patient=np.arange(60), times=times[None].astype(float)), seed=0)
    images = np.repeat(np.arange(60), times)
    again = calibrate(probabilities[images], labels[images], draw_resamples(["a"] * len(images), seed=0), seed=0)
    assert found.ece_interval == pytest.approx((again.ece, again.ece))
    assert found.brier_interval == pytest.approx((again.brier, again.brier))
    assert np.isnan(again.ece_interval).all() and np.isnan(again.brier_interval).all()


def test_a_calibrated_classifier_shows_what_chance_would_and_a_sure_one_more() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.ones(5), 400)
    shown = []
    for _ in range(40):  # labels drawn from the probabilities: calibrated by construction
        labels = (probabilities.cumsum(1) < rng.random((400, 1))).sum(1)
        shown.append(calibrate(probabilities, labels, draw_resamples(["a"] * 400, seed=0), seed=0))
    mean = float(np.mean([found.ece for found in shown]))
    assert shown[0].ece_by_chance == pytest.approx(mean, rel=0.15) and mean > 2, "few images show an error by chance"
    assert np.mean([found.ece_equal_mass for found in shown]) < 2 * mean
    sure = np.eye(5)[probabilities.argmax(1)] * 0.9 + 0.02
    over = calibrate(sure, labels, draw_resamples(["a"] * 400, seed=0), seed=0)
    assert over.ece == pytest.approx(over.confidence - over.accuracy) and over.ece > 5 * over.ece_by_chance


def test_equal_mass_bins_share_equal_confidences() -> None:
    """The order of images with equal confidence must not matter: each tells the same of all."""
    probabilities = np.tile([0.1, 0.6, 0.1, 0.1, 0.1], (40, 1))
    labels = np.array([1] * 24 + [2] * 16)
    resamples = draw_resamples(["a"] * 40, seed=0)
    for order in (np.arange(40), np.arange(40)[::-1]):
        assert calibrate(probabilities, labels[order], resamples, seed=0).ece_equal_mass == pytest.approx(0, abs=1e-9)


def test_trainings_are_averaged_and_their_bins_counted_together() -> None:
    _, labels, resamples = predictions()
    trainings = np.stack([predictions(seed=seed)[0] for seed in (0, 1, 2)])
    both = calibrate(trainings, labels, resamples, seed=0)
    single = [calibrate(p, labels, resamples, seed=0) for p in trainings]
    for name in ("ece", "ece_equal_mass", "brier", "confidence", "accuracy"):
        assert getattr(both, name) == pytest.approx(np.mean([getattr(s, name) for s in single])), name
    assert [b.count for b in both.bins] == [sum(s.bins[k].count for s in single) for k in range(NUM_BINS)]
