"""Consistency check: which printed scores are arithmetically impossible for any classifier.

In: a row of scores as the paper prints them: percent, two decimals, of the 233 African test images. Out: a `Verdict`
with the inconsistencies as text.
All scores of a row derive from one confusion matrix: accuracy fixes the number of hits, recall their distribution over
the planes, precision and F1 the false positives per plane. The search over all such counts is exhaustive: scores it
cannot reproduce are impossible, and scores of an existing matrix are never rejected. Rounded and truncated decimals
both pass, as the paper has both (91.41 for 213 of 233).
Notation: n images, h hits, f false positives (images of other planes predicted as this one), o images predicted as
Other; per plane.
Source: the definitions of `fulora.evaluate.scores`, which give Table 2's HB row from the released run's matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

NUM_IMAGES: tuple[int, ...] = (65, 65, 64, 39)
"""Test images of abdomen, brain, femur and thorax. Source: row sums of the released run's confusion matrix."""

NUM_TEST = sum(NUM_IMAGES)
"""All African test images, 233. Source: paper section 3."""

_N = np.array(NUM_IMAGES)
_SLACK = 1e-9  # percent; for sums of floating-point numbers, far below a printed digit

AucFits = Literal["hard labels", "published formula", "both", "neither", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An inconsistency of a row: impossible, or possible by only one formula."""

    metrics: tuple[str, ...]
    """The scores concerned, by the names of `scores.METRICS`."""
    words: str
    """Description with the numbers."""
    impossible: bool = True
    """False where the figure cannot be the AUC of hard labels, while the paper's own formula may give it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Result of the check of a row."""

    findings: tuple[Finding, ...]
    """Inconsistencies; empty for a consistent row."""
    auc_fits: AucFits
    """Which formula reproduces the AUC given the row's other scores; unknown if those are impossible."""
    num_counts: int
    """Number of confusion matrices (hits and false positives per plane) consistent with the four other scores."""

    def doubt(self, metric: str | None = None) -> str | None:
        """Return the findings as text, all or those of a metric; None if there is none."""
        told = [finding.words for finding in self.findings if metric is None or metric in finding.metrics]
        return "; ".join(told) or None


def check_row(row: Mapping[str, object]) -> Verdict:
    """Return what is impossible in a row with accuracy, recall, precision, f1 and auc in percent, two decimals.

    The AUC is compared with two formulas on predicted labels, `scores.auc_from_hard_labels` and `scores.auc_published`.
    An AUC from probabilities is not constrained by the other scores; no row of the paper claims one.
    """
    return _check(*(float(str(row[name])) for name in ("accuracy", "recall", "precision", "f1", "auc")))


def confusion_counts(row: Mapping[str, object]) -> np.ndarray:
    """Return every (h, f) int64 [K, 8] that gives a row's accuracy, recall, precision and f1 as printed.

    The first four columns are the images of abdomen, brain, femur and thorax that are classified right, the last four
    the images of other planes that are classified as them. K is 0 where no confusion matrix prints these figures.
    """
    return _counts(*(float(str(row[name])) for name in ("accuracy", "recall", "precision", "f1")))[1]


@lru_cache(maxsize=256)
def _counts(accuracy: float, recall: float, precision: float, f1: float) -> tuple[int, np.ndarray]:
    """Return how many ways the hits can be spread over the planes, and `confusion_counts` (read-only: it is kept)."""
    totals = [k for k in range(NUM_TEST + 1) if _prints(100 * k / NUM_TEST, accuracy)]
    hits = _hits(totals, recall) if totals else np.zeros((0, 4), dtype=np.int64)
    counts = _with_false_positives(hits, precision, f1) if len(hits) else np.zeros((0, 8), dtype=np.int64)
    counts.setflags(write=False)
    return len(hits), counts


@lru_cache(maxsize=256)
def _check(accuracy: float, recall: float, precision: float, f1: float, auc: float) -> Verdict:
    totals = [k for k in range(NUM_TEST + 1) if _prints(100 * k / NUM_TEST, accuracy)]
    found: list[Finding] = []
    num_hits, counts = _counts(accuracy, recall, precision, f1)
    if not totals:
        below = math.floor(accuracy * NUM_TEST / 100)
        near = f"{below} give {100 * below / NUM_TEST:.2f}, {below + 1} give {100 * (below + 1) / NUM_TEST:.2f}"
        words = f"accuracy {accuracy:.2f} is not a fraction of {NUM_TEST} images: {near}"
        found.append(Finding(metrics=("accuracy",), words=words))
    elif not num_hits:
        images = ", ".join(map(str, NUM_IMAGES))
        words = f"recall {recall:.2f} is not a mean over planes of {images} images of which {totals[0]} are right"
        found.append(Finding(metrics=("recall",), words=words))
    elif not len(counts):
        words = f"no confusion matrix with this accuracy and recall has precision {precision:.2f} and F1 {f1:.2f}"
        found.append(Finding(metrics=("precision", "f1"), words=words))
    about_auc, auc_fits = _about_auc(recall, auc, counts)
    found += about_auc
    return Verdict(findings=tuple(found), auc_fits=auc_fits, num_counts=len(counts))


def _prints(value: np.ndarray | float, printed: float) -> np.ndarray:
    """Return where a value, rounded or cut to two decimals, is printed so."""
    value = np.asarray(value)
    return (value >= printed - 0.005 - _SLACK) & (value < printed + 0.01 + _SLACK)


def _hits(totals: Iterable[int], recall: float) -> np.ndarray:
    """Return all hits [K, 4] per plane with one of these sums and this mean recall."""
    first = np.stack(np.meshgrid(*(np.arange(n + 1) for n in NUM_IMAGES[:3]), indexing="ij"), -1).reshape(-1, 3)
    found = []
    for total in totals:
        hits = np.column_stack([first, total - first.sum(1)])
        hits = hits[(hits[:, 3] >= 0) & (hits[:, 3] <= NUM_IMAGES[3])]
        found.append(hits[_prints(100 * (hits / _N).mean(1), recall)])
    return np.concatenate(found)


def _with_false_positives(hits: np.ndarray, precision: float, f1: float) -> np.ndarray:
    """Return all (h, f) [K, 8] that also give this precision and F1, and for which there is a confusion matrix."""
    found = [np.zeros((0, 8), dtype=np.int64)]
    for h in hits:
        most = _most_false_positives(h, precision, f1)
        if (most < 0).any():
            continue
        wrong = NUM_TEST - int(h.sum())
        # Two planes at a time: of the second pair, sorted by precision, only those that complete the first are tried.
        one, precision_one, f1_one = _pairs(h[:2], _N[:2], most[:2], wrong)
        two, precision_two, f1_two = _pairs(h[2:], _N[2:], most[2:], wrong)
        order = np.argsort(precision_two)
        two, precision_two, f1_two = two[order], precision_two[order], f1_two[order]
        start = np.searchsorted(precision_two, precision - 0.005 - _SLACK - precision_one)
        stop = np.searchsorted(precision_two, precision + 0.01 + _SLACK - precision_one)
        num = stop - start
        i = np.repeat(np.arange(len(one)), num)
        j = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num) + np.repeat(start, num)
        i, j = (index[_prints(f1_one[i] + f1_two[j], f1)] for index in (i, j))
        f = np.column_stack([one[i], two[j]])
        found.append(np.column_stack([np.broadcast_to(h, f.shape), f])[_exists(h, f)])
    return np.concatenate(found)


def _most_false_positives(h: np.ndarray, precision: float, f1: float) -> np.ndarray:
    """Return per plane the most images of others it may have been given, -1 where these hits cannot be.

    They come out of the other planes' misses; and the other planes' precision and F1 can be no better than without any.
    """
    misses = _N - h
    most = (misses.sum() - misses).astype(np.float64)
    best_precision = (h > 0).astype(np.float64)
    least_precision = 4 * (precision - 0.005 - _SLACK) / 100 - (best_precision.sum() - best_precision)
    best_f1 = 2 * h / (_N + h)
    least_f1 = 4 * (f1 - 0.005 - _SLACK) / 100 - (best_f1.sum() - best_f1)
    # f is at most numerator / least - other, from precision = h / (h + f) and F1 = 2 h / (n + h + f).
    limits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(least_precision, h, h), (least_f1, 2 * h, _N + h)]
    for least, numerator, other in limits:
        binding = least > 0
        bound = np.full(len(_N), np.inf)
        bound[binding] = np.floor(numerator[binding] / least[binding] - other[binding])
        most = np.minimum(most, np.where(binding & (h == 0), -1, bound))
    return most.astype(np.int64)


def _pairs(h: np.ndarray, n: np.ndarray, most: np.ndarray, wrong: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two planes' false positives [K, 2] and what the two add to mean precision and F1, in percent."""
    f = np.stack(np.meshgrid(np.arange(most[0] + 1), np.arange(most[1] + 1), indexing="ij"), -1).reshape(-1, 2)
    f = f[f.sum(1) <= wrong]
    return f, 25 * (h / np.maximum(h + f, 1)).sum(1), 25 * (2 * h / (n + h + f)).sum(1)


def _least_other(h: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return per plane the fewest images [K, 4] given Other: misses beyond the other planes' false positives."""
    return np.maximum(0, _N - h - (f.sum(1, keepdims=True) - f))


def _exists(h: np.ndarray, f: np.ndarray) -> np.ndarray:
    """Return where a confusion matrix has these hits and false positives.

    The misses not given Other must fill the false positives, none of a plane's own: by max-flow min-cut that can be
    done where each plane's misses fit into the others' false positives.
    """
    num_other = (_N - h).sum(-1) - f.sum(1)
    return num_other >= _least_other(h, f).sum(1)


def _about_auc(recall: float, auc: float, counts: np.ndarray) -> tuple[list[Finding], AucFits]:
    """Return the inconsistencies of the AUC, and which formula it fits.

    For hard labels, 2 AUC - recall is the specificity. By the paper's formula it is not, and may exceed 100 %.
    """
    implied = 2 * auc - recall
    too_specific = 2 * (auc - 0.005) - (recall + 0.01) > 100
    words = f"AUC {auc:.2f} with recall {recall:.2f} implies a specificity of {implied:.2f} % if from hard labels"
    if not len(counts):
        return [Finding(metrics=("auc",), words=words, impossible=False)] if too_specific else [], "unknown"
    hard, least, most = _reachable_auc(counts)
    fits_hard = bool(_prints(hard, auc).any())
    fits_published = bool(((least < auc + 0.01 + _SLACK) & (most >= auc - 0.005 - _SLACK)).any())
    published = _span(least.min(), most.max())
    if not fits_hard and not fits_published:
        also = f", and it implies a specificity of {implied:.2f} % if from hard labels" if too_specific else ""
        words = f"AUC {auc:.2f} cannot be of predicted labels: the row's other scores allow "
        words += f"{_span(hard.min(), hard.max())} from hard labels and {published} by the paper's formula{also}"
        return [Finding(metrics=("auc",), words=words)], "neither"
    fits: AucFits = "both" if fits_hard and fits_published else "hard labels" if fits_hard else "published formula"
    if too_specific:
        words += f"; possible only by the paper's formula, which allows {published}"
        return [Finding(metrics=("auc",), words=words, impossible=False)], fits
    return [], fits


def _reachable_auc(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per (h, f) the AUC from hard labels, and the least and the most by the paper's formula, in percent [K].

    The paper's counts an image given Other as positive for every plane, so it depends on whose images those were; it is
    linear in o, so the extremes take as many as possible from the planes with the least or the greatest weight.
    """
    h, f = counts[:, :4], counts[:, 4:]
    rest = NUM_TEST - _N
    hard = 100 * (h / _N + 1 - f / rest).mean(1) / 2
    least_o, most_o = _least_other(h, f), _N - h
    num_other = NUM_TEST - h.sum(1) - f.sum(1)
    weight = 1 / _N + 1 / rest
    ends = []
    for order in (np.argsort(weight), np.argsort(-weight)):
        o = least_o.copy()
        for plane in order:
            o[:, plane] += np.minimum(num_other - o.sum(1), most_o[:, plane] - o[:, plane])
        ends.append(hard + 100 * (o @ weight - num_other * (1 / rest).sum()) / 8)
    return hard, ends[0], ends[1]


def _span(low: float, high: float) -> str:
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
