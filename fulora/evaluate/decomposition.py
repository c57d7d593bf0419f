"""Decompose errors into predictions of Other, which the test set does not contain, and confusion of planes.

In: probabilities [N, 5] and plane indices [N], or a printed row of the paper. Out: shares of the test images in
percent; accuracy + share_other + share_wrong_plane = 100 where no test image is of Other.
Why: training sets differ in their share of Other (ES 42 %, HB 20 %), and the test set has none. A classifier that
predicts Other less often gains accuracy without separating the tested planes better; `accuracy_4way` and
`share_wrong_plane` show whether it separates them better.
Source: the decomposition of printed rows enumerates all confusion matrices that `fulora.evaluate.plausibility` finds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fulora.errors import InputError, fault
from fulora.evaluate.plausibility import NUM_TEST, confusion_counts
from fulora.evaluate.scores import TESTED
from fulora.planes import OTHER

SHARES: tuple[str, ...] = ("accuracy_4way", "share_other", "share_wrong_plane")
"""Names of the decomposition's columns, each in percent of the test images."""

_PRINTED_COUNTS = ("num_es", "num_af", "num_synthetic")


def shares_per_image(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 0 or 1 per image and column of SHARES, float64 [N, 3].

    `accuracy_4way`: right where the choice is among the four tested planes alone, the most probable of them.
    `share_other`: Other is predicted for an image of another plane. `share_wrong_plane`: a tested plane is predicted,
    not the image's own.
    """
    probabilities, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    predicted = probabilities.argmax(axis=1)
    among_four = np.array(TESTED)[probabilities[:, list(TESTED)].argmax(axis=1)]
    wrong = predicted != labels
    other = predicted == OTHER.index
    return np.stack([among_four == labels, wrong & other, wrong & ~other], axis=1).astype(np.float64)


def decompose(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return each of SHARES in percent, of probabilities [N, 5] and plane indices [N].

    Raises InputError without images, or if the numbers of probabilities and labels differ.
    """
    if not len(labels) or len(labels) != len(probabilities):
        counts = (len(probabilities), len(labels))
        rule = "must be as many probabilities as labels, at least one"
        raise InputError(fault("images", counts, rule, "Give both of the same images."))
    shares = shares_per_image(probabilities, labels).mean(axis=0)
    return {name: 100 * float(share) for name, share in zip(SHARES, shares, strict=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class PrintedErrors:
    """The errors of a printed row, in images out of 233, over all confusion matrices consistent with its figures."""

    num_other: float
    """Images predicted as Other: mean over the matrices, each counted once."""
    num_other_range: tuple[int, int]
    """The fewest and the most."""
    num_wrong_plane: float
    """Images predicted as a wrong tested plane: mean over the matrices."""
    num_wrong_plane_range: tuple[int, int]
    """The fewest and the most."""
    num_matrices: int
    """Number of confusion matrices (hits and false positives per plane) consistent with the row."""

    @property
    def share_other(self) -> float:
        """Percent of the test images predicted as Other."""
        return 100 * self.num_other / NUM_TEST

    @property
    def share_wrong_plane(self) -> float:
        """Percent of the test images predicted as a wrong tested plane."""
        return 100 * self.num_wrong_plane / NUM_TEST


def decompose_printed(row: Mapping[str, object]) -> PrintedErrors:
    """Return the errors of a row with accuracy, recall, precision and f1 in percent, two decimals, of the 233 images.

    `accuracy_4way` cannot be derived from printed figures: it lies between accuracy and accuracy + share_other.
    Raises InputError if no confusion matrix is consistent with the figures.
    """
    counts = confusion_counts(row)
    if not len(counts):
        figures = {name: row[name] for name in ("accuracy", "recall", "precision", "f1")}
        rule = f"are not consistent with any confusion matrix of {NUM_TEST} images"
        raise InputError(fault("row", figures, rule, "Check them with `plausibility.check_row`."))
    wrong = counts[:, 4:].sum(axis=1)
    other = NUM_TEST - counts.sum(axis=1)
    return PrintedErrors(
        num_other=float(other.mean()),
        num_other_range=(int(other.min()), int(other.max())),
        num_wrong_plane=float(wrong.mean()),
        num_wrong_plane_range=(int(wrong.min()), int(wrong.max())),
        num_matrices=len(counts),
    )


def mean_printed_errors(rows: Sequence[Mapping[str, object]]) -> dict[tuple[str, int, int, int], tuple[float, float]]:
    """Return (images predicted as Other, images of a wrong plane) by regime and training images, means over its rows.

    The key is (regime, num_es, num_af, num_synthetic): Table 2's HB row, printed with other training images than
    Table 1's, is a separate regime. A row printed in both tables (ES, ViT b16) counts as often as it is given.
    """
    groups: dict[tuple[str, int, int, int], list[PrintedErrors]] = {}
    for row in rows:
        num_es, num_af, num_synthetic = (int(str(row[name])) for name in _PRINTED_COUNTS)
        groups.setdefault((str(row["regime"]), num_es, num_af, num_synthetic), []).append(decompose_printed(row))
    return {
        key: (float(np.mean([e.num_other for e in found])), float(np.mean([e.num_wrong_plane for e in found])))
        for key, found in groups.items()
    }
