"""Score tables of a finished grid: each number against the plain way to get it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fulora.evaluate.scores import auc_from_hard_labels, auc_published, confusion_matrix, score
from fulora.evaluate.trainings import ALL_METRICS
from sweeps.core.tables import METRICS, SCHEMAS
from sweeps.publish.export import export
from sweeps.scores.predictions import read_predictions

from .made_up_grid import CELLS, LABELS, FinishedGrid

TABLES = (
    "headline", "table1", "table2", "confusion", "comparisons", "deduplicated", "subgroups", "calibration",
    "reliability", "predictions",
)  # fmt: skip


def test_tables_1_and_2_are_means_over_seeds_with_the_papers_auc_beside(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.score()
    assert [(r["regime"], r["model"]) for r in run.rows("table1")] == CELLS[:4]
    assert [r["regime"] for r in run.rows("table2")] == ["AF", "ES"]
    for cell in CELLS[:4]:
        row, trainings = run.row("table1", cell), run.trainings(cell)
        assert row["num_seeds"] == len(trainings) == 2, "trainings of other sizes are none of the cell"
        for name in METRICS:
            assert row[name] == pytest.approx(np.mean([score(p, LABELS)[name] for p in trainings]))
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
        matrices = [confusion_matrix(p, LABELS) for p in trainings]
        assert row["auc_published"] == pytest.approx(np.mean([auc_published(m) for m in matrices]))
        assert row["auc_hard"] == pytest.approx(np.mean([auc_from_hard_labels(m) for m in matrices]))
        assert row["auc_published"] != pytest.approx(row["auc_hard"])
    assert (run.row("table1", CELLS[0])["num_es"], run.row("table2", CELLS[4])["num_af"]) == (40, 5)
    confusion = run.rows("confusion")
    assert len({r["trial_id"] for r in confusion}) == 10 and sum(r["count"] for r in confusion) == 10 * 48


def test_the_predictions_of_every_training_are_gathered(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.score()
    test, found = read_predictions(run.folder / "predictions.parquet")
    assert np.array_equal(test.labels, LABELS)
    assert list(found) == [cell.key for cell in run.cells]
    for cell in run.cells:
        assert np.allclose(found[cell.key], run.probabilities(cell), atol=1e-6)


def test_every_pair_is_compared_and_agrees_with_the_scores(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.score()
    rows = run.rows("comparisons")
    assert len(rows) == 10 * len(ALL_METRICS)
    every = {(r["regime"], r["model"]): r for name in ("table1", "table2") for r in run.rows(name)}
    for r in rows:
        a, b = every[r["regime_a"], r["model_a"]], every[r["regime_b"], r["model_b"]]
        assert r["difference"] == pytest.approx(b[r["metric"]] - a[r["metric"]])
        assert r["low"] <= r["difference"] <= r["high"] and r["p_value"] <= r["p_adjusted"] <= 1
    mine = [r for r in rows if r["metric"] == "accuracy"]
    largest = sorted(mine, key=lambda r: -abs(r["difference"]))[:4]
    assert all("AF" in (r["regime_a"], r["regime_b"]) for r in largest), "AF alone was made better"
    assert not any(r["significant"] for r in mine), "two seeds have one degree of freedom"


def test_a_cell_whose_trials_failed_has_null_scores_and_is_compared_with_none(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.failed = {cell.key for cell in run.cells[:2]}
    run.score()
    row = run.row("table1", CELLS[0])
    assert row["num_seeds"] == 0 and row["accuracy"] is None and row["auc_published"] is None
    assert len(run.rows("comparisons")) == 6 * len(ALL_METRICS)
    assert len(run.rows("calibration")) == len(run.rows("deduplicated")) == 4


def test_one_of_two_seeds_that_failed_leaves_the_other(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.failed = {run.cells[0].key}
    run.score()
    row, (_, second) = run.row("table1", CELLS[0]), run.trainings(CELLS[0])
    assert row["num_seeds"] == 1 and row["accuracy"] == pytest.approx(score(second, LABELS)["accuracy"])
    assert row["trial_ids"] == run.cells[1].key


def test_the_same_predictions_in_another_order_give_the_same_tables(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    names = [name for name in TABLES if name != "predictions"]
    run.score()
    first = {name: (run.folder / f"{name}.parquet").read_bytes() for name in names}
    run.predictions = {key: rows[::-1] for key, rows in run.predictions.items()}
    run.score()
    assert {name: (run.folder / f"{name}.parquet").read_bytes() for name in names} == first


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Return whether two columns are equal, null and nan alike."""
    missing = [[v is None or v != v for v in column] for column in (one, other)]
    return missing[0] == missing[1] and all(a == b for a, b, gone in zip(one, other, missing[0]) if not gone)


def test_every_exported_table_opens_alike_in_pandas_polars_and_duckdb(finished_grid: FinishedGrid) -> None:
    import duckdb
    import pandas
    import polars

    run = finished_grid
    run.score()
    shutil.copytree(run.folder, run.paths.tables)
    files = export(run.paths, run.paths.root / "out", ["parquet"])
    assert {f.stem for f in files} == set(TABLES)
    for file in files:
        columns = SCHEMAS[file.stem]
        kinds = [column.type for column in columns.values()]
        assert not any(pa.types.is_nested(kind) or pa.types.is_dictionary(kind) for kind in kinds)
        rows = pq.read_table(file).to_pylist()
        frame, lazy, (names, found) = pandas.read_parquet(file), polars.read_parquet(file), _duckdb(duckdb, file)
        assert list(frame.columns) == lazy.columns == names == list(columns)
        for i, name in enumerate(columns):
            expected = [row[name] for row in rows]
            assert _same(lazy[name].to_list(), expected) and _same([row[i] for row in found], expected), (file, name)
            assert _same([None if v is pandas.NA else v for v in frame[name].tolist()], expected), (file, name)


def _duckdb(duckdb: Any, file: Any) -> tuple[list[str], list[tuple]]:
    relation = duckdb.read_parquet(str(file))
    return relation.columns, relation.fetchall()
