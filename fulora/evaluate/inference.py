"""Confidence intervals that cover the variation of patients, replicates and seeds.

In: scores of trainings and the same scores on resamples of patients. Out: `Estimate`.
The trainings' part of the variance is that of the replicates' means over their number; the patients' part is the
cluster bootstrap's variance of the mean. Both contain the interaction of trainings and patients, so it
is subtracted once. The interval is Student's, with Satterthwaite's degrees of freedom.
Notation: n units (replicates, or seeds where there is one replicate), means u_i, resampled means U_i [B], P patients:
  V_P = var_b(mean_i U_i) P / (P - 1)       P - 1 degrees of freedom
  V_T = var_i(u_i) / n                      d = n - 1
  V_I = sum_i var_b(U_i - mean U) / (n (n - 1)) P / (P - 1)     (P - 1) (n - 1)
  V = V_P + max(V_T - V_I, 0),   df = V^2 / (V_P^2 / (P - 1) + V_T^2 / d + V_I^2 / ((P - 1) (n - 1)))
Replicates with several seeds vary by at least what their seeds do. Where three replicates or fewer vary by less than
the seeds' variance alone gives, V_S = mean_i var_j(seed j of i) / S / n with n (S - 1) degrees of freedom, the two are
pooled, as a variance between replicates cannot be negative.
Source: Satterthwaite, Biometrics Bulletin 2 (1946) 110; the double count of interactions, Owen, "The pigeonhole
bootstrap", Annals of Applied Statistics 1 (2007) 386; the cluster bootstrap, `fulora.evaluate.intervals`.
Deviates: the interval is never narrower than the one of the trainings alone, t with d degrees of freedom times
sqrt(min(V_T, 2 (V_T - V_I))). With few replicates V_T is often small by chance, and Satterthwaite's degrees of freedom
are then too many: with three replicates that differ far more than patients do, such intervals cover 92.4 % without
this, 94 % with it. `benchmarks/coverage.py` measures what intervals cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEVEL = 0.05
"""Significance level: one minus the coverage of the intervals."""
SPREAD_ASSUMED = 5.0
"""Standard deviation in points of a difference in accuracy between trainings, assumed if a study has one of each.

Measured: HB against ES on the demo, mean of three models, eight seeds. By model it was 2.7 to 10.5."""

Covers = Literal["nothing", "patients", "patients and seeds", "patients, replicates and seeds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Components of the uncertainty of an estimate, in points."""

    patients: float
    """Standard error from the choice of test patients; nan with one patient."""
    trainings: float | None
    """Standard error from replicates and seeds together; None with one training."""
    replicates: float | None
    """Standard deviation between replicates, beyond that of their seeds where there are several; None with one."""
    seeds: float | None
    """Standard deviation between seeds of one replicate; None where no replicate has two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variances:
    """The variances of the module's notation, in squared points."""

    patients: float
    """V_P; nan with one patient."""
    trainings: float
    """V_T, pooled with V_S where that is larger and units are few; 0 with one unit."""
    freedom: float
    """Degrees of freedom of V_T; 0 with one unit."""
    interaction: float
    """V_I; 0 with one unit or one patient."""
    num_patients: int
    """P."""
    num_units: int
    """n."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A score or a difference, in points, with its 95 % interval."""

    value: float
    """Mean over replicates of the mean over each one's seeds."""
    low: float
    """Lower end of the interval; nan if the variance is unknown."""
    high: float
    """Upper end."""
    standard_error: float
    """Standard error of the value, over all that `covers` names."""
    degrees_of_freedom: float
    """Satterthwaite's; nan if the variance is unknown."""
    p_value: float
    """Two-sided p-value of the hypothesis that the value is 0; below 0.05 if the interval excludes 0."""
    covers: Covers
    """Sources of variation that the interval covers."""
    components: Components
    """Components of the uncertainty."""
    variances: Variances
    """Components of the variance."""
    num_patients: int
    """Number of patients, or clusters of patients."""
    num_replicates: int
    """Replicates."""
    num_trainings: int
    """Number of trainings over all replicates."""

    def clipped(self, least: float = 0.0, most: float = 100.0) -> tuple[float, float]:
        """Return the interval clipped to the range of a score."""
        return float(np.clip(self.low, least, most)), float(np.clip(self.high, least, most))


def estimate(
    trainings: Sequence[tuple[int, int]], values: np.ndarray, resampled: np.ndarray, num_patients: int
) -> Estimate:
    """Return the estimate of a score or difference of trainings, named by (replicate, seed).

    `values` float64 [K] in points, `resampled` float64 [K, B] on resamples of `num_patients`; B is 0 with one patient.
    With one replicate the interval covers patients and seeds only; with one training, patients only.
    """
    replicates = np.array([replicate for replicate, _ in trainings])
    found = variances(trainings, values, resampled, num_patients)
    num = len(np.unique(replicates))
    value = float(np.mean([values[replicates == r].mean() for r in np.unique(replicates)]))
    half, error, freedom = _half_width(found)
    covers: Covers = "patients"
    if not np.isfinite(error):
        covers = "nothing"
    elif num > 1:
        covers = "patients, replicates and seeds"
    elif len(trainings) > 1:
        covers = "patients and seeds"
    between, within = _spreads(replicates, values, resampled, found)
    trained = max(found.trainings - found.interaction, 0)
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        standard_error=error,
        degrees_of_freedom=freedom,
        p_value=p_value(value, found),
        covers=covers,
        components=Components(
            patients=float(np.sqrt(found.patients)),
            trainings=float(np.sqrt(trained)) if len(trainings) > 1 else None,
            replicates=between,
            seeds=within,
        ),
        variances=found,
        num_patients=num_patients,
        num_replicates=num,
        num_trainings=len(trainings),
    )


def variances(
    trainings: Sequence[tuple[int, int]], values: np.ndarray, resampled: np.ndarray, num_patients: int
) -> Variances:
    """Return the variances of the mean over units; arguments as of `estimate`."""
    replicates = np.array([replicate for replicate, _ in trainings])
    groups = [np.flatnonzero(replicates == r) for r in np.unique(replicates)]
    if len(groups) == 1:
        groups = [np.array([place]) for place in groups[0]]
    means = np.array([values[places].mean() for places in groups])
    drawn = np.stack([resampled[places].mean(axis=0) for places in groups])
    n = len(groups)
    shared = drawn.mean(axis=0)
    trained, freedom, interaction = 0.0, 0.0, 0.0
    if n > 1:
        trained, freedom = _pooled(float(means.var(ddof=1)) / n, [values[places] for places in groups])
        interaction = float(np.nan_to_num(_over_patients(drawn - shared, num_patients)).sum()) / (n * (n - 1))
    return Variances(
        patients=float(_over_patients(shared, num_patients)),
        trainings=trained,
        freedom=freedom,
        interaction=interaction,
        num_patients=num_patients,
        num_units=n,
    )


def _pooled(between: float, units: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return V_T and its degrees of freedom, of the variance between units over their number and each one's seeds."""
    n, freedom = len(units), float(len(units) - 1)
    degrees = sum(len(seeds) - 1 for seeds in units)
    if not degrees or n > _FEW_UNITS:
        return between, freedom
    spread = sum(((seeds - seeds.mean()) ** 2).sum() for seeds in units) / degrees
    within = float(spread * np.mean([1 / len(seeds) for seeds in units])) / n
    if between >= within:
        return between, freedom
    return (freedom * between + degrees * within) / (freedom + degrees), freedom + degrees


def p_value(value: float, found: Variances) -> float:
    """Return the two-sided p-value of the hypothesis that the value is 0; 1 if the variance is unknown."""
    from scipy import stats

    variance, freedom, least = _parts(found)
    if not np.isfinite(variance) or not np.isfinite(value) or abs(value) <= _ROUNDING:
        return 1.0
    p = 2 * stats.t.sf(abs(value) / np.sqrt(max(variance, _ROUNDING**2)), freedom)
    if least > 0:
        p = max(p, 2 * stats.t.sf(abs(value) / np.sqrt(least), found.freedom))
    return float(p)


_FEW_UNITS = 3
"""Largest number of replicates whose variance is pooled with their seeds'; more estimate it well enough."""
_ROUNDING = 1e-9
"""Smaller values, in points, are rounding errors."""


def _parts(found: Variances) -> tuple[float, float, float]:
    """Return V, its degrees of freedom, and the trainings' variance that the interval may not fall below."""
    patients = found.num_patients - 1
    trained = max(found.trainings - found.interaction, 0.0)
    variance = found.patients + trained
    if not trained or not np.isfinite(variance):
        return variance, float(max(patients, 1)), 0.0
    spread = found.patients**2 / patients + found.trainings**2 / found.freedom
    spread += found.interaction**2 / (patients * (found.num_units - 1))
    return variance, variance**2 / spread, min(found.trainings, 2 * trained)


def _half_width(found: Variances) -> tuple[float, float, float]:
    """Return half the 95 % interval's width, the standard error, and the degrees of freedom."""
    from scipy import stats

    variance, freedom, least = _parts(found)
    if not np.isfinite(variance):
        return float("nan"), float("nan"), float("nan")
    half = stats.t.isf(LEVEL / 2, freedom) * np.sqrt(variance)
    if least > 0:
        half = max(half, stats.t.isf(LEVEL / 2, found.freedom) * np.sqrt(least))
    return float(half), float(np.sqrt(variance)), float(freedom)


def _over_patients(resampled: np.ndarray, num_patients: int) -> np.ndarray:
    """Return the variances over resamples [..., B] of patients, corrected by P / (P - 1); nan if unknown."""
    known = np.isfinite(resampled).all(axis=tuple(range(resampled.ndim - 1)))
    if known.sum() < 2 or num_patients < 2:
        return np.full(resampled.shape[:-1], np.nan)
    return resampled[..., known].var(axis=-1, ddof=1) * num_patients / (num_patients - 1)


def _spreads(
    replicates: np.ndarray, values: np.ndarray, resampled: np.ndarray, found: Variances
) -> tuple[float | None, float | None]:
    """Return the standard deviations between replicates and between seeds, without the interaction with patients."""
    groups = [np.flatnonzero(replicates == r) for r in np.unique(replicates)]
    seeded = [places for places in groups if len(places) > 1]
    within = None
    if seeded:
        degrees = sum(len(places) - 1 for places in seeded)
        total = sum(((values[p] - values[p].mean()) ** 2).sum() for p in seeded)
        apart = [_over_patients(resampled[p] - resampled[p].mean(axis=0), found.num_patients) for p in seeded]
        within = float(max(total - np.nan_to_num(np.concatenate(apart)).sum(), 0.0)) / degrees
    error = None if within is None else float(np.sqrt(within))
    if len(groups) < 2:
        return None, error
    between = found.num_units * (found.trainings - found.interaction)
    if within is not None:
        between -= within * float(np.mean([1 / len(places) for places in groups]))
    return float(np.sqrt(max(between, 0.0))), error
