"""Scores and differences as columns: the value, its 95 % interval, what the interval covers, and of what it consists.

In: `fulora.evaluate.trainings.MeasuredTrainings`. Out: columns of the tables. With one training the interval is the
percentile interval of the patient bootstrap; with several it covers replicates and seeds too (`evaluate.inference`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fulora.evaluate.differences import TrainedDifference
from fulora.evaluate.inference import SPREAD_ASSUMED, Estimate, estimate
from fulora.evaluate.intervals import percentile_interval
from fulora.evaluate.power import replicates_needed
from fulora.evaluate.scores import METRICS
from fulora.evaluate.trainings import MeasuredTrainings

POINTS = 5.0
"""Difference in points for which the tables say how many replicates would find it."""
NO_TRAINING = {"num_trainings": 0, "num_replicates": 0, "num_seeds": 0, "num_collapsed": 0}
"""Columns of a cell whose trainings all failed."""


def known(value: float) -> float | None:
    """Return a number, or None for nan: unknown is null in tables."""
    return None if np.isnan(value) else value


def score_columns(found: MeasuredTrainings, metrics: Sequence[str] = METRICS) -> dict[str, Any]:
    """Return each score with `_low` and `_high`, and what the intervals cover; None where it is not known."""
    row: dict[str, Any] = training_columns(found)
    for name in metrics:
        here = estimated(found, name)
        low, high = here.clipped()
        if here.num_trainings == 1:
            low, high = percentile_interval(found.resampled[name][0])
        row |= {name: known(here.value), f"{name}_low": known(low), f"{name}_high": known(high)}
        if name == "accuracy":
            row["covers"] = here.covers
    return row


def training_columns(found: MeasuredTrainings) -> dict[str, Any]:
    """Return how many trainings a cell has, in how many replicates, and how many collapsed to one class."""
    return {
        "num_trainings": len(found.trainings),
        "num_replicates": len({replicate for replicate, _ in found.trainings}),
        "num_seeds": max(_per_replicate(found)),
        "num_collapsed": sum(found.collapsed),
    }


def _per_replicate(found: MeasuredTrainings) -> list[int]:
    replicates = [replicate for replicate, _ in found.trainings]
    return [replicates.count(one) for one in set(replicates)]


def estimated(found: MeasuredTrainings, metric: str) -> Estimate:
    """Return a cell's score with its uncertainty."""
    return estimate(found.trainings, found.values[metric], found.resampled[metric], found.num_patients)


def component_columns(found: Estimate) -> dict[str, float | None]:
    """Return the components of an estimate's uncertainty, in points; None where it is not known."""
    parts = found.components
    return {
        "se_patients": known(parts.patients),
        "se_trainings": parts.trainings,
        "sd_replicates": parts.replicates,
        "sd_seeds": parts.seeds,
    }


def difference_columns(found: TrainedDifference) -> dict[str, Any]:
    """Return the interval of a difference, what it covers, and its significance: None with one training of a cell."""
    here, tested = found.estimate, found.significant is not None
    return {
        "low": known(here.low),
        "high": known(here.high),
        "p_value": here.p_value if tested else None,
        "p_adjusted": found.p_adjusted,
        "significant": found.significant,
        "covers": here.covers,
        "num_trainings": here.num_trainings,
        "num_replicates": here.num_replicates,
        **component_columns(here),
    }


def needed(found: Estimate, points: float = POINTS) -> int | None:
    """Return how many replicates like those of a difference would find one of `points` with a power of 80 %.

    With one training the spread of trainings is assumed (`inference.SPREAD_ASSUMED`). None where no number would, as
    there are too few test patients, or where their part is unknown.
    """
    error = found.components.patients
    if np.isnan(error) or found.num_patients < 2:
        return None
    trained = found.components.trainings
    spread = SPREAD_ASSUMED if trained is None else trained * np.sqrt(found.variances.num_units)
    return replicates_needed(points, error_patients=error, num_patients=found.num_patients, spread=float(spread))
