"""95 % intervals of the scores, by resampling patients.

In: probabilities [N, 5], plane indices [N], a patient per image. Out: (low, high) per metric, in percent.
Images of one patient are alike, so whole patients are drawn with replacement, never single images.
Source: Field and Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69 (2007) 369 (cluster bootstrap);
percentile intervals, Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fulora.evaluate.scores import METRICS, TESTED, present_planes, score, scores_from_confusion
from fulora.planes import PLANES
from fulora.seeds import numpy_rng


def patient_intervals(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patient_ids: Sequence[str] | np.ndarray,
    *,
    num_resamples: int = 2000,
    seed: int,
    coverage: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return the percentile interval (low, high) in percent of each of METRICS, from resamples of patients.

    `probabilities` is [N, 5], or [S, N, 5] for S trainings of one cell, whose scores are averaged within each resample.
    With one patient nothing is known of the spread: (nan, nan). The same seed gives the same interval.
    """
    trainings = np.asarray(probabilities, dtype=np.float64)
    trainings = trainings[None] if trainings.ndim == 2 else trainings
    resampled = [resampled_scores(p, labels, patient_ids, num_resamples=num_resamples, seed=seed) for p in trainings]
    tail = 100 * (1 - coverage) / 2
    intervals: dict[str, tuple[float, float]] = {}
    for name in METRICS:
        values = np.mean([scores[name] for scores in resampled], axis=0)
        finite = values[np.isfinite(values)]
        low, high = np.percentile(finite, [tail, 100 - tail]) if len(finite) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def mean_scores(
    probabilities: np.ndarray, labels: np.ndarray, patient_ids: Sequence[str] | np.ndarray, *, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Return (value, low, high) in percent of each of METRICS, averaged over trainings; probabilities [S, N, 5]."""
    values = [score(p, labels) for p in probabilities]
    intervals = patient_intervals(probabilities, labels, patient_ids, seed=seed)
    return {name: (float(np.mean([v[name] for v in values])), *intervals[name]) for name in METRICS}


def paired_change(
    cells: Sequence[tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    patient_ids: Sequence[str] | np.ndarray,
    *,
    seed: int,
    coverage: float = 0.95,
) -> dict[str, tuple[float, float, float]]:
    """Return (change, low, high) in points of each of METRICS from one way of training to another, averaged over cells.

    A cell is (before [S, N, 5], after [S', N, 5]), such as one model on two regimes, its trainings first. Both sides
    are scored on the same resamples of the same patients, so what makes a patient hard for both cancels; two separate
    intervals cannot say this. Covers the choice of test patients, not of training seeds beyond those given.
    """
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    spreads: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for sides in cells:
        points = [[score(p, labels) for p in side] for side in sides]
        resampled = [[resampled_scores(p, labels, patient_ids, seed=seed) for p in side] for side in sides]
        for name in METRICS:
            before, after = (float(np.mean([p[name] for p in side])) for side in points)
            values[name].append(after - before)
            low_high = [np.mean([r[name] for r in side], axis=0) for side in resampled]
            spreads[name].append(low_high[1] - low_high[0])
    tail = 100 * (1 - coverage) / 2
    found: dict[str, tuple[float, float, float]] = {}
    for name in METRICS:
        low, high = np.nanpercentile(np.mean(spreads[name], axis=0), [tail, 100 - tail])
        found[name] = (float(np.mean(values[name])), float(low), float(high))
    return found


def resampled_scores(
    probabilities: np.ndarray,
    labels: np.ndarray,
    patient_ids: Sequence[str] | np.ndarray,
    *,
    num_resamples: int = 2000,
    seed: int,
) -> dict[str, np.ndarray]:
    """Return each of METRICS in percent for every resample of patients, float64 [num_resamples]; nan for one patient.

    A resample weights each patient by how often it was drawn; averages run over the planes of the full set, a plane
    that a resample lacks counting 0 in recall, precision and F1 as in `scores_from_confusion`, and left out of its AUC.
    The same seed and patients give the same resamples, so that two classifiers can be compared resample by resample.
    """
    labels = np.asarray(labels, dtype=np.int64)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if not len(labels) == len(probabilities) == len(patient_ids) or len(labels) == 0:
        counts = f"{len(probabilities)} probabilities, {len(labels)} labels, {len(patient_ids)} patients"
        raise ValueError(f"{counts} cannot be resampled: give equally many, at least one")
    patients, patient = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    num_patients, num = len(patients), len(PLANES)
    if num_patients < 2:
        return dict.fromkeys(METRICS, np.full(num_resamples, np.nan))
    rng = numpy_rng(seed, "intervals")
    draws = rng.integers(num_patients, size=(num_resamples, num_patients))
    flat = (draws + num_patients * np.arange(num_resamples)[:, None]).ravel()
    times: np.ndarray = np.bincount(flat, minlength=num_resamples * num_patients).reshape(num_resamples, num_patients)

    cells = patient * num * num + labels * num + probabilities.argmax(axis=1)
    table = np.bincount(cells, minlength=num_patients * num * num).reshape(num_patients, num * num)
    matrices = (times.astype(np.float64) @ table).reshape(num_resamples, num, num)
    values = scores_from_confusion(matrices, planes=present_planes(matrices))
    values["auc"] = _weighted_auc(probabilities, labels, times[:, patient].astype(np.float64))
    return values


def _weighted_auc(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return `auc_from_scores` in percent of each resample [B], whose images count `weights` [B, N] times.

    Per plane: the images in order of their score; an image of the plane wins over the weight of the others before it,
    and over half of the weight of those with an equal score.
    """
    total = np.zeros(len(weights))
    used = np.zeros(len(weights))
    for plane in TESTED:
        inside = labels == plane
        if not inside.any() or inside.all():
            continue
        ranked = np.sort(np.unique(probabilities[:, plane]))
        place = np.searchsorted(ranked, probabilities[:, plane])
        outside_at = weights[:, ~inside] @ _indicator(place[~inside], len(ranked))
        inside_at = weights[:, inside] @ _indicator(place[inside], len(ranked))
        before = np.cumsum(outside_at, axis=1) - outside_at / 2
        pairs = inside_at.sum(1) * outside_at.sum(1)
        area = np.divide((inside_at * before).sum(1), pairs, out=np.zeros(len(weights)), where=pairs > 0)
        total += area
        used += pairs > 0
    return 100 * np.divide(total, used, out=np.full(len(weights), np.nan), where=used > 0)


def _indicator(place: np.ndarray, num_places: int) -> np.ndarray:
    """Return the matrix [len(place), num_places] with a 1 at each place."""
    matrix = np.zeros((len(place), num_places))
    matrix[np.arange(len(place)), place] = 1
    return matrix
