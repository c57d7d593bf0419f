"""The scores of every training of a cell, on the test images and on common resamples of patients.

In: probabilities [N, 5] per training, named by (replicate, seed). Out: `MeasuredTrainings`, from which
`fulora.evaluate.inference` reads a score's interval and `fulora.evaluate.differences` that of a difference.
A replicate repeats the whole pipeline (LoRA's images, adapter, synthetic set, hybrid set); a seed repeats the
classifier's training within a replicate. A cell is one model on one regime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fulora.errors import InputError, fault
from fulora.evaluate.decomposition import SHARES, decompose
from fulora.evaluate.intervals import Resamples, resampled_scores
from fulora.evaluate.scores import METRICS, confusion_matrix, score, scores_from_confusion

Training = tuple[int, int]
"""Replicate and seed within it."""
ALL_METRICS: tuple[str, ...] = (*METRICS, *SHARES)
"""Every score that is measured: the paper's columns and the decomposition of errors."""
COLLAPSED_SHARE = 0.99
"""A training that gives this share of the test images one class has collapsed: it has learned only that class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredTrainings:
    """The scores of K trainings of one cell, in percent."""

    trainings: tuple[Training, ...]
    """(Replicate, seed) of each, sorted."""
    values: Mapping[str, np.ndarray]
    """Each score on the test images, float64 [K]."""
    resampled: Mapping[str, np.ndarray]
    """Each score on every resample of patients, float64 [K, B]."""
    collapsed: tuple[bool, ...]
    """Which trainings give all test images one class (`is_collapsed`)."""
    num_patients: int
    """Number of patients, or clusters of patients, resampled."""

    @property
    def has_collapsed(self) -> bool:
        """Whether at least half of the trainings have collapsed: such a cell is left out of means over models."""
        return 2 * sum(self.collapsed) >= len(self.collapsed)

    def mean(self, metric: str) -> float:
        """Return the mean over replicates of the mean over each replicate's seeds."""
        replicates = np.array([replicate for replicate, _ in self.trainings])
        return float(np.mean([self.values[metric][replicates == r].mean() for r in np.unique(replicates)]))


def name_trainings(nested: Sequence[Sequence[np.ndarray]] | np.ndarray) -> dict[Training, np.ndarray]:
    """Return trainings by (replicate, seed) of probabilities [L, S, N, 5], or of a list per replicate of [N, 5] each.

    Replicates may have different numbers of seeds. Names are list indices: if seeds are missing, give a mapping to
    `measure_trainings` instead, so that differences pair the right trainings.
    """
    return {(i, j): np.asarray(p) for i, seeds in enumerate(nested) for j, p in enumerate(seeds)}


def measure_trainings(
    predictions: Mapping[Training, np.ndarray],
    labels: np.ndarray,
    resamples: Resamples,
    *,
    metrics: Sequence[str] = ALL_METRICS,
) -> MeasuredTrainings:
    """Return the scores of trainings, probabilities [N, 5] each, of test images with plane indices [N].

    `resamples` are drawn of the images' patients or clusters (`intervals.draw_resamples`, `clusters.merge_patients`),
    the same for all cells that are compared. Raises InputError without trainings, or if numbers of images differ.
    """
    labels = np.asarray(labels, dtype=np.int64)
    if not predictions:
        raise InputError(fault("predictions", 0, "must be at least one training", "Give the cell's predictions."))
    for name, probabilities in predictions.items():
        counts = (len(probabilities), len(labels), len(resamples.patient))
        if len(set(counts)) > 1 or not len(labels):
            rule = "probabilities, labels, patients: must be equally many, at least one"
            raise InputError(fault(f"training {name}", counts, rule, "Give all three of the same images."))
    names = tuple(sorted(predictions))
    arrays = [np.asarray(predictions[name], dtype=np.float64) for name in names]
    values = [_scores(p, labels, metrics) for p in arrays]
    resampled = [resampled_scores(p, labels, resamples, metrics) for p in arrays]
    return MeasuredTrainings(
        trainings=names,
        values={metric: np.array([v[metric] for v in values]) for metric in metrics},
        resampled={metric: np.stack([r[metric] for r in resampled]) for metric in metrics},
        collapsed=tuple(is_collapsed(p, labels) for p in arrays),
        num_patients=resamples.times.shape[1],
    )


def _scores(probabilities: np.ndarray, labels: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
    """Return at least the scores in `metrics`; the AUC is the slowest."""
    if "auc" in metrics:
        return score(probabilities, labels) | decompose(probabilities, labels)
    counted = scores_from_confusion(confusion_matrix(probabilities, labels))
    return {name: float(value) for name, value in counted.items()} | decompose(probabilities, labels)


def is_collapsed(probabilities: np.ndarray, labels: np.ndarray) -> bool:
    """Return whether a classifier gives all test images one class, though they are of several.

    Up to 1 % of exceptions are allowed, as rounding may change single images. Probabilities [N, 5], plane indices [N].
    """
    most = np.bincount(np.asarray(probabilities).argmax(axis=1)).max()
    return len(np.unique(labels)) > 1 and bool(most >= COLLAPSED_SHARE * len(labels))
