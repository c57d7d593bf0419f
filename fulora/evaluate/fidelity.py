"""Fidelity of generated images: FID, KID, precision and recall.

In: features float [N, D] of both sets from one named extractor. Out: four scores with the number of images and the
extractor's name, and as a baseline the same scores of real images against real images of other patients.
Source: FID, Heusel et al., NeurIPS 2017 (arXiv 1706.08500); KID, Bińkowski et al., ICLR 2018 (arXiv 1801.01401);
precision and recall, Kynkäänniemi et al., NeurIPS 2019 (arXiv 1904.06991). FID falls as the sets grow, and more so for
some generators than for others (Chong and Forsyth, CVPR 2020, arXiv 1911.07023), and precision and recall depend on
the number of images too: compare scores only at equal numbers, which `measure` and `baseline` ensure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fulora.errors import InputError, fault, raise_if_any
from fulora.seeds import numpy_rng

if TYPE_CHECKING:
    from torch import Tensor

LEAST_IMAGES = 4
"""Minimum images per side: three neighbours besides the image itself, and two halves of two for KID's deviation."""
NEIGHBOURS = 3
"""The paper's k of precision and recall."""
NUM_SUBSETS = 100
"""Number of random halves for the standard deviation of KID."""
_BLOCK = 512


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fidelity:
    """Fidelity of generated images; every score is of `num_real` and `num_generated` images, which are equal."""

    fid: float
    """Fréchet distance; 0 is best. Biased upwards for few images: compare at equal numbers only."""
    kid: float
    """Squared maximum mean discrepancy, unbiased, over all images; 0 is best, slightly negative values occur."""
    kid_deviation: float
    """Standard deviation of KID over random halves of both sides: about the standard error of `kid` for independent
    images, up to 1.7 times it for equal distributions. An underestimate where patients have several images.
    """
    precision: float
    """Percent of generated images within the manifold of the real ones: realism."""
    recall: float
    """Percent of real images within the manifold of the generated ones: diversity."""
    num_real: int
    """Real images used."""
    num_generated: int
    """Generated images used; for a baseline, real images of the other patients."""
    features: str
    """Name of the extractor; scores of different extractors are not comparable."""


def measure(real: np.ndarray, generated: np.ndarray, *, features: str, seed: int, size: int | None = None) -> Fidelity:
    """Return the scores of generated against real images, features [N, D] and [M, D] of the extractor `features`.

    Exactly `size` images of each side are used (None: as many as the smaller side has), drawn from a larger side
    without replacement by the seed. So the bias of FID and the radius of the neighbourhoods are those of one known
    size, and a `baseline` of the same size is comparable (`comparable_size` gives the largest). KID allows unequal
    sides, but is measured on the same images. `kid` is over all pairs; its standard deviation is over random halves of
    both sides (the delete-half jackknife, Shao and Wu, Ann. Statist. 17 (1989) 1176). Both sides should have the same
    mix of planes, as a different mix changes the scores.
    Raises InputError for features that are not finite or not [N, D], and for fewer than LEAST_IMAGES or `size` images.
    """
    real, generated = _checked({"real": real, "generated": generated}, least=LEAST_IMAGES)
    limit = min(len(real), len(generated))
    size = limit if size is None else size
    _check_size(size, limit, "Generate more images, or lower size")
    return _measured(
        _drawn(real, size, seed, "real"), _drawn(generated, size, seed, "generated"), features=features, seed=seed
    )


def baseline(
    real: np.ndarray, *, groups: Sequence[str] | np.ndarray, size: int, features: str, seed: int
) -> Fidelity | None:
    """Return the scores of real against real images of other patients, `size` a side; None if there are too few.

    `groups` is one patient id per row of `real` [N, D]. No patient is on both sides. Patients are assigned to the
    smaller side in decreasing order of their number of images, in random order among equals, so that the sides are
    balanced and their sizes do not depend on the seed. The baseline is what a perfect generator of other patients'
    images would reach; use the size of the `measure` it is compared with. A generator trained on these patients may
    score below it, which is no proof of quality (`fulora.evaluate.copies` audits memorisation). It depends on the
    split: with few patients, repeat it over seeds.
    None if a side has fewer than LEAST_IMAGES images. Raises InputError if a side has fewer than `size` images, and
    for invalid features as `measure` does.
    """
    (real,) = _checked({"real": real}, least=0)
    if len(groups) != len(real):
        rule = f"must be as many as the rows of real ({len(real)})"
        raise InputError(fault("groups", len(groups), rule, "Give one patient id per image"))
    one, other = _split_patients(groups, seed)
    limit = min(len(one), len(other))
    if limit < LEAST_IMAGES:
        return None
    _check_size(size, limit, "Use comparable_size for both comparisons")
    sides = [_drawn(real[rows], size, seed, name) for rows, name in ((one, "baseline"), (other, "baseline, other"))]
    return _measured(*sides, features=features, seed=seed)


def comparable_size(groups: Sequence[str] | np.ndarray, num_generated: int) -> int:
    """Return the largest size that both `measure` and `baseline` can take, 0 for one patient; `groups` as there."""
    return min(num_generated, *(len(rows) for rows in _split_patients(groups, 0)))


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Fréchet distance of Gaussians fitted to features [N, D] and [M, D] (Heusel et al. 2017).

    |mean a - mean b|^2 + tr(Ca + Cb - 2 (Ca Cb)^1/2), covariances with N - 1, in float64. With the centred features
    A and B over sqrt(N - 1), Ca = A'A, the eigenvalues of Ca Cb are the squares of the singular values of A B', and so
    the last trace is their sum: no matrix square root, no complex numbers, no explicit covariance (which would square
    the condition number), and no special case for covariances of lower rank, as with N < D images. Negative rounding
    errors are clipped to 0. Raises InputError for fewer than 2 images a side and for features not finite or not [N, D].
    """
    import torch

    a, b = _checked({"a": a, "b": b}, least=2)
    offset = a.mean(0) - b.mean(0)
    roots = [_covariance_root(side) for side in (a, b)]
    shared = float(torch.linalg.svdvals(roots[0] @ roots[1].T).sum())
    spread = sum(float((root * root).sum()) for root in roots)
    return max(0.0, float(offset @ offset) + spread - 2 * shared)


def kid_full(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased KID over all images, features [N, D] and [M, D]; the minimum-variance unbiased estimate.

    Bińkowski et al. 2018; Lemma 6 of Gretton et al., JMLR 13 (2012) 723, which allows unequal sides. Negative about
    half of the time for equal distributions. Raises InputError as `fid` does.
    """
    a, b = _checked({"a": a, "b": b}, least=2)
    return float(_mmd(a, b, np.ones((len(a), 1)), np.ones((len(b), 1)))[0])


def precision_recall(real: np.ndarray, generated: np.ndarray, *, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Return (precision, recall) in percent of features [N, D] and [M, D] (Kynkäänniemi et al. 2019).

    Precision is the share of generated images within the distance of some real image to its k-th nearest other real
    image; recall is the same with the sets exchanged. Euclidean distances, in float64 and in blocks of rows: never the
    whole [N, M]. Ties count as within, up to rounding. Raises InputError for a side of k images or fewer.
    """
    if k < 1:
        raise InputError(fault("k", k, "must be at least 1", "Choose a larger number"))
    real, generated = _checked({"real": real, "generated": generated}, least=k + 1)
    centre = real.mean(0)  # Squared distances lose digits to a common offset.
    real, generated = real - centre, generated - centre
    rounding = 64 * np.finfo(np.float64).eps * max(float(_squares(real).max()), float(_squares(generated).max()))
    real_reach, generated_reach = (_reach(side, k) + rounding for side in (real, generated))
    inside_real = np.zeros(len(generated), dtype=bool)
    inside_generated = np.zeros(len(real), dtype=bool)
    for start in range(0, len(real), _BLOCK):
        rows = slice(start, start + _BLOCK)
        squared = _squared_distances(real[rows], generated)
        inside_real |= (squared <= real_reach[rows, None]).any(0)
        inside_generated[rows] = (squared <= generated_reach).any(1)
    return 100 * float(inside_real.mean()), 100 * float(inside_generated.mean())


def _measured(real: np.ndarray, generated: np.ndarray, *, features: str, seed: int) -> Fidelity:
    """Return all scores of two equally large, checked sets."""
    size = len(real)
    halves = _subsets(size, size, size // 2, NUM_SUBSETS, seed)
    # The first column is all images: one pass over the pairs gives the estimate and its deviation.
    values = _mmd(real, generated, *(np.hstack([np.ones((size, 1)), side]) for side in halves))
    precision, recall = precision_recall(real, generated)
    return Fidelity(
        fid=fid(real, generated),
        kid=float(values[0]),
        kid_deviation=float(values[1:].std(ddof=1)),
        precision=precision,
        recall=recall,
        num_real=size,
        num_generated=size,
        features=features,
    )


def _checked(sides: dict[str, np.ndarray], *, least: int) -> list[np.ndarray]:
    """Return the features as float64 [N, D], or raise InputError with every fault of them."""
    found: list[np.ndarray] = []
    faults: list[str] = []
    for name, given in sides.items():
        array = np.asarray(given, dtype=np.float64)
        found.append(array)
        if array.ndim != 2 or array.shape[1] == 0:
            faults.append(fault(name, array.shape, "must be features [N, D]", "Give one row per image"))
        elif len(array) < least:
            faults.append(fault(name, len(array), f"must be at least {least} images", "Give more images"))
        elif bad := int((~np.isfinite(array)).any(1).sum()):
            rule = f"of {len(array)} rows hold numbers that are not finite"
            faults.append(fault(name, bad, rule, "Look at these images and at the extractor"))
    raise_if_any(faults)
    widths = {name: array.shape[1] for name, array in zip(sides, found, strict=True)}
    if len(set(widths.values())) > 1:
        rule = "must be features of one width"
        raise InputError(fault(" and ".join(sides), tuple(widths.values()), rule, "Take both from one extractor"))
    return found


def _check_size(size: int, limit: int, remedy: str) -> None:
    if not LEAST_IMAGES <= size <= limit:
        rule = f"must be from {LEAST_IMAGES} to the images of the smaller side ({limit})"
        raise InputError(fault("size", size, rule, remedy))


def _drawn(rows: np.ndarray, size: int, seed: int, name: str) -> np.ndarray:
    """Return `size` of the rows in their order, drawn without replacement; all of them if there are no more."""
    if len(rows) == size:
        return rows
    return rows[np.sort(numpy_rng(seed, "fidelity", name).permutation(len(rows))[:size])]


def _split_patients(groups: Sequence[str] | np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of two balanced sides without a common patient."""
    names, patient, counts = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    order = numpy_rng(seed, "fidelity", "patients").permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    side_of = np.zeros(len(names), dtype=np.int64)
    sizes = [0, 0]
    for number in order:
        side = int(sizes[1] < sizes[0])
        side_of[number] = side
        sizes[side] += int(counts[number])
    return np.flatnonzero(side_of[patient] == 0), np.flatnonzero(side_of[patient] == 1)


def _covariance_root(features: np.ndarray) -> Tensor:
    """Return R [min(N, D), D] with R'R the covariance: the centred features, or their triangular factor if smaller.

    Torch's factorisations are several times as fast as numpy's here.
    """
    import torch

    centred = torch.from_numpy((features - features.mean(0)) / np.sqrt(len(features) - 1))
    return centred if centred.shape[0] <= centred.shape[1] else torch.linalg.qr(centred, mode="r").R


def _subsets(num_a: int, num_b: int, size: int, num_subsets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which images each subset holds, 0 and 1 in float64 [num_a, num_subsets] and [num_b, num_subsets]."""
    rng = numpy_rng(seed, "fidelity", "subsets")
    chosen_a, chosen_b = np.zeros((num_a, num_subsets)), np.zeros((num_b, num_subsets))
    for column in range(num_subsets):
        for chosen in (chosen_a, chosen_b):
            chosen[rng.permutation(len(chosen))[:size], column] = 1
    return chosen_a, chosen_b


def _mmd(a: np.ndarray, b: np.ndarray, chosen_a: np.ndarray, chosen_b: np.ndarray) -> np.ndarray:
    """Return the unbiased squared MMD float64 [S] of the subsets [N, S] and [M, S]: pairs of an image with itself
    are left out."""
    num_a, num_b = chosen_a.sum(0), chosen_b.sum(0)
    within = [
        (_kernel_sums(side, side, chosen, chosen) - _kernel(_squares(side), side.shape[1]) @ chosen) / (num * (num - 1))
        for side, chosen, num in ((a, chosen_a, num_a), (b, chosen_b, num_b))
    ]
    return within[0] + within[1] - 2 * _kernel_sums(a, b, chosen_a, chosen_b) / (num_a * num_b)


def _kernel_sums(a: np.ndarray, b: np.ndarray, chosen_a: np.ndarray, chosen_b: np.ndarray) -> np.ndarray:
    """Return the sum of the kernel over all pairs of each subset, float64 [S]."""
    total = np.zeros(chosen_a.shape[1])
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        total += (chosen_a[rows] * (_kernel(a[rows] @ b.T, a.shape[1]) @ chosen_b)).sum(0)
    return total


def _kernel(products: np.ndarray, width: int) -> np.ndarray:
    """Return (x.y / D + 1)^3 of inner products."""
    base = products / width + 1
    return base * base * base


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", rows, rows)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(_squares(a)[:, None] + _squares(b) - 2 * (a @ b.T), 0)


def _reach(rows: np.ndarray, k: int) -> np.ndarray:
    """Return each row's squared distance to its k-th nearest other row, float64 [N]."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        squared = _squared_distances(block, rows)
        squared[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        found[start : start + len(block)] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return found
