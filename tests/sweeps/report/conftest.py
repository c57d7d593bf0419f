"""A run filled by hand, with a headline, for the tests of the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fulora.evaluate.intervals import draw_resamples
from fulora.evaluate.trainings import measure_trainings
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, write_table
from sweeps.scores.headline import headline_rows
from sweeps.scores.predictions import read_predictions

from ..fabricated_scores import trainings_of


@pytest.fixture
def run(fabricated_run: Callable[[Path], RunPaths], tmp_path: Path) -> RunPaths:
    paths = fabricated_run(tmp_path / "run")
    test, predicted = read_predictions(paths.predictions)
    resamples = draw_resamples(test.patient_ids, seed=0, num_resamples=200)
    rows = read_rows(paths.table("table1"), "table1")
    measured = {
        (r["regime"], r["model"]): measure_trainings(trainings_of(r, predicted), test.labels, resamples) for r in rows
    }
    models = list(dict.fromkeys(r["model"] for r in rows))
    headline = headline_rows(measured, models=models, num_images=len(test.labels))
    write_table(paths.table("headline"), "headline", headline)
    return paths
