"""How many synthetic images help: a row per training set, each beside the one with the fewest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fulora.evaluate.scores import score
from fulora.experiment import Amounts
from sweeps.core.tables import METRICS
from sweeps.scores.plan import scaling_step
from sweeps.sources.plan import catalog_step

from .made_up_grid import EXPERIMENT, LABELS, FinishedGrid


def test_each_size_is_scored_and_compared_with_the_fewest_synthetic_images(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.score(scaling=True)
    rows = run.rows("data_scaling")
    assert [(r["kind"], r["asked_real"], r["asked_synthetic"]) for r in rows] == [
        ("number", 40, 0), ("number", 40, 40), ("number", 40, 80)
    ]  # fmt: skip
    groups = [
        [c for c in run.cells if (c.config.num_spanish_hybrid, c.config.num_synthetic) == (40, n)] for n in (0, 40)
    ]
    groups.append([c for c in run.cells if c.config.in_tables and c.config.regime == "HB"][:2])
    assert groups[2][0].config.classifier.model == "ResNet18", "the cell of Table 1 is the one of its size"
    for row, group in zip(rows, groups, strict=True):
        assert row["trial_ids"] == ", ".join(c.key for c in group) and row["num_seeds"] == 2
        for name in METRICS:
            plain = np.mean([score(run.probabilities(c), LABELS)[name] for c in group])
            assert row[name] == pytest.approx(plain) and row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        for name in ("accuracy", "f1"):
            assert row[f"{name}_gain"] == pytest.approx(row[name] - rows[0][name])
            assert row[f"{name}_gain_low"] <= row[f"{name}_gain"] <= row[f"{name}_gain_high"]
    assert (rows[0]["accuracy_gain_low"], rows[0]["accuracy_gain_high"]) == (0, 0)


def test_a_size_whose_trainings_failed_is_null_and_nothing_is_compared_with_it(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.failed = {c.key for c in run.cells if c.config.num_synthetic == 0}
    run.score(scaling=True)
    first, *others = run.rows("data_scaling")
    assert (first["num_seeds"], first["accuracy"], first["num_es"]) == (0, None, None)
    assert all(row["accuracy"] is not None and row["accuracy_gain"] is None for row in others)


def test_where_validation_images_are_set_aside_the_cell_of_the_tables_is_of_another_size(
    finished_grid: FinishedGrid,
) -> None:
    run = finished_grid
    for index, cell in enumerate(run.cells):
        other = replace(cell, config=replace(cell.config, num_validation=5))
        run.predictions[other.key] = [{**r, "trial_id": other.key} for r in run.predictions.pop(cell.key)]
        run.cells[index] = other
    run.score(scaling=True)
    assert [r["num_seeds"] for r in run.rows("data_scaling")] == [2, 2, 0]


def test_without_the_question_there_is_no_such_step(finished_grid: FinishedGrid) -> None:
    assert scaling_step(replace(EXPERIMENT, amounts=Amounts()), finished_grid.cells, catalog_step(EXPERIMENT)) is None
