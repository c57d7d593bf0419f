"""Tables 1 and 2 and all that is computed beside them: comparisons, calibration, subgroups, confusion.

In: the trainings that are done, catalog and audits. Out: predictions.parquet and a Parquet file per table. Resamples
of patients are drawn once for all that is read from them; patients who share an identical image are one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fulora.evaluate.calibration import calibrate
from fulora.evaluate.decomposition import SHARES
from fulora.evaluate.differences import all_pairs
from fulora.evaluate.intervals import Resamples, draw_resamples
from fulora.evaluate.scores import METRICS, auc_from_hard_labels, auc_published, confusion_matrix
from fulora.evaluate.trainings import ALL_METRICS, MeasuredTrainings, Training, measure_trainings
from fulora.planes import PLANES
from fulora.seeds import derive_seed
from sweeps.core.step import Report, Step
from sweeps.core.store import Done, Place
from sweeps.core.tables import read_rows, write_table
from sweeps.grid.classifier import PREDICTIONS_FILE
from sweeps.grid.plan import CellTrial
from sweeps.scores.headline import headline_rows
from sweeps.scores.notes import score_notes
from sweeps.scores.plan import ScoresConfig
from sweeps.scores.predictions import CellName, TestImages, Trainings, read_predictions, with_clusters
from sweeps.scores.subgroups import TestContext, deduplicated_rows, duplicates, subgroup_rows
from sweeps.scores.uncertainty import (
    NO_TRAINING,
    component_columns,
    difference_columns,
    estimated,
    known,
    score_columns,
)
from sweeps.sources.audit import AUDIT_FILE
from sweeps.sources.catalog import CATALOG_FILE


def write_scores(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write every table that the predictions give.

    Raises InputError where they are of another schema version, or cannot be scored (`read_predictions`).
    """
    config: ScoresConfig = step.config
    done = {need: place.record_of(need) for need in step.in_role("cells")}
    folders = dict(zip(done, place.all("cells"), strict=True))
    write_table(
        place.out / PREDICTIONS_FILE,
        "predictions",
        (row for folder in folders.values() for row in read_rows(folder / PREDICTIONS_FILE, "predictions")),
    )
    test, predicted = read_predictions(place.out / PREDICTIONS_FILE)
    context = TestContext(
        catalog=read_rows(place.of("catalog") / CATALOG_FILE, "catalog"),
        audit=[row for folder in place.all("audit") for row in read_rows(folder / AUDIT_FILE, "audit")],
        drop_duplicates=config.drop_duplicates,
    )
    test = with_clusters(test, context.catalog)
    wanted = [(r, m) for r in config.regimes for m in config.models]
    second = [(r, config.table2_model) for r in config.table2_regimes]
    cells: dict[CellName, list[Step]] = {cell: [] for cell in dict.fromkeys((*wanted, *second))}
    for need in done:
        trial: CellTrial = need.config
        if trial.in_tables and (name := (trial.regime, trial.classifier.model)) in cells:
            cells[name].append(need)
    trained = {cell: {training_of(t): predicted[t.key] for t in group} for cell, group in cells.items() if group}
    measured = write_measurements(trained, test, context, place.out, seed=config.seed)
    rows: dict[CellName, dict[str, Any]] = {}
    for cell, group in cells.items():
        rows[cell] = {"regime": cell[0], "model": cell[1], **NO_TRAINING}
        if group:
            rows[cell] |= {**facts_of(group, done), "num_test": len(test.labels)}
            rows[cell] |= score_columns(measured[cell], (*METRICS, *SHARES))
            rows[cell] |= component_columns(estimated(measured[cell], "accuracy"))
            rows[cell] |= _hard_aucs(trained[cell], test.labels)
    headline = _headline(trained, measured, test, context, config)
    write_table(place.out / "headline.parquet", "headline", headline)
    first = [{k: v for k, v in rows[cell].items() if k != "num_af"} for cell in wanted]
    write_table(place.out / "table1.parquet", "table1", first)
    write_table(place.out / "table2.parquet", "table2", [rows[cell] for cell in second])
    confusion = [row for group in cells.values() for t in group for row in _confusion_rows(t, predicted[t.key], test)]
    write_table(place.out / "confusion.parquet", "confusion", confusion)
    return {"num_trainings": len(done), "notes": score_notes(measured, test, headline)}


def training_of(step: Step) -> Training:
    """Return which of its cell's trainings a step is: (replicate, seed)."""
    return step.config.replicate, step.config.seed_index


def _headline(
    trained: Mapping[CellName, Trainings], measured: Mapping[CellName, MeasuredTrainings], test: TestImages,
    context: TestContext, config: ScoresConfig,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the headline's rows; of a run without duplicates, on test images of which none is there twice."""
    left_out = duplicates(test.image_ids, context.audit, set()) if config.drop_duplicates else {}
    if left_out:
        kept = [i for i, image_id in enumerate(test.image_ids) if image_id not in left_out]
        part = test.part(kept)
        resamples = draw_resamples(part.resampled, seed=derive_seed(config.seed, "intervals"))
        measured = {
            cell: measure_trainings({name: p[kept] for name, p in predicted.items()}, part.labels, resamples)
            for cell, predicted in trained.items()
        }
    return headline_rows(
        measured, models=config.models, num_images=len(test.labels) - len(left_out), num_left_out=len(left_out),
        endpoint=config.endpoint,
    )  # fmt: skip


def write_measurements(
    cells: Mapping[CellName, Trainings], test: TestImages, context: TestContext, out: Path, *, seed: int
) -> dict[CellName, MeasuredTrainings]:
    """Return each cell's scores, having written the tables that say more of them."""
    seed = derive_seed(seed, "intervals")
    resamples = draw_resamples(test.resampled, seed=seed)
    measured = {cell: measure_trainings(predicted, test.labels, resamples) for cell, predicted in cells.items()}
    write_table(out / "comparisons.parquet", "comparisons", _comparison_rows(measured))
    _write_calibration(cells, test, resamples, out, seed=seed)
    write_table(out / "deduplicated.parquet", "deduplicated", deduplicated_rows(cells, test, context, seed=seed))
    write_table(out / "subgroups.parquet", "subgroups", subgroup_rows(cells, test, context, seed=seed))
    return measured


def facts_of(group: Sequence[Step], done: Mapping[Step, Done]) -> dict[str, Any]:
    """Return what the rows of a cell say of its trainings: images, patients, starting weights, trial ids."""
    facts = done[group[0]].metrics
    weights = sorted({str(done[t].metrics["weights"]) for t in group})
    return {name: facts[name] for name in ("num_es", "num_af", "num_synthetic", "num_patients")} | {
        "weights": ", ".join(weights), "trial_ids": ", ".join(t.key for t in group)
    }  # fmt: skip


def _hard_aucs(trainings: Trainings, labels: np.ndarray) -> dict[str, float]:
    """Return the two AUCs of hard labels, means over trainings."""
    matrices = [confusion_matrix(p, labels) for p in trainings.values()]
    return {
        "auc_published": float(np.mean([auc_published(m) for m in matrices])),
        "auc_hard": float(np.mean([auc_from_hard_labels(m) for m in matrices])),
    }


def _confusion_rows(step: Step, probabilities: np.ndarray, test: TestImages) -> list[dict[str, Any]]:
    matrix, trial = confusion_matrix(probabilities, test.labels), step.config
    shared = {"trial_id": step.key, "regime": trial.regime, "model": trial.classifier.model}
    shared |= {"replicate": trial.replicate, "seed_index": trial.seed_index}
    return [
        {**shared, "truth": t.name, "prediction": p.name, "count": int(matrix[t.index, p.index])}
        for t in PLANES
        for p in PLANES
    ]


def _comparison_rows(measured: Mapping[CellName, MeasuredTrainings]) -> list[dict[str, Any]]:
    names = list(measured)
    return [
        {
            "regime_a": names[a][0], "model_a": names[a][1], "regime_b": names[b][0], "model_b": names[b][1],
            "metric": metric, "difference": known(found.estimate.value), **difference_columns(found),
            "num_unmatched": found.num_unmatched,
        }
        for metric in ALL_METRICS
        for (a, b), found in all_pairs(list(measured.values()), metric).items()
    ]  # fmt: skip


def _write_calibration(
    cells: Mapping[CellName, Trainings], test: TestImages, resamples: Resamples, out: Path, *, seed: int
) -> None:
    rows, bins = [], []
    for (regime, model), trained in cells.items():
        probabilities = np.stack(list(trained.values()))
        found = calibrate(probabilities, test.labels, resamples, seed=seed)
        cell = {"regime": regime, "model": model}
        rows.append(
            {
                **cell, "num_test": len(test.labels), "num_trainings": len(probabilities), "ece": found.ece,
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
    write_table(out / "calibration.parquet", "calibration", rows)
    write_table(out / "reliability.parquet", "reliability", bins)
