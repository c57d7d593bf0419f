"""How many synthetic images help: scores of one model over the number of synthetic images, and over their share.

In: the trainings that are done. Out: data_scaling.parquet. Each row is compared with the row of its kind that has the
fewest synthetic images, on the same resamples of the same test patients.
"""

from __future__ import annotations

from typing import Any

from fulora.evaluate.differences import difference
from fulora.evaluate.intervals import draw_resamples
from fulora.evaluate.scores import METRICS
from fulora.evaluate.trainings import measure_trainings
from fulora.seeds import derive_seed
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import read_rows, write_table
from sweeps.grid.classifier import PREDICTIONS_FILE
from sweeps.grid.plan import CellTrial
from sweeps.scores.plan import ScalingConfig
from sweeps.scores.predictions import read_predictions, with_clusters
from sweeps.scores.tables import facts_of, training_of
from sweeps.scores.uncertainty import NO_TRAINING, known, score_columns
from sweeps.sources.catalog import CATALOG_FILE

_COMPARED = ("accuracy", "f1")


def write_data_scaling(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write a row per training set; one whose trainings all failed has null scores."""
    config: ScalingConfig = step.config
    amounts, sizes = config.amounts, config.sizes
    done = {need: place.record_of(need) for need in step.in_role("cells")}
    gathered = place.scratch / PREDICTIONS_FILE
    gathered.parent.mkdir(parents=True, exist_ok=True)
    folders = place.all("cells")
    every = (row for folder in folders for row in read_rows(folder / PREDICTIONS_FILE, "predictions"))
    write_table(gathered, "predictions", every)
    test, predicted = read_predictions(gathered)
    test = with_clusters(test, read_rows(place.of("catalog") / CATALOG_FILE, "catalog"))
    resamples = draw_resamples(test.resampled, seed=derive_seed(config.seed, "intervals"))
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for kind, real, synthetic in sorted(amounts.cells(sizes), key=lambda cell: cell[2]):
        group = [need for need in done if _is_of(need.config, config, real, synthetic)]
        row: dict[str, Any] = {
            "kind": kind, "regime": amounts.regime, "model": amounts.model, "asked_real": real,
            "asked_synthetic": synthetic, "num_test": len(test.labels), **NO_TRAINING,
        }  # fmt: skip
        rows.append(row)
        if not group:
            first.setdefault(kind, None)  # then there is nothing to compare the others with
            continue
        trained = {training_of(t): predicted[t.key] for t in group}
        measured = measure_trainings(trained, test.labels, resamples, metrics=METRICS)
        before = first.setdefault(kind, measured)
        row |= {k: v for k, v in facts_of(group, done).items() if k != "num_af"}
        row |= score_columns(measured)
        for name in _COMPARED if before else ():
            change = difference(before, measured, name).estimate
            row |= {f"{name}_gain": known(change.value), f"{name}_gain_low": known(change.low)}
            row |= {f"{name}_gain_high": known(change.high)}
    write_table(place.out / "data_scaling.parquet", "data_scaling", sorted(rows, key=lambda row: row["kind"]))
    return {}


def _is_of(trial: CellTrial, config: ScalingConfig, real: int, synthetic: int) -> bool:
    """Return whether a training is one of a training set: asked for by itself, or a cell of the tables of its size."""
    if (trial.regime, trial.classifier.model) != (config.amounts.regime, config.amounts.model):
        return False
    if trial.in_tables:
        same = (real, synthetic) == (config.sizes.num_spanish_hybrid, config.sizes.num_synthetic)
        # else validation images were taken out of it
        return same and (not trial.num_validation or trial.validation == "beside")
    return (trial.num_spanish_hybrid, trial.num_synthetic) == (real, synthetic)
