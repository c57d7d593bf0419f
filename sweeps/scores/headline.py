"""The headline result: what training with synthetic images changes, mean over models, with a paired interval.

In: the trainings of every regime and model on the same resamples, the endpoint. Out: rows of the table `headline`.
The estimator is `fulora.evaluate.differences.mean_difference`; the report reads the table and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fulora.endpoint import Endpoint
from fulora.evaluate.differences import mean_difference
from fulora.evaluate.published import published_table1
from fulora.evaluate.scores import METRICS
from fulora.evaluate.trainings import MeasuredTrainings
from sweeps.scores.uncertainty import difference_columns, known, needed

COMPARISONS = (("HB", "ES"), ("HB+DA", "ES+DA"))
"""(regime, reference): trained with synthetic images, and without; chosen before any result is seen."""
ENDPOINT = Endpoint()
"""The default."""


def headline_rows(
    measured: Mapping[tuple[str, str], MeasuredTrainings],
    *,
    models: Sequence[str],
    num_images: int,
    num_left_out: int = 0,
    endpoint: Endpoint = ENDPOINT,
) -> list[dict[str, Any]]:
    """Return one row per comparison and score, the endpoint's comparison first; none without a model of both sides.

    `measured` has a regime and a model as its key, and every value is measured on the same resamples; `models` are
    those of Table 1; `num_images` counts the test images, without `num_left_out` that are there twice. Models that
    collapsed to one class in either regime are left out of the mean and named. `change`, `low` and `high` are
    percentage points, regime minus reference. `significant` is of the one comparison, not corrected for others, and
    None with one training of a cell. `paper_change` is the same difference in the published Table 1: None for scores
    that it lacks, for AUC, which the paper computes from predicted labels, and where the paper lacks a row.
    """
    rows: list[dict[str, Any]] = []
    for regime, reference in dict.fromkeys([(endpoint.regime, endpoint.reference), *COMPARISONS]):
        both = [m for m in models if (regime, m) in measured and (reference, m) in measured]
        if not both:
            continue
        pairs = [(measured[reference, m], measured[regime, m]) for m in both]
        for metric in pairs[0][0].values:
            found = mean_difference(pairs, metric)
            kept = [m for i, m in enumerate(both) if i not in found.left_out]
            told = difference_columns(found)
            del told["p_adjusted"]
            rows.append(
                {
                    "regime": regime,
                    "reference": reference,
                    "metric": metric,
                    "primary": (regime, reference, metric) == (endpoint.regime, endpoint.reference, endpoint.metric),
                    "change": known(found.estimate.value),
                    **told,
                    "replicates_needed": needed(found.estimate),
                    "paper_change": _published_change(regime, reference, kept, metric),
                    "models": ", ".join(kept),
                    "num_models": len(kept),
                    "models_collapsed": ", ".join(both[i] for i in found.left_out) or None,
                    "num_unmatched": found.num_unmatched,
                    "num_test": num_images,
                    "num_left_out": num_left_out,
                    "num_patients": pairs[0][0].num_patients,
                }
            )
    return rows


def _published_change(regime: str, reference: str, models: Sequence[str], metric: str) -> float | None:
    rows = {(r["regime"], r["model"]): r for r in published_table1()}
    unknown = any((r, m) not in rows for r in (regime, reference) for m in models)
    if not models or metric == "auc" or metric not in METRICS or unknown:
        return None
    return float(np.mean([float(rows[regime, m][metric]) - float(rows[reference, m][metric]) for m in models]))
