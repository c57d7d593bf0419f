"""A cell of the grid: images stay in the stores all trials share, and a stopped trial goes on at its epoch."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fulora.classify.training import train_classifier
from fulora.data.pixels import PixelRows, open_store
from fulora.experiment import Amounts
from fulora.planes import plane_from_label
from sweeps import classifier_grid, grid_plan
from sweeps.catalog import build_catalog
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.trials import Attempt


@pytest.fixture
def one_thread():
    """Compute as a worker does, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_stopped_cell_goes_on_at_its_epoch_and_leaves_no_checkpoint(mini_experiment, tmp_path, one_thread):
    grid = replace(mini_experiment.grid, epochs=3, models=("MobileNet v2",), regimes=("ES",), table2_regimes=())
    experiment, paths = replace(mini_experiment, grid=grid, amounts=Amounts()), RunPaths(tmp_path)
    records, _ = build_catalog(experiment, paths, Quiet())
    classifier_grid.write_pixel_stores(experiment, records, paths)
    trial = next(t for t in grid_plan.grid_trials(experiment, records, None) if t.config["regime"] == "ES")
    kept = paths.checkpoints(trial.trial_id)
    ignore = lambda row: None  # noqa: E731

    whole = classifier_grid.train_cell(trial, paths, ignore, experiment)
    predictions = read_rows(paths.prediction(trial.trial_id), "predictions")
    assert whole["resumed_from"] == 0
    shutil.rmtree(kept, ignore_errors=True)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    chosen = grid_plan.training_set(experiment, "ES", records).records
    config = next(c for regime, _, c in grid.trials() if regime == "ES")
    store = open_store(paths.pixels("real", config.resolution_px))
    pixels = PixelRows([store], [record.image_id for record in chosen])
    labels = np.array([plane_from_label(record.plane).index for record in chosen])
    with pytest.raises(KeyboardInterrupt):
        train_classifier(
            pixels=pixels, labels=labels, config=config, seed=trial.seed, on_epoch=stop,
            checkpoint=kept, checkpoint_seconds=0,
        )  # fmt: skip
    again = classifier_grid.train_cell(trial, paths, ignore, experiment)
    assert again["resumed_from"] == 2 and kept.exists(), "until its row is written"
    attempt = Attempt(trial_id=trial.trial_id, stage="grid", label="", attempt=1, status="SUCCEEDED", config={})
    attempt.save(paths)
    classifier_grid.gather_predictions([trial], paths)
    assert not kept.exists()
    assert again["train_loss"] == whole["train_loss"]
    assert read_rows(paths.prediction(trial.trial_id), "predictions") == predictions
