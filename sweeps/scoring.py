"""From predictions to scores: Tables 1 and 2, comparisons, calibration, and scores of parts of the test set.

In: predictions.parquet, what trials left, catalog and audit. Out: tables/*.parquet. Every score is computed here, never
in training, and each cell's resamples of patients are drawn once for all that is read from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fulora.evaluate.calibration import calibrate
from fulora.evaluate.comparison import compare_all
from fulora.evaluate.intervals import Measured, Resamples, draw_resamples, measure
from fulora.evaluate.scores import auc_from_hard_labels, auc_published, confusion_matrix
from fulora.experiment import Experiment
from fulora.planes import PLANES
from fulora.seeds import derive_seed
from sweeps.headline import headline_rows
from sweeps.paths import RunPaths
from sweeps.predictions import CellName, TestImages, cell_of, known, read_predictions, score_columns
from sweeps.subsets import write_breakdown, write_deduplicated
from sweeps.tables import METRICS, write_table
from sweeps.trials import Attempt, Trial, latest_success


def write_score_tables(experiment: Experiment, trials: Sequence[Trial], paths: RunPaths) -> None:
    """Write every table that predictions.parquet gives; a cell whose trials all failed has null scores.

    Raises InputError where predictions are of another schema version, or cannot be scored (`read_predictions`).
    """
    done = latest_success(paths)
    test, predicted = read_predictions(paths)
    grid = experiment.grid
    wanted = {(r, m) for r in grid.regimes for m in grid.models} | {(r, grid.table2_model) for r in grid.table2_regimes}
    cells: dict[CellName, list[Trial]] = {}
    for trial in trials:
        if (cell := cell_of(trial)) in wanted and cell is not None:
            cells.setdefault(cell, []).append(trial)
    finished = {
        cell: [t for t in group if t.trial_id in done and t.trial_id in predicted] for cell, group in cells.items()
    }
    stacked = {cell: np.stack([predicted[t.trial_id] for t in group]) for cell, group in finished.items() if group}
    measured = write_measurements(
        stacked, test, paths, seed=experiment.seed, drop_duplicates=experiment.drop_duplicates
    )
    rows: dict[CellName, dict[str, Any]] = {}
    for cell, group in finished.items():
        rows[cell] = {"regime": cell[0], "model": cell[1], "num_seeds": len(group)}
        if group:
            rows[cell] |= {**_facts(group, done), "num_test": len(test.labels), **score_columns(measured[cell])}
            rows[cell] |= _hard_aucs(stacked[cell], test.labels)
    first = [rows[regime, model] for regime in grid.regimes for model in grid.models]
    second = [rows[regime, grid.table2_model] for regime in grid.table2_regimes]
    write_table(paths.table("table1"), "table1", [{k: v for k, v in r.items() if k != "num_af"} for r in first])
    write_table(paths.table("table2"), "table2", second)
    headline = headline_rows(measured, models=grid.models, num_images=len(test.labels))
    write_table(paths.table("headline"), "headline", headline)
    confusion = [row for group in finished.values() for t in group for row in _confusion_rows(t, predicted, test)]
    write_table(paths.table("confusion"), "confusion", confusion)


def write_measurements(
    cells: Mapping[CellName, np.ndarray], test: TestImages, paths: RunPaths, *, seed: int, drop_duplicates: bool
) -> dict[CellName, Measured]:
    """Return each cell's scores (probabilities [S, N, 5]), having written the tables that say more of them:
    comparisons, calibration, reliability, deduplicated and breakdown. `seed` and `drop_duplicates` are the run's."""
    seed = derive_seed(seed, "intervals")
    resamples = draw_resamples(test.patient_ids, seed=seed)
    measured = {cell: measure(probabilities, test.labels, resamples) for cell, probabilities in cells.items()}
    write_table(paths.table("comparisons"), "comparisons", _comparison_rows(measured))
    _write_calibration(cells, test, resamples, paths, seed=seed)
    write_deduplicated(cells, test, paths, seed=seed, drop_duplicates=drop_duplicates)
    write_breakdown(cells, test, paths, seed=seed)
    return measured


def _facts(group: Sequence[Trial], done: Mapping[str, Attempt]) -> dict[str, Any]:
    facts = done[group[0].trial_id].metrics
    weights = sorted({str(done[t.trial_id].metrics["weights"]) for t in group})
    return {name: facts[name] for name in ("num_es", "num_af", "num_synthetic", "num_patients")} | {
        "weights": ", ".join(weights), "trial_ids": ", ".join(t.trial_id for t in group)
    }  # fmt: skip


def _hard_aucs(trainings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the two AUCs of hard labels, means over trainings."""
    matrices = [confusion_matrix(p, labels) for p in trainings]
    return {
        "auc_published": float(np.mean([auc_published(m) for m in matrices])),
        "auc_hard": float(np.mean([auc_from_hard_labels(m) for m in matrices])),
    }


def _confusion_rows(trial: Trial, predicted: Mapping[str, np.ndarray], test: TestImages) -> list[dict[str, Any]]:
    matrix = confusion_matrix(predicted[trial.trial_id], test.labels)
    shared = {"trial_id": trial.trial_id, **{k: trial.config[k] for k in ("regime", "model", "seed_index")}}
    return [
        {**shared, "truth": t.name, "prediction": p.name, "count": int(matrix[t.index, p.index])}
        for t in PLANES
        for p in PLANES
    ]


def _comparison_rows(measured: Mapping[CellName, Measured]) -> list[dict[str, Any]]:
    names = list(measured)
    return [
        {
            "regime_a": names[d.before][0], "model_a": names[d.before][1],
            "regime_b": names[d.after][0], "model_b": names[d.after][1], "metric": metric,
            "difference": known(d.value), "low": known(d.low), "high": known(d.high),
            "p_value": d.p_value, "p_adjusted": d.p_adjusted, "told_from_chance": d.told_from_chance,
        }
        for metric in METRICS
        for d in compare_all(list(measured.values()), metric)
    ]  # fmt: skip


def _write_calibration(
    cells: Mapping[CellName, np.ndarray], test: TestImages, resamples: Resamples, paths: RunPaths, *, seed: int
) -> None:
    rows, bins = [], []
    for (regime, model), probabilities in cells.items():
        found = calibrate(probabilities, test.labels, resamples, seed=seed)
        cell = {"regime": regime, "model": model}
        rows.append(
            {
                **cell, "num_test": len(test.labels), "num_seeds": len(probabilities), "ece": found.ece,
                "ece_low": known(found.ece_interval[0]), "ece_high": known(found.ece_interval[1]),
                "ece_by_chance": found.ece_by_chance, "ece_equal_mass": found.ece_equal_mass, "brier": found.brier,
                "brier_low": known(found.brier_interval[0]), "brier_high": known(found.brier_interval[1]),
                "confidence": found.confidence, "accuracy": found.accuracy,
            }
        )  # fmt: skip
        bins += [
            {
                **cell, "bin": k, "low": b.low, "high": b.high, "count": b.count, "confidence": known(b.confidence),
                "accuracy": known(b.accuracy),
            }
            for k, b in enumerate(found.bins)
        ]  # fmt: skip
    write_table(paths.table("calibration"), "calibration", rows)
    write_table(paths.table("reliability"), "reliability", bins)
