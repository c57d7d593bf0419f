"""Scores of a classifier on the four tested planes, in percent.

In: probabilities [N, 5] and plane indices [N], or a 5 x 5 confusion matrix (rows truth, columns prediction).
Out: accuracy, recall, precision, F1 (macro averages over the tested planes) and AUC (one vs. rest).
Source: Table 2 of the paper, whose HB row these definitions give to two decimals from the saved run's matrix: recall,
precision and F1 are scikit-learn's with `labels=[1, 2, 3, 4]`. A prediction of Other counts as a miss.
Deviates: the AUC is from the scores; the published one is from hard labels (`auc_published`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fulora.planes import PLANES, TESTED_PLANES

METRICS: tuple[str, ...] = ("accuracy", "recall", "precision", "f1", "auc")
"""The columns of Tables 1 and 2, in their order."""

TESTED: tuple[int, ...] = tuple(plane.index for plane in TESTED_PLANES)
"""Indices of the planes in macro averages."""


def confusion_matrix(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the counts int64 [5, 5], rows truth and columns prediction (the most probable plane)."""
    num = len(PLANES)
    cells = np.asarray(labels, dtype=np.int64) * num + np.asarray(probabilities).argmax(axis=1)
    return np.bincount(cells, minlength=num * num).reshape(num, num)


def scores_from_confusion(matrix: np.ndarray, planes: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """Return accuracy, recall, precision and F1 in percent of matrices [..., 5, 5], each of shape [...].

    Averages run over `planes` (None: the tested planes) that have images in the matrix; nan if it has none of them.
    So a plane missing from a resample is ignored instead of scoring 0. A plane with images that is
    never predicted has precision 0, and F1 0.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    chosen = list(TESTED if planes is None else planes)
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    truth, predicted = matrix.sum(-1), matrix.sum(-2)
    recall = _ratio(hits, truth)[..., chosen]
    precision = _ratio(hits, predicted)[..., chosen]
    f1 = _ratio(2 * hits, truth + predicted)[..., chosen]
    present = truth[..., chosen] > 0
    num = present.sum(-1)
    averages = {"recall": recall, "precision": precision, "f1": f1}
    scores = {"accuracy": 100 * _ratio(hits.sum(-1), matrix.sum((-2, -1)))}
    for name, values in averages.items():
        total = np.where(present, values, 0).sum(-1)
        scores[name] = 100 * np.divide(total, num, out=np.full(total.shape, np.nan), where=num > 0)
    return scores


def score(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return accuracy, recall, precision, f1 and auc in percent, of probabilities [N, 5] and plane indices [N].

    Raises ValueError where there is no image. AUC is nan where all images are of one plane.
    """
    if len(labels) == 0 or len(labels) != len(probabilities):
        counts = f"{len(probabilities)} probabilities and {len(labels)} labels"
        raise ValueError(f"{counts} cannot be scored: their numbers must be equal and at least 1")
    counted = scores_from_confusion(confusion_matrix(probabilities, labels))
    return {name: float(value) for name, value in counted.items()} | {"auc": auc_from_scores(probabilities, labels)}


def auc_from_scores(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve in percent: each tested plane's probability against the rest, averaged.

    The mean over the tested planes with images of P(score of an image of the plane > score of another), ties counting
    half (the Mann-Whitney statistic). Nan where no plane has both sides.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    areas = [
        _area(probabilities[labels == plane, plane], probabilities[labels != plane, plane])
        for plane in TESTED
        if (labels == plane).any() and (labels != plane).any()
    ]
    return 100 * float(np.mean(areas)) if areas else float("nan")


def auc_from_hard_labels(matrix: np.ndarray) -> float:
    """Return the AUC in percent of predicted labels alone: the mean over planes of (recall + specificity) / 2."""
    matrix = np.asarray(matrix, dtype=np.float64)
    chosen = present_planes(matrix)
    hits, truth, predicted = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    specificity = 1 - _ratio(predicted - hits, matrix.sum() - truth)
    return 100 * float(((_ratio(hits, truth) + specificity) / 2)[chosen].mean())


def auc_published(matrix: np.ndarray) -> float:
    """Return the AUC in percent as in the paper's Table 2: 88.76 for the HB row.

    From hard labels, but a prediction of Other counts as positive for every plane. Source: the released code's saved
    run; used only for comparison with the printed numbers.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    chosen = present_planes(matrix)
    truth = matrix.sum(1)
    positive = np.diagonal(matrix) + matrix[:, 0]
    wrongly = matrix.sum(0) + matrix[:, 0].sum() - positive
    sides = _ratio(positive, truth) + 1 - _ratio(wrongly, matrix.sum() - truth)
    return 100 * float((sides / 2)[chosen].mean())


def present_planes(matrix: np.ndarray) -> list[int]:
    """Return the tested planes with at least one image in the matrices [..., 5, 5]."""
    counts = np.asarray(matrix).sum(-1).reshape(-1, len(PLANES)).sum(0)
    return [plane for plane in TESTED if counts[plane] > 0]


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=np.asarray(bottom) != 0)


def _area(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return P(inside > outside) + P(equal) / 2, from counts below and up to each value."""
    ranked = np.sort(outside)
    below = np.searchsorted(ranked, inside, side="left") + np.searchsorted(ranked, inside, side="right")
    return float(below.sum() / (2 * len(inside) * len(outside)))
