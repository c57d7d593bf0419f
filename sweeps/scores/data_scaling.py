"""How many synthetic images help: scores of one model over the number of synthetic images, and over their share.

In: the trainings that are done. Out: data_scaling.parquet. Each row is compared with the row of its kind that has the
fewest synthetic images, on the same resamples of the same test patients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fulora.evaluate.comparison import mean_change
from fulora.evaluate.intervals import draw_resamples, measure
from fulora.seeds import derive_seed
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import read_rows, write_table
from sweeps.grid.classifier import PREDICTIONS_FILE
from sweeps.grid.plan import CellTrial
from sweeps.scores.plan import ScalingConfig
from sweeps.scores.predictions import known, read_predictions, score_columns
from sweeps.scores.tables import facts_of

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
    resamples = draw_resamples(test.patient_ids, seed=derive_seed(config.seed, "intervals"))
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for kind, real, synthetic in sorted(amounts.cells(sizes), key=lambda cell: cell[2]):
        group = [need for need in done if _is_of(need.config, config, real, synthetic)]
        row: dict[str, Any] = {
            "kind": kind, "regime": amounts.regime, "model": amounts.model, "asked_real": real,
            "asked_synthetic": synthetic, "num_seeds": len(group), "num_test": len(test.labels),
        }  # fmt: skip
        rows.append(row)
        if not group:
            first.setdefault(kind, None)  # then there is nothing to compare the others with
            continue
        measured = measure(np.stack([predicted[t.key] for t in group]), test.labels, resamples)
        before = first.setdefault(kind, measured)
        row |= {k: v for k, v in facts_of(group, done).items() if k != "num_af"}
        row |= score_columns(measured)
        for name, change in mean_change([(before, measured)]).items() if before else ():
            if name in _COMPARED:
                row |= {f"{name}_gain{end}": known(v) for end, v in zip(("", "_low", "_high"), change)}
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
