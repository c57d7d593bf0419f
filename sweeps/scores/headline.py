"""The headline result: what training with synthetic images changes, mean over models, with a paired interval.

In: the scores of every regime and model on the same bootstrap resamples. Out: rows of the table `headline`.
The estimator is `fulora.evaluate.comparison.mean_change`; the report reads the table and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fulora.evaluate.comparison import mean_change
from fulora.evaluate.differences import mean_difference
from fulora.evaluate.intervals import Measured
from fulora.evaluate.published import published_table1
from fulora.evaluate.scores import METRICS
from fulora.evaluate.trainings import MeasuredTrainings

COMPARISONS = (("HB", "ES"), ("HB+DA", "ES+DA"))
"""(regime, reference): trained with synthetic images, and without; chosen before any result is seen."""


def headline_rows(
    measured: Mapping[tuple[str, str], Measured],
    *,
    models: Sequence[str],
    num_images: int,
    comparisons: Sequence[tuple[str, str]] = COMPARISONS,
    trained: Mapping[tuple[str, str], MeasuredTrainings] | None = None,
) -> list[dict[str, Any]]:
    """Return one row per comparison and score, in that order; none for a comparison that no model has both sides of.

    `measured` has a regime and a model as its key, and every value is measured on the same resamples; `models` are
    those of Table 1; `num_images` counts the test images. `change`, `low` and `high` are percentage points, regime
    minus reference; `significant` says whether the 95 % interval excludes zero, and is None where there is no interval
    (one test patient). Not corrected for multiple comparisons.

    `trained` has every training by itself. With several of each cell the interval covers them beside the patients
    (`covers`); with one it covers patients alone, and nothing is called significant: how far another training would
    come out elsewhere is not known. `paper_change` is the same difference in the published
    Table 1: None for AUC, which the paper computes from predicted labels, and where the paper lacks a row.
    """
    rows: list[dict[str, Any]] = []
    for regime, reference in comparisons:
        both = [m for m in models if (regime, m) in measured and (reference, m) in measured]
        if not both:
            continue
        change = mean_change([(measured[reference, m], measured[regime, m]) for m in both])
        for metric in METRICS:
            value, low, high = change[metric]
            covers, num_trainings = "patients", None
            if trained is not None:
                pairs = [(trained[reference, m], trained[regime, m]) for m in both]
                num_trainings = min(len(cell.trainings) for pair in pairs for cell in pair)
                if num_trainings > 1:
                    found = mean_difference(pairs, metric, keep_collapsed=True).estimate
                    value, low, high, covers = found.value, found.low, found.high, found.covers
            bounded = not (np.isnan(low) or np.isnan(high))
            tested = bounded and num_trainings != 1
            rows.append(
                {
                    "regime": regime,
                    "reference": reference,
                    "metric": metric,
                    "change": None if np.isnan(value) else value,
                    "low": low if bounded else None,
                    "high": high if bounded else None,
                    "significant": bool(low > 0 or high < 0) if tested else None,
                    "covers": covers if bounded else None,
                    "num_trainings": num_trainings,
                    "paper_change": _published_change(regime, reference, both, metric),
                    "models": ", ".join(both),
                    "num_models": len(both),
                    "num_test": num_images,
                    "num_patients": measured[regime, both[0]].num_patients,
                }
            )
    return rows


def _published_change(regime: str, reference: str, models: Sequence[str], metric: str) -> float | None:
    rows = {(r["regime"], r["model"]): r for r in published_table1()}
    if metric == "auc" or any((r, m) not in rows for r in (regime, reference) for m in models):
        return None
    return float(np.mean([float(rows[regime, m][metric]) - float(rows[reference, m][metric]) for m in models]))
