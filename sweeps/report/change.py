"""How much a regime changes the scores, models taken together, with an interval.

In: table1 rows and predictions. Out: `Change`. The comparison itself is `fulora.evaluate.comparison.mean_change`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fulora.evaluate.comparison import mean_change
from fulora.evaluate.intervals import draw_resamples, measure
from fulora.evaluate.published import published_table1
from fulora.planes import PLANES, plane_from_label
from fulora.seeds import derive_seed

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
    rows = by_trial[trials[regime, models[0]][0]]
    patients = [row["patient_id"] for row in rows]
    labels = np.array([plane_from_label(row["plane"]).index for row in rows])
    # The tables' resamples: what is said here of one model is what they say of it.
    resamples = draw_resamples(patients, seed=derive_seed(seed, "intervals"))
    before, after = (
        [measure(_trainings(by_trial, trials[r, m]), labels, resamples) for m in models] for r in (reference, regime)
    )
    return Change(
        regime=regime,
        reference=reference,
        models=tuple(models),
        values=mean_change(list(zip(before, after))),
        published=_published(regime, reference, models),
        num_patients=len(set(patients)),
        num_images=len(rows),
    )


def _trainings(by_trial: dict[str, list[dict[str, Any]]], trial_ids: Sequence[str]) -> np.ndarray:
    """Return probabilities [S, N, 5] of a cell's trainings; all are on the same images in the same order."""
    return np.array([[[row[name] for name in _COLUMNS] for row in by_trial[t]] for t in trial_ids])


def _published(regime: str, reference: str, models: Sequence[str]) -> dict[str, float]:
    rows = {(r["regime"], r["model"]): r for r in published_table1()}
    if any((r, m) not in rows for r in (regime, reference) for m in models):
        return {}
    return {
        name: float(np.mean([float(rows[regime, m][name]) - float(rows[reference, m][name]) for m in models]))
        for name in _METRICS
    }
