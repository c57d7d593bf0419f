"""A cell of the grid: trained on its manifest's images, from stores that all cells share, resumed where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fulora.classify.training import train_classifier
from fulora.data.pixels import decode_square, open_store
from fulora.data.records import ImageRecord
from fulora.experiment import Amounts, Experiment
from fulora.planes import plane_from_label
from sweeps.core.paths import RunPaths
from sweeps.core.perform import perform
from sweeps.core.selections import read_selection
from sweeps.core.step import Step
from sweeps.core.tables import read_rows
from sweeps.grid.classifier import PREDICTIONS_FILE, measure_models
from sweeps.grid.pixels import pixels_of

from ..studies import catalog_of, done, one_thread, planned


@pytest.fixture
def experiment(mini_experiment: Experiment) -> Experiment:
    """Return a grid of one cell, of real images."""
    grid = replace(mini_experiment.grid, epochs=3, models=("MobileNet v2",), regimes=("ES",), table2_regimes=())
    return replace(mini_experiment, grid=grid, amounts=Amounts())


def ignore(values: dict[str, Any]) -> None:
    """Take what a step reports."""


def labels_of(records: list[ImageRecord]) -> np.ndarray:
    return np.array([plane_from_label(record.plane).index for record in records])


def test_a_stopped_cell_goes_on_at_its_epoch_and_leaves_no_checkpoint(experiment: Experiment, tmp_path) -> None:
    paths = RunPaths(tmp_path)
    store, (cell,) = paths.store, planned(experiment, paths).cells
    done(cell.in_role("pixels"), paths)

    def train(number: int, report: Callable = ignore) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        with one_thread():
            attempt = perform(cell, store, number, report)
        assert attempt.status == "SUCCEEDED", attempt.error_message
        return dict(attempt.metrics), read_rows(store.folder(cell) / PREDICTIONS_FILE, "predictions")

    whole, predictions = train(1)
    assert whole["resumed_from"] == 0 and not store.scratch(cell).exists()
    store.discard(cell)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    chosen = read_selection(store.folder(cell.need("images")), store.root)["train"]
    pixels = pixels_of([store.folder(step) for step in cell.in_role("pixels")], chosen)
    with pytest.raises(KeyboardInterrupt), one_thread():
        train_classifier(
            pixels=pixels, labels=labels_of(chosen), config=cell.config.classifier, seed=cell.config.seed,
            on_epoch=stop, checkpoint=store.scratch(cell), checkpoint_seconds=0,
        )  # fmt: skip
    assert store.scratch(cell).exists()

    def still_there(values: dict[str, Any]) -> None:
        assert store.scratch(cell).exists() and store.done(cell) is None, "until its record is written"

    again, predicted = train(2, still_there)
    assert again["resumed_from"] == 2 and not store.scratch(cell).exists()
    assert again["train_loss"] == whole["train_loss"]
    assert predicted == predictions


def test_a_failed_cell_keeps_its_checkpoint_and_leaves_no_files(experiment: Experiment, tmp_path) -> None:
    paths = RunPaths(tmp_path)
    store, (cell,) = paths.store, planned(experiment, paths).cells
    done(cell.in_role("pixels"), paths)
    (store.scratch(cell)).mkdir(parents=True)

    def fail(values: dict[str, Any]) -> None:
        raise ValueError("no more")

    with one_thread():
        attempt = perform(cell, store, 1, fail)
    assert (attempt.status, attempt.error_type) == ("FAILED", "ValueError")
    assert "no more (in fail, test_training.py:" in str(attempt.error_message)
    assert store.scratch(cell).exists() and store.done(cell) is None
    assert list(store.folder(cell).parent.iterdir()) == []


def test_what_a_cell_counts_is_what_it_trains_on_without_validation_images(experiment: Experiment, tmp_path) -> None:
    grid = replace(experiment.grid, epochs=1, num_validation=8, table2_model="MobileNet v2", table2_regimes=("ES+AF",))
    paths = RunPaths(tmp_path)
    plan = planned(replace(experiment, grid=grid), paths)
    done(plan.cells, paths)
    for cell, num_african in zip(plan.cells, (0, 20), strict=True):
        record = paths.store.done(cell)
        roles = read_selection(paths.store.folder(cell.need("images")), paths.root)
        assert record is not None
        metrics, training = record.metrics, roles["train"]
        assert len(roles["validation"]) == 8 and len(training) == 40 + num_african - 8
        counts = [sum(r.source == source for r in training) for source in ("spanish", "african", "synthetic")]
        assert [metrics[name] for name in ("num_es", "num_af", "num_synthetic")] == counts
        assert metrics["num_patients"] == len({r.patient_id for r in training})
        right = metrics["validation_accuracy"] * 8 / 100
        assert right == pytest.approx(round(right)), "in percent of eight images"


def test_predictions_are_of_the_test_images_and_sum_to_one(experiment: Experiment, tmp_path) -> None:
    paths = RunPaths(tmp_path)
    (cell,) = planned(replace(experiment, grid=replace(experiment.grid, epochs=1)), paths).cells
    (folder,) = done([cell], paths)
    rows = read_rows(folder / PREDICTIONS_FILE, "predictions")
    test = read_selection(paths.store.folder(cell.need("test")), paths.root)["test"]
    assert [(r["image_id"], r["patient_id"], r["plane"]) for r in rows] == [
        (r.image_id, r.patient_id, r.plane) for r in test
    ]  # fmt: skip
    assert {r["trial_id"] for r in rows} == {cell.key}
    sums = [sum(value for name, value in row.items() if name.startswith("p_")) for row in rows]
    assert sums == pytest.approx([1.0] * 40, abs=1e-5)


def test_a_pixel_store_has_every_real_image_of_the_grid_and_grows_without_making_cells_stale(
    experiment: Experiment, tmp_path
) -> None:
    paths = RunPaths(tmp_path)
    catalog_of(experiment, paths)
    wider = replace(experiment, grid=replace(experiment.grid, regimes=("ES", "HB"), table2_regimes=("AF",)))
    plans = [planned(e, paths) for e in (experiment, wider)]

    def store_of(cell: Step) -> Step:
        return cell.in_role("pixels")[0]

    first, second = (plan.cells[0] for plan in plans)
    assert first.key == second.key and store_of(first).key != store_of(second).key
    (folder,) = done([store_of(second)], paths)
    used = {
        r.image_id: r
        for cell in plans[1].cells
        for role in ("images", "test")
        for records in read_selection(paths.store.folder(cell.need(role)), paths.root).values()
        for r in records
        if r.source != "synthetic"
    }
    kept = open_store(folder)
    backwards = [used[image_id] for image_id in sorted(used, reverse=True)]
    rows = pixels_of([folder], backwards)
    assert len(kept) == len(rows) == len(used)
    assert np.array_equal(rows[:3], decode_square([r.path for r in backwards[:3]], resolution_px=32, workers=1))


def test_the_memory_of_classifiers_is_that_of_the_largest_of_their_models(experiment: Experiment, tmp_path) -> None:
    grid = replace(experiment.grid, models=("MobileNet v2", "ResNet18"))
    paths = RunPaths(tmp_path)
    cells = planned(replace(experiment, grid=grid), paths).cells
    assert [c.config.classifier.model for c in cells] == ["MobileNet v2", "ResNet18"]
    with one_thread():
        found = measure_models(cells, paths.store)
    assert 0 < found.needed_bytes < found.total_bytes and found.device == "cpu (1 threads)"
    assert cells[0].kind.load_measure() is measure_models
