"""Differences between cells with intervals over patients, replicates and seeds.

In: cells measured on the same resamples (`fulora.evaluate.trainings`). Out: differences paired by training, means of
them over models, and all pairs of cells with control of the family-wise error.
With one training of each cell the variance between trainings is unknown: the interval then covers patients only, and
significance is not tested.
Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65; for all pairs the trainings' variances are moderated,
Smyth, "Linear models and empirical Bayes methods", Stat. Appl. Genet. Mol. Biol. 3 (2004) 3: three replicates give each
pair two degrees of freedom, and among 190 pairs some variance is nearly 0 by chance, so that Holm's correction of the
unmoderated p-values finds a difference in most studies of equal cells (`benchmarks/coverage.py` measures both).
Deviates: half of Smyth's prior degrees of freedom, and the larger of his prior variance and the mean, as models differ
in their variance more than his prior allows for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fulora.evaluate.inference import LEVEL, Components, Estimate, Variances, estimate, p_value
from fulora.evaluate.trainings import MeasuredTrainings, Training

_FEWEST_PAIRS = 3
"""Minimum number of pairs for moderated variances."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedDifference:
    """`after` minus `before` in points, on the trainings that both have."""

    metric: str
    """One of `trainings.ALL_METRICS`."""
    estimate: Estimate
    """The difference and its interval, not corrected for multiple comparisons."""
    p_adjusted: float | None
    """p-value corrected for all pairs compared, at least the estimate's own; None if not tested."""
    significant: bool | None
    """Whether it is significant, corrected for all pairs; None with one training of a cell."""
    num_unmatched: int
    """Unpaired trainings, which are left out."""
    left_out: tuple[int, ...] = ()
    """Indices of pairs left out of a mean because one of their cells collapsed to one class."""


def difference(before: MeasuredTrainings, after: MeasuredTrainings, metric: str) -> TrainedDifference:
    """Return the difference of two cells, paired by training.

    One comparison, not corrected for multiple comparisons. The value is nan where the two have no training in common.
    """
    return mean_difference([(before, after)], metric, keep_collapsed=True)


def mean_difference(
    pairs: Sequence[tuple[MeasuredTrainings, MeasuredTrainings]], metric: str, *, keep_collapsed: bool = False
) -> TrainedDifference:
    """Return the mean over pairs (before, after), such as models, of their differences; one comparison.

    Pairs with a cell that collapsed to one class are left out and named, unless `keep_collapsed`. Only trainings
    that all pairs have are used. The interval is for these models: it does not cover the choice of models.
    """
    left_out = tuple(i for i, pair in enumerate(pairs) if not keep_collapsed and any(c.has_collapsed for c in pair))
    kept = [pair for i, pair in enumerate(pairs) if i not in left_out]
    common = _common([cell for pair in kept for cell in pair])
    unmatched = len({t for pair in kept for cell in pair for t in cell.trainings}) - len(common)
    if not common:
        found = _unknown(kept[0][0].num_patients if kept else 0)
    else:
        differences = [_paired(before, after, metric, common) for before, after in kept]
        values, resampled = (np.mean([d[side] for d in differences], axis=0) for side in (0, 1))
        found = estimate(common, values, resampled, kept[0][0].num_patients)
    p = found.p_value if _is_tested(found) else None
    return TrainedDifference(
        metric=metric,
        estimate=found,
        p_adjusted=p,
        significant=None if p is None else p < LEVEL,
        num_unmatched=unmatched,
        left_out=left_out,
    )


def all_pairs(cells: Sequence[MeasuredTrainings], metric: str) -> dict[tuple[int, int], TrainedDifference]:
    """Return the difference of every two cells (the later minus the earlier) by their indices.

    `p_adjusted` controls the family-wise error over all pairs of this metric. Pairs with one training in common are not
    tested and not counted.
    """
    found = {(a, b): difference(cells[a], cells[b], metric) for a, b in combinations(range(len(cells)), 2)}
    tested = [pair for pair, d in found.items() if d.significant is not None]
    if not tested:
        return found
    moderated = _moderated([found[pair].estimate.variances for pair in tested], len(cells))
    single = [p_value(found[pair].estimate.value, parts) for pair, parts in zip(tested, moderated)]
    for pair, corrected in zip(tested, holm(np.array(single))):
        p = max(float(corrected), found[pair].estimate.p_value)
        found[pair] = dataclasses.replace(found[pair], p_adjusted=p, significant=p < LEVEL)
    return found


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values [K] corrected by Holm's step-down method."""
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return out


def _moderated(parts: Sequence[Variances], num_cells: int) -> list[Variances]:
    """Return the variances with the part between trainings shrunk to a common prior, with more degrees of freedom.

    Notation as in Smyth: d degrees of freedom of a variance s^2, prior d0 and s0^2, from the mean and variance of
    log s^2.
    """
    s2, d = (np.array([getattr(p, name) for p in parts]) for name in ("trainings", "freedom"))
    if len(parts) < _FEWEST_PAIRS or not s2.any():
        return list(parts)
    d0, prior = _prior(s2, d)
    d0 = min(d0, (num_cells - 1) * float(d.mean())) / 2
    drawn = (d0 * max(prior, float(s2.mean())) + d * s2) / (d0 + d)
    return [dataclasses.replace(p, trainings=float(v), freedom=float(d0 + own)) for p, v, own in zip(parts, drawn, d)]


def _prior(s2: np.ndarray, d: np.ndarray) -> tuple[float, float]:
    """Return Smyth's (d0, s0^2) of variances [K] with d degrees of freedom [K]; d0 may be infinite."""
    from scipy.special import digamma, polygamma

    e = np.log(np.maximum(s2, 1e-5 * np.median(s2) + np.finfo(float).tiny)) - digamma(d / 2) + np.log(d / 2)
    excess = float(e.var(ddof=1) - polygamma(1, d / 2).mean())
    if excess <= 0:
        return float("inf"), float(np.exp(e.mean()))
    d0 = 2 * _inverse_trigamma(excess)
    return d0, float(np.exp(e.mean() + digamma(d0 / 2) - np.log(d0 / 2)))


def _inverse_trigamma(x: float) -> float:
    """Return y with trigamma(y) = x > 0, by Newton's method as in Smyth's appendix."""
    from scipy.special import polygamma

    if x > 1e7:
        return x**-0.5
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = float(polygamma(1, y))
        step = trigamma * (1 - trigamma / x) / float(polygamma(2, y))
        y += step
        if -step / y < 1e-8:
            break
    return y


def _common(cells: Sequence[MeasuredTrainings]) -> list[Training]:
    """Return the trainings that all cells have, sorted."""
    sets = [set(cell.trainings) for cell in cells]
    return sorted(set.intersection(*sets)) if sets else []


def _paired(
    before: MeasuredTrainings, after: MeasuredTrainings, metric: str, common: Sequence[Training]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences [K] of trainings that both have, and those on every resample [K, B]."""
    sides = []
    for cell in (before, after):
        places = [cell.trainings.index(training) for training in common]
        sides.append((cell.values[metric][places], cell.resampled[metric][places]))
    return sides[1][0] - sides[0][0], sides[1][1] - sides[0][1]


def _is_tested(found: Estimate) -> bool:
    return found.num_trainings > 1 and found.covers != "nothing" and bool(np.isfinite(found.value))


def _unknown(num_patients: int) -> Estimate:
    """Return the estimate of cells without a common training: nan."""
    nan = float("nan")
    return Estimate(
        value=nan, low=nan, high=nan, standard_error=nan, degrees_of_freedom=nan, p_value=1.0, covers="nothing",
        components=Components(patients=nan, trainings=None, replicates=None, seeds=None),
        variances=Variances(
            patients=nan, trainings=0.0, freedom=0.0, interaction=0.0, num_patients=num_patients, num_units=0
        ),
        num_patients=num_patients, num_replicates=0, num_trainings=0,
    )  # fmt: skip
