"""Power analysis: how many replicates are needed to detect a difference.

In: a difference, the variation of trainings and patients. Out: power, the minimum number of replicates, and the
smallest difference that a number of them finds.
Source: the noncentral t distribution, with the variance and Satterthwaite's degrees of freedom of
`fulora.evaluate.inference`.
"""

from __future__ import annotations

import numpy as np

from fulora.errors import InputError, fault
from fulora.evaluate.inference import LEVEL, SPREAD_ASSUMED

MOST_REPLICATES = 1000
"""Largest number of replicates considered."""


def power(points: float, *, num_replicates: int, spread: float, error_patients: float, num_patients: int) -> float:
    """Return the power, 0 to 1: the probability that a difference of `points` is significant.

    `spread`: standard deviation of the difference between replicates, in points. `error_patients`: its standard error
    from the sampling of `num_patients` test patients, which more replicates do not reduce. One replicate has power 0.
    Raises InputError for numbers out of range.
    """
    from scipy import stats

    for name, value, least in (
        ("points", points, 0.0),
        ("spread", spread, 0.0),
        ("error_patients", error_patients, 0.0),
    ):
        if not np.isfinite(value) or value < least:
            raise InputError(fault(name, value, f"must be a number of points, at least {least:g}", "Give its size."))
    if num_patients < 2:
        raise InputError(fault("num_patients", num_patients, "must be at least 2", "Give the test set's patients."))
    if num_replicates < 2:
        return 0.0
    trained = spread**2 / num_replicates
    variance = error_patients**2 + trained
    if variance == 0:
        return float(points > 0)
    parts = error_patients**4 / (num_patients - 1) + trained**2 / (num_replicates - 1)
    freedom, shift = variance**2 / parts, points / np.sqrt(variance)
    far = stats.t.isf(LEVEL / 2, freedom)
    return float(np.nan_to_num(stats.nct.sf(far, freedom, shift), nan=1.0) + stats.nct.cdf(-far, freedom, shift))


def replicates_needed(
    points: float,
    *,
    error_patients: float,
    num_patients: int,
    spread: float = SPREAD_ASSUMED,
    wanted: float = 0.8,
) -> int | None:
    """Return the fewest replicates with which a difference of `points` is significant with power `wanted`.

    None if no number suffices, as there are too few test patients. Arguments as of `power`; the default of `spread`
    (`inference.SPREAD_ASSUMED`) is for studies with one training, which cannot estimate it.
    """
    enough, known = 2, {"spread": spread, "error_patients": error_patients, "num_patients": num_patients}
    while power(points, num_replicates=enough, **known) < wanted:  # type: ignore[arg-type]
        enough *= 2
        if enough > MOST_REPLICATES:
            return None
    fewest = enough // 2
    while enough - fewest > 1:
        middle = (enough + fewest) // 2
        sufficient = power(points, num_replicates=middle, **known) >= wanted  # type: ignore[arg-type]
        enough, fewest = (middle, fewest) if sufficient else (enough, middle)
    return enough


def smallest_difference(
    *, num_replicates: int, spread: float, error_patients: float, num_patients: int, wanted: float = 0.8
) -> float | None:
    """Return the smallest difference in points that is significant with power `wanted`; arguments as of `power`.

    None with one replicate, whose variance is unknown.
    """
    from scipy.optimize import brentq

    if num_replicates < 2:
        return None
    known = {"num_replicates": num_replicates, "spread": spread, "error_patients": error_patients}
    if spread == error_patients == 0:
        return 0.0

    def missing(points: float) -> float:
        return power(points, num_patients=num_patients, **known) - wanted  # type: ignore[arg-type]

    largest = spread + error_patients
    while missing(largest) < 0:
        largest *= 2
    return float(brentq(missing, 0.0, largest, xtol=1e-3))
