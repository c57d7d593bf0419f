"""95 % confidence intervals of the scores, by bootstrap over patients.

In: probabilities [S, N, 5], plane indices [N], a patient per image. Out: each score, and its value on every resample,
from which intervals (here) and differences between cells (`fulora.evaluate.differences`) are computed.
Images of one patient are correlated, so whole patients are drawn with replacement, not single images.
Source: Field and Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69 (2007) 369 (cluster bootstrap);
percentile intervals, Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fulora.errors import InputError, fault
from fulora.evaluate.decomposition import SHARES, shares_per_image
from fulora.evaluate.scores import METRICS, TESTED, score, scores_from_confusion
from fulora.planes import PLANES
from fulora.seeds import numpy_rng

NUM_RESAMPLES = 2000
"""Number of bootstrap resamples of every interval and comparison."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resamples:
    """B bootstrap resamples of the P patients of N images; none with one patient, whose variance is unknown."""

    patient: np.ndarray
    """Row of each image's patient, int64 [N]."""
    times: np.ndarray
    """How often each patient was drawn, float64 [B, P]; a row sums to P."""

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums over each resample's images, float64 [B, K], of values per image [N, K]."""
        by_patient = np.zeros((self.times.shape[1], values.shape[1]))
        np.add.at(by_patient, self.patient, values)
        return self.times @ by_patient


def draw_resamples(
    patient_ids: Sequence[str] | np.ndarray, *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Resamples:
    """Return resamples of the patients; the same patients and seed give the same, so that cells are paired.

    Raises InputError without images.
    """
    if len(patient_ids) == 0:
        raise InputError(fault("patient_ids", 0, "images cannot be resampled", "Give at least one test image."))
    patients, patient = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    num_patients = len(patients)
    if num_patients < 2:
        num_resamples = 0
    draws = numpy_rng(seed, "intervals").integers(num_patients, size=(num_resamples, num_patients))
    flat = (draws + num_patients * np.arange(num_resamples)[:, None]).ravel()
    times = np.bincount(flat, minlength=num_resamples * num_patients).reshape(num_resamples, num_patients)
    return Resamples(patient=patient, times=times.astype(np.float64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The scores of one cell, in percent, means over its trainings."""

    values: Mapping[str, float]
    """Each score on the test images."""
    resampled: Mapping[str, np.ndarray]
    """Each score on every resample, float64 [B]; averaged over trainings within the resample."""
    num_patients: int
    """Number of patients resampled."""

    def interval(self, name: str) -> tuple[float, float]:
        """Return a score's 95 % interval (low, high); (nan, nan) with one patient."""
        return percentile_interval(self.resampled[name])


def measure(probabilities: np.ndarray, labels: np.ndarray, resamples: Resamples) -> Measured:
    """Return each of METRICS of the trainings of one cell: probabilities [S, N, 5] (or [N, 5]), plane indices [N].

    Macro averages run over the planes with images in a resample. Intervals cover the sampling of test patients, but not
    of training seeds beyond those given: `fulora.evaluate.trainings` covers both. Raises InputError if the numbers of
    images differ.
    """
    trainings = np.asarray(probabilities, dtype=np.float64)
    trainings = trainings[None] if trainings.ndim == 2 else trainings
    labels = np.asarray(labels, dtype=np.int64)
    if not len(labels) == trainings.shape[1] == len(resamples.patient) or not len(trainings):
        counts = (len(trainings), trainings.shape[1], len(labels), len(resamples.patient))
        rule = "trainings, probabilities, labels, patients: must be at least one training, and equally many of the rest"
        raise InputError(fault("images", counts, rule, "Give all three of the same images."))
    values = [score(p, labels) for p in trainings]
    resampled = [resampled_scores(p, labels, resamples) for p in trainings]
    return Measured(
        values={name: float(np.mean([v[name] for v in values])) for name in METRICS},
        resampled={name: np.mean([r[name] for r in resampled], axis=0) for name in METRICS},
        num_patients=resamples.times.shape[1],
    )


def percentile_interval(values: np.ndarray, coverage: float = 0.95) -> tuple[float, float]:
    """Return the percentiles (low, high) that contain the fraction `coverage` of values; (nan, nan) without values."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = 100 * (1 - coverage) / 2
    low, high = np.percentile(finite, [tail, 100 - tail])
    return float(low), float(high)


def resampled_scores(
    probabilities: np.ndarray, labels: np.ndarray, resamples: Resamples, metrics: Sequence[str] = METRICS
) -> dict[str, np.ndarray]:
    """Return each metric in percent for every resample, float64 [B], of one training: [N, 5] and plane indices [N].

    `metrics` may hold any of METRICS and of `decomposition.SHARES`. Macro averages run over the planes with images in
    the resample.
    """
    num, found = len(PLANES), dict[str, np.ndarray]()
    if set(metrics) & set(METRICS) - {"auc"}:
        cells = np.zeros((len(labels), num * num))
        cells[np.arange(len(labels)), labels * num + probabilities.argmax(axis=1)] = 1
        found |= scores_from_confusion(resamples.sums(cells).reshape(-1, num, num))
    if set(metrics) & set(SHARES):
        images = resamples.sums(np.ones((len(labels), 1)))
        shares = 100 * resamples.sums(shares_per_image(probabilities, labels)) / images
        found |= dict(zip(SHARES, shares.T, strict=True))
    if "auc" in metrics:
        found["auc"] = _resampled_auc(probabilities, labels, resamples)
    return {name: found[name] for name in metrics}


def _resampled_auc(probabilities: np.ndarray, labels: np.ndarray, resamples: Resamples) -> np.ndarray:
    """Return `auc_from_scores` in percent of each resample, float64 [B].

    Per plane: the correctly ordered pairs (image of the plane, other image), ties counting half, are summed once per
    pair of patients; a resample then weights each pair of patients by both counts.
    """
    times, patient = resamples.times, resamples.patient
    num_patients = times.shape[1]
    total, used = np.zeros(len(times)), np.zeros(len(times))
    for plane in TESTED:
        inside = labels == plane
        if not inside.any() or inside.all():
            continue
        scores = probabilities[:, plane]
        won = (np.sign(scores[inside, None] - scores[None, ~inside]) + 1) / 2
        pair = patient[inside, None] * num_patients + patient[None, ~inside]
        wins = np.bincount(pair.ravel(), won.ravel(), num_patients**2).reshape(num_patients, num_patients)
        counts = [times @ np.bincount(patient[side], minlength=num_patients) for side in (inside, ~inside)]
        pairs = counts[0] * counts[1]
        total += np.divide(((times @ wins) * times).sum(1), pairs, out=np.zeros(len(times)), where=pairs > 0)
        used += pairs > 0
    return 100 * np.divide(total, used, out=np.full(len(times), np.nan), where=used > 0)
