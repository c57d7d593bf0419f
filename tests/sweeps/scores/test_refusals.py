"""Predictions that cannot be scored are refused: the step fails with what is wrong, and writes no table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from fulora.errors import InputError
from fulora.planes import TESTED_PLANES
from sweeps.scores.predictions import read_predictions

from .made_up_grid import IMAGES, FinishedGrid

Rows = list[dict[str, Any]]


def _other_image(cells: list[Rows]) -> None:
    cells[1][2]["image_id"] = "african/test-99"


def _other_plane(cells: list[Rows]) -> None:
    cells[1][2]["plane"] = next(p.name for p in TESTED_PLANES if p.name != cells[1][2]["plane"])


def _one_fewer(cells: list[Rows]) -> None:
    del cells[-1][-1]


def _without_femur(cells: list[Rows]) -> None:
    for rows in cells:
        rows[:] = [r for r in rows if r["plane"] != "femur"]


def _twice(cells: list[Rows]) -> None:
    for rows in cells:
        rows += [dict(r) for r in rows if r["image_id"] == IMAGES[0]]


def _none(cells: list[Rows]) -> None:
    for rows in cells:
        rows.clear()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_image, "other test images than trial .*: 48 and 48, 2 of them on one side only.*Delete"),
        (_other_plane, "other test images"),
        (_one_fewer, "47 and 48, 1 of them"),
        (_without_femur, "lack femur.*four tested planes"),
        (_twice, "contains a duplicate test image"),
        (_none, "has no rows"),
    ],
)
@pytest.mark.parametrize("scaling", [False, True])
def test_predictions_that_cannot_be_scored_are_refused(
    finished_grid: FinishedGrid, spoil: Callable[[list[Rows]], None], words: str, scaling: bool
) -> None:
    spoil(list(finished_grid.predictions.values()))
    with pytest.raises(InputError, match=words):
        finished_grid.score(scaling=scaling)
    assert not finished_grid.folder.exists()


def test_predictions_of_another_schema_version_are_refused(finished_grid: FinishedGrid) -> None:
    finished_grid.score()
    file = finished_grid.folder / "predictions.parquet"
    old = {"fulora.table": "predictions", "fulora.schema_version": "1"}
    pq.write_table(pq.read_table(file).replace_schema_metadata(old), file)
    with pytest.raises(InputError, match="schema version"):
        read_predictions(file)
