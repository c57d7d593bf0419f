"""Train one classifier of the grid and predict the test images. The work itself is `fulora.classify.training`.

In: a step with its selections and pixel stores. Out: predictions.parquet, epochs.parquet; nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fulora.classify.models import MODELS
from fulora.data.records import ImageRecord
from fulora.data.regimes import REGIMES
from fulora.device import Footprint
from fulora.planes import PLANES, plane_from_label
from sweeps.core.selections import read_selection
from sweeps.core.step import Report, Step
from sweeps.core.store import Place, Store
from sweeps.core.tables import SCHEMAS, write_table
from sweeps.grid.pixels import pixels_of
from sweeps.grid.plan import CellTrial
from sweeps.sources.audit import leaking_images

PREDICTIONS_FILE = "predictions.parquet"
EPOCHS_FILE = "epochs.parquet"
_EPOCH = tuple(SCHEMAS["epochs"])


def train_cell(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Train one classifier, write its predictions on the test images, and return its metrics."""
    from fulora.classify.training import predict, train_classifier

    trial: CellTrial = step.config
    config = replace(trial.classifier, weights=place.local(trial.weights_folder))
    chosen = read_selection(place.of("images"), place.store.root)
    (test,) = read_selection(place.of("test"), place.store.root).values()
    training, validation, notes = chosen["train"], chosen.get("validation", []), list[str]()
    if "audit" in step.needs:
        leaks = leaking_images(place.of("audit"))
        kept = [r for r in training if r.image_id not in leaks]
        if num := len(training) - len(kept):
            notes.append(
                f"{trial.regime}: {num} synthetic images are left out as duplicates or near duplicates of a test image"
            )
        training, validation = kept, [r for r in validation if r.image_id not in leaks]
    stores = place.all("pixels")

    def on_epoch(row: dict) -> None:
        note = f"loss {row['loss']:.3f}, {row['accuracy']:.0f} % accuracy"
        report({"fraction": row["epoch"] / config.epochs, "note": note, "epoch": row["epoch"], "loss": row["loss"]})

    trained = train_classifier(
        pixels=pixels_of(stores, training),
        labels=_labels(training),
        config=config,
        seed=trial.seed,
        on_epoch=on_epoch,
        validation=(pixels_of(stores, validation), _labels(validation)) if validation else None,
        checkpoint=place.scratch,
        first=np.array([r.source == "synthetic" for r in training]) if REGIMES[trial.regime].synthetic_first else None,
    )
    probabilities = predict(trained.model, pixels_of(stores, test), device=trained.device, precision=config.precision)
    write_table(place.out / PREDICTIONS_FILE, "predictions", _prediction_rows(step.key, test, probabilities))
    write_table(
        place.out / EPOCHS_FILE, "epochs", ({name: row.get(name) for name in _EPOCH} for row in trained.history)
    )
    last = trained.history[trained.epoch - 1]
    return {
        "epoch": trained.epoch,
        "resumed_from": trained.resumed_from,
        "train_loss": last["loss"],
        "train_accuracy": last["accuracy"],
        **({"validation_accuracy": last["validation_accuracy"]} if validation else {}),
        "images_per_second": last["images_per_second"],
        "weights": trained.weights_name,
        "licence": MODELS[config.model].licence,
        "num_steps": sum(int(row["steps"]) for row in trained.history),
        "num_es": _count(training, "spanish"),
        "num_af": _count(training, "african"),
        "num_synthetic": _count(training, "synthetic"),
        "num_patients": len({r.patient_id for r in training if r.patient_id}),
        "notes": notes,
        "device": trained.device,
        "peak_memory_bytes": trained.peak_memory_bytes,
    }


def measure_models(steps: Sequence[Step], store: Store) -> Footprint:
    """Return the device memory of the largest of some trainings, measured on a few steps of each model."""
    from fulora.classify.memory import measure_memory

    largest = {step.config.classifier.model: step.config.classifier for step in steps}
    return measure_memory(list(largest.values()))


def _count(records: Sequence[ImageRecord], source: str) -> int:
    return len({r.image_id for r in records if r.source == source})  # a control may repeat images


def _labels(records: Sequence[ImageRecord]) -> np.ndarray:
    return np.array([plane_from_label(r.plane).index for r in records], dtype=np.int64)


def _prediction_rows(key: str, test: Sequence[ImageRecord], probabilities: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": key, "image_id": r.image_id, "patient_id": r.patient_id, "centre": r.centre,
            "plane": r.plane, **{f"p_{plane.name}": float(p[plane.index]) for plane in PLANES},
        }
        for r, p in zip(test, probabilities)
    ]  # fmt: skip
