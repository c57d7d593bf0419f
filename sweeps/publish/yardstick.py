"""How far another training of the same row would come out: the yardstick beside a printed figure.

In: a run's predictions. Out: per row and score the deviation between trainings, and the interval that one more training
falls into. The paper trained each row once, on the same test images: its figure differs from ours by what trainings
differ by, not by what other patients would give.
Source: the prediction interval of one further normal observation, mean +- t s sqrt(1 + 1/n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fulora.evaluate.scores import auc_published, confusion_matrix, scores_from_confusion
from sweeps.scores.predictions import TestImages


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The trainings of one row by one score."""

    num_trainings: int
    """Trainings whose predictions are there; 0 where none are."""
    deviation: float | None
    """Standard deviation between them, in points; None with fewer than two."""
    low: float | None
    """Lower end of the 95 % interval of one more training; None with fewer than two."""
    high: float | None
    """Upper end."""


def training_scores(test: TestImages, predicted: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the scores in percent of every training by its id, AUC by the paper's formula."""
    found = {}
    for trial_id, probabilities in predicted.items():
        matrix = confusion_matrix(probabilities, test.labels)
        scores = {name: float(value) for name, value in scores_from_confusion(matrix).items()}
        found[trial_id] = scores | {"auc": float(auc_published(matrix))}
    return found


def spread(trainings: Sequence[Mapping[str, float]], metric: str) -> Spread:
    """Return the spread of trainings by a score."""
    from scipy import stats

    values = np.array([scores[metric] for scores in trainings])
    num = len(values)
    if num < 2:
        return Spread(num_trainings=num, deviation=None, low=None, high=None)
    deviation = float(values.std(ddof=1))
    half = float(stats.t.isf(0.025, num - 1)) * deviation * float(np.sqrt(1 + 1 / num))
    return Spread(
        num_trainings=num, deviation=deviation, low=float(values.mean()) - half, high=float(values.mean()) + half
    )
