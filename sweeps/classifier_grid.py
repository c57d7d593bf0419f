"""The classifier grid: models x regimes x seeds as parallel trials, and Table 2's rows.

In: the catalog and the synthetic images. Out: a part of the predictions per trial, then predictions.parquet.
The work itself is `fulora.classify.training`; nothing is scored here.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from fulora.data.pixels import PixelRows, open_store, write_store
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_test_images
from fulora.device import Footprint
from fulora.experiment import Experiment
from fulora.planes import PLANES, plane_from_label
from sweeps.catalog import read_catalog, read_synthetic
from sweeps.grid_plan import sizes_of, split_of, training_set
from sweeps.paths import RunPaths
from sweeps.tables import read_rows, write_table
from sweeps.trials import Trial, latest_success
from sweeps.tuning import Report


def write_pixel_stores(experiment: Experiment, records: Sequence[ImageRecord], paths: RunPaths) -> None:
    """Decode and resize every image once, into files all trials map into memory."""
    size = experiment.grid.resolution_px
    write_store(paths.pixels("real", size), [r for r in records if r.source != "synthetic"], size)
    if synthetic := [r for r in records if r.source == "synthetic"]:
        write_store(paths.pixels("synthetic", size), synthetic, size)


def _pixels(paths: RunPaths, size: int, records: Sequence[ImageRecord]) -> PixelRows:
    """Return the images in the order of the records, left in the stores that all trials of a node map."""
    names = ["real", *(["synthetic"] if any(r.source == "synthetic" for r in records) else [])]
    return PixelRows([open_store(paths.pixels(name, size)) for name in names], [r.image_id for r in records])


def _labels(records: Sequence[ImageRecord]) -> np.ndarray:
    return np.array([plane_from_label(r.plane).index for r in records], dtype=np.int64)


def measure_models(trials: Sequence[Trial], experiment: Experiment) -> Footprint:
    """Return what the largest of some trials takes of this process's device, from a few steps of each model."""
    from fulora.classify.memory import measure_memory

    regimes = {trial.config["model"]: trial.config["regime"] for trial in trials}
    return measure_memory([experiment.grid.config(regime, model) for model, regime in regimes.items()])


def train_cell(trial: Trial, paths: RunPaths, report: Report, experiment: Experiment) -> dict[str, Any]:
    """Train one classifier, write its predictions on the test images, and return its metrics."""
    from fulora.classify.training import predict, train_classifier

    config = experiment.grid.config(trial.config["regime"], trial.config["model"])
    records = [*read_catalog(paths), *read_synthetic(paths, without_leaks=experiment.drop_duplicates)]
    chosen = training_set(experiment, trial.config["regime"], records, sizes_of(trial, experiment))
    training, validation = split_of(trial, experiment, records, chosen)
    size, test = config.resolution_px, select_test_images(records)

    def on_epoch(row: dict) -> None:
        note = f"loss {row['loss']:.3f}, {row['accuracy']:.0f} % right"
        report({"fraction": row["epoch"] / config.epochs, "note": note, "epoch": row["epoch"], "loss": row["loss"]})

    trained = train_classifier(
        pixels=_pixels(paths, size, training),
        labels=_labels(training),
        config=config,
        seed=trial.seed,
        on_epoch=on_epoch,
        validation=(_pixels(paths, size, validation), _labels(validation)) if validation else None,
        checkpoint=paths.checkpoints(trial.trial_id),
    )
    probabilities = predict(trained.model, _pixels(paths, size, test), device=trained.device)
    write_table(paths.prediction(trial.trial_id), "predictions", _prediction_rows(trial, test, probabilities))
    last = trained.history[trained.epoch - 1]
    return {
        "epoch": trained.epoch,
        "resumed_from": trained.resumed_from,
        "train_loss": last["loss"],
        "train_accuracy": last["accuracy"],
        **({"validation_accuracy": last["validation_accuracy"]} if validation else {}),
        "images_per_second": last["images_per_second"],
        "weights": trained.weights_name,
        "num_es": chosen.num_es,
        "num_af": chosen.num_af,
        "num_synthetic": chosen.num_synthetic,
        "num_patients": chosen.num_patients,
        "notes": "; ".join(chosen.notes) or None,
        "device": trained.device,
        "peak_memory_bytes": trained.peak_memory_bytes,
    }


def _prediction_rows(trial: Trial, test: Sequence[ImageRecord], probabilities: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial.trial_id, "image_id": r.image_id, "patient_id": r.patient_id, "centre": r.centre,
            "plane": r.plane, **{f"p_{plane.name}": float(p[plane.index]) for plane in PLANES},
        }
        for r, p in zip(test, probabilities)
    ]  # fmt: skip


def gather_predictions(trials: Sequence[Trial], paths: RunPaths) -> int:
    """Write predictions.parquet from the parts of the trials that have one; return how many those are.

    Checkpoints of trials that are done are removed.
    """
    for trial_id in latest_success(paths):  # only once its row is written is a trial's checkpoint needless
        shutil.rmtree(paths.checkpoints(trial_id), ignore_errors=True)
    parts = [paths.prediction(t.trial_id) for t in trials if paths.prediction(t.trial_id).is_file()]
    write_table(paths.predictions, "predictions", (row for part in parts for row in read_rows(part, "predictions")))
    return len(parts)
