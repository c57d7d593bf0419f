"""How much a regime changes the scores, models taken together, with an interval.

In: table1 rows and predictions. Out: `Change`. Both regimes are scored on the same resamples of the same test patients,
so what makes a patient hard for both cancels; two separate intervals of Table 1 cannot say this.
Source: paired cluster bootstrap, see `fulora.evaluate.intervals`. It covers the choice of test patients, not of
training seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fulora.evaluate.published import published_table1
from fulora.evaluate.scores import present_planes, scores_from_confusion
from fulora.planes import PLANES, plane_from_label
from fulora.seeds import numpy_rng

NUM_RESAMPLES = 2000
_METRICS = ("accuracy", "f1")
_COLUMNS = [f"p_{plane.name}" for plane in PLANES]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """`regime` minus `reference`, mean over models, in points of percent."""

    regime: str
    reference: str
    models: tuple[str, ...]
    """Models that both regimes have scores of."""
    values: dict[str, tuple[float, float, float]]
    """Change, low, high of accuracy and f1."""
    published: dict[str, float]
    """The same change in the paper's Table 1; empty where it lacks a regime."""
    num_patients: int
    num_images: int


def change(
    table1: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]], regime: str, reference: str, *, seed: int
) -> Change | None:
    """Return the change from `reference` to `regime`, or None where no model has predictions of both."""
    trials = {(r["regime"], r["model"]): r["trial_ids"].split(", ") for r in table1 if r["trial_ids"]}
    by_trial: dict[str, list[dict[str, Any]]] = {}
    for row in predictions:
        by_trial.setdefault(row["trial_id"], []).append(row)
    models = [m for r, m in trials if r == regime and (reference, m) in trials]
    models = [m for m in models if all(t in by_trial for r in (regime, reference) for t in trials[r, m])]
    if not models:
        return None
    used = [t for r in (regime, reference) for m in models for t in trials[r, m]]
    patients = np.unique([row["patient_id"] for row in by_trial[used[0]]])
    # Each trial weighs so that models count alike whatever their number of seeds; the reference counts negatively.
    weights = np.array(
        [
            s / len(trials[r, m]) / len(models)
            for r, s in ((regime, 1.0), (reference, -1.0))
            for m in models
            for _ in trials[r, m]
        ]
    )
    counts = np.stack([_by_patient(by_trial[t], patients) for t in used], axis=1)
    whole = counts.sum(0)
    planes = present_planes(whole)
    point = scores_from_confusion(whole, planes=planes)
    draws = numpy_rng(seed, "report", "change").multinomial(
        len(patients), np.full(len(patients), 1 / len(patients)), size=NUM_RESAMPLES
    )
    num = len(PLANES)
    resampled = (draws.astype(np.float64) @ counts.reshape(len(patients), -1)).reshape(-1, len(used), num, num)
    spread = scores_from_confusion(resampled, planes=planes)
    values = {}
    for name in _METRICS:
        low, high = np.percentile(spread[name] @ weights, [2.5, 97.5])
        values[name] = (float(point[name] @ weights), float(low), float(high))
    return Change(
        regime=regime,
        reference=reference,
        models=tuple(models),
        values=values,
        published=_published(regime, reference, models),
        num_patients=len(patients),
        num_images=len(by_trial[used[0]]),
    )


def _by_patient(rows: Sequence[dict[str, Any]], patients: np.ndarray) -> np.ndarray:
    """Return counts [P, 5, 5] of one trial, rows truth and columns prediction."""
    num = len(PLANES)
    table = np.zeros((len(patients), num, num))
    truth = np.array([plane_from_label(row["plane"]).index for row in rows])
    predicted = np.array([[row[name] for name in _COLUMNS] for row in rows]).argmax(1)
    place = np.searchsorted(patients, [row["patient_id"] for row in rows])
    np.add.at(table, (place, truth, predicted), 1)
    return table


def _published(regime: str, reference: str, models: Sequence[str]) -> dict[str, float]:
    rows = {(r["regime"], r["model"]): r for r in published_table1()}
    if any((r, m) not in rows for r in (regime, reference) for m in models):
        return {}
    return {
        name: float(np.mean([float(rows[regime, m][name]) - float(rows[reference, m][name]) for m in models]))
        for name in _METRICS
    }
