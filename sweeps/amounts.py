"""How many synthetic images help: scores of one model over the number of synthetic images, and over their share.

In: the grid's trials and predictions. Out: tables/amounts.parquet. Each row is compared with the row of its kind that
has the fewest synthetic images, on the same resamples of the same test patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fulora.data.regimes import RegimeSizes
from fulora.evaluate.comparison import mean_change
from fulora.evaluate.intervals import draw_resamples, measure
from fulora.experiment import Experiment
from fulora.seeds import derive_seed
from sweeps.grid_plan import amount_sizes, sizes_of
from sweeps.paths import RunPaths
from sweeps.predictions import known, read_predictions, score_columns
from sweeps.tables import write_table
from sweeps.trials import Trial, latest_success

_COMPARED = ("accuracy", "f1")


def write_amounts(experiment: Experiment, trials: Sequence[Trial], paths: RunPaths) -> None:
    """Write amounts.parquet; a training set whose trials all failed has null scores. Nothing where nothing is asked."""
    amounts = experiment.amounts
    asked = amounts.cells(experiment.sizes)
    if not asked:
        return
    test, predicted = read_predictions(paths)
    resamples = draw_resamples(test.patient_ids, seed=derive_seed(experiment.seed, "intervals"))
    done = latest_success(paths)
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for (kind, real, synthetic), sizes in sorted(zip(asked, amount_sizes(experiment)), key=lambda pair: pair[0][2]):
        group = [t for t in _trials_of(sizes, experiment, trials) if t.trial_id in done and t.trial_id in predicted]
        row: dict[str, Any] = {
            "kind": kind, "regime": amounts.regime, "model": amounts.model, "asked_real": real,
            "asked_synthetic": synthetic, "num_seeds": len(group), "num_test": len(test.labels),
        }  # fmt: skip
        rows.append(row)
        if not group:
            first.setdefault(kind, None)  # then there is nothing to compare the others with
            continue
        measured = measure(np.stack([predicted[t.trial_id] for t in group]), test.labels, resamples)
        before = first.setdefault(kind, measured)
        facts: Mapping[str, Any] = done[group[0].trial_id].metrics
        row |= {name: facts[name] for name in ("num_es", "num_synthetic", "num_patients")}
        row |= score_columns(measured)
        for name, change in mean_change([(before, measured)]).items() if before else ():
            if name in _COMPARED:
                row |= {f"{name}_gain{end}": known(v) for end, v in zip(("", "_low", "_high"), change)}
        row["weights"] = ", ".join(sorted({str(done[t.trial_id].metrics["weights"]) for t in group}))
        row["trial_ids"] = ", ".join(t.trial_id for t in group)
    write_table(paths.table("amounts"), "amounts", sorted(rows, key=lambda row: row["kind"]))


def _trials_of(sizes: RegimeSizes, experiment: Experiment, trials: Sequence[Trial]) -> list[Trial]:
    wanted = (experiment.amounts.regime, experiment.amounts.model)
    return [
        t
        for t in trials
        if (t.config["regime"], t.config["model"]) == wanted and sizes_of(t, experiment) == sizes
    ]  # fmt: skip
