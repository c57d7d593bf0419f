"""Intervals of 20 rows on 233 images, side by side: this project's, and scikit-learn called once per resample.

    python benchmarks/intervals.py --out benchmarks/results/intervals.json

Both score the same resamples of the same 64 patients, and their numbers are compared. scikit-learn runs on fewer
resamples of one row, as 2000 of 20 would take minutes; its time for all is that of one, times their number.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import sklearn
import tyro
from recording import record
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score

from fulora.evaluate.differences import all_pairs
from fulora.evaluate.intervals import draw_resamples
from fulora.evaluate.scores import METRICS, TESTED
from fulora.evaluate.trainings import measure_trainings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    rows: int = 20
    """Cells."""
    images: int = 233
    """Test images."""
    patients: int = 64
    """Their patients."""
    resamples: int = 2000
    """Resamples of patients."""
    resamples_one_by_one: int = 100
    """Resamples, of one row, that scikit-learn is timed on."""
    out: Path | None = None
    """JSON file to write."""


def one_by_one(probabilities: np.ndarray, labels: np.ndarray) -> list[float]:
    """Return the scores of one resample's images in percent by scikit-learn, in the order of METRICS."""
    guesses, planes = probabilities.argmax(1), list(TESTED)
    macro = precision_recall_fscore_support(labels, guesses, labels=planes, average="macro", zero_division=0)
    auc = np.mean([roc_auc_score(labels == plane, probabilities[:, plane]) for plane in planes])
    return [100 * float(v) for v in (accuracy_score(labels, guesses), macro[1], macro[0], macro[2], auc)]


def main() -> None:
    """Measure, print, write the JSON."""
    options, rng = tyro.cli(Options, description=__doc__), np.random.default_rng(0)
    rows = rng.dirichlet(np.ones(5), (options.rows, options.images))
    labels = rng.integers(1, 5, options.images)
    patients = [str(patient) for patient in rng.integers(0, options.patients, options.images)]

    start = time.perf_counter()
    resamples = draw_resamples(patients, seed=0, num_resamples=options.resamples)
    measured = [measure_trainings({(0, 0): row}, labels, resamples, metrics=METRICS) for row in rows]
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    pairs = sum(len(all_pairs(measured, name)) for name in METRICS)
    comparing = time.perf_counter() - start

    times = resamples.times[: options.resamples_one_by_one, resamples.patient].astype(int)
    start = time.perf_counter()
    plain = [one_by_one(*(np.repeat(a, t, axis=0) for a in (rows[0], labels))) for t in times]
    each = (time.perf_counter() - start) / len(times)
    ours = np.array([measured[0].resampled[name][0, : len(times)] for name in METRICS]).T
    result = {
        "seconds_all_intervals": round(seconds, 3),
        "seconds_all_comparisons": round(comparing, 3),
        "comparisons": pairs,
        "scikit_learn_seconds_per_resample": round(each, 6),
        "scikit_learn_seconds_all_intervals_extrapolated": round(each * options.resamples * options.rows, 1),
        "largest_difference_points": float(np.abs(ours - plain).max()),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "versions": {"numpy": np.__version__, "scikit-learn": sklearn.__version__},
    }
    record(options, **result)


if __name__ == "__main__":
    main()
