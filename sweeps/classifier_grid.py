"""The classifier grid: models x regimes x seeds as parallel trials, and Table 2's rows.

In: the catalog and the synthetic images. Out: a part of the predictions per trial, then predictions.parquet.
The work itself is `fulora.classify.training`; nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fulora.data.pixels import open_store, write_store
from fulora.data.records import ImageRecord
from fulora.data.regimes import REGIMES, TrainingSet, select_training_set, split_validation
from fulora.experiment import Experiment
from fulora.planes import PLANES, plane_from_label
from fulora.seeds import derive_seed
from sweeps.catalog import read_catalog, read_synthetic
from sweeps.lora_sweep import UNKNOWN_DATA
from sweeps.paths import RunPaths
from sweeps.synthesis import ImageSet
from sweeps.tables import read_rows, write_table
from sweeps.trials import Trial, data_hash, plain, short_hash
from sweeps.tuning import Report

_RELATIVE_COST = {"ViT b16": 8.0, "DenseNet169": 3.0, "EfficientNet b0": 1.5, "ResNet18": 1.2, "MobileNet v2": 1.0}
"""Seconds per image relative to the lightest, measured at 64 px; only the order in which trials start depends on it."""


def training_set(experiment: Experiment, regime: str, records: Sequence[ImageRecord]) -> TrainingSet:
    """Return the images of a regime."""
    return select_training_set(regime, records, experiment.sizes, seed=experiment.seed)


def test_set(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the images every classifier is tested on, in order of their ids."""
    return sorted((r for r in records if r.source == "african" and r.split == "test"), key=lambda r: r.image_id)


def grid_trials(
    experiment: Experiment, records: Sequence[ImageRecord] | None, synthetic: ImageSet | None
) -> list[Trial]:
    """Return one trial per regime, model and seed; `records` None plans without data.

    Synthetic images count by what they are drawn from and how many are asked for, so ids are known before sampling.
    """
    data: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for regime in dict.fromkeys((*experiment.grid.regimes, *experiment.grid.table2_regimes)):
        data[regime], sizes[regime] = _regime_hash(experiment, regime, records, synthetic)
    test = UNKNOWN_DATA if records is None else data_hash(test_set(records))
    return [
        Trial(
            stage="grid",
            label=f"{regime}, {config.model}" + (f", seed {index}" if experiment.grid.num_seeds > 1 else ""),
            config={
                **plain(config),
                "regime": regime,
                "seed_index": index,
                "num_validation": experiment.grid.num_validation,
                "validation": experiment.grid.validation,
            },
            inputs={"data": data[regime], "test": test},
            seed=derive_seed(experiment.seed, "grid", index),
            cost=_RELATIVE_COST.get(config.model, 2.0) * sizes[regime],
        )
        for regime, index, config in experiment.grid.trials()
    ]


def _regime_hash(
    experiment: Experiment, regime: str, records: Sequence[ImageRecord] | None, synthetic: ImageSet | None
) -> tuple[str, int]:
    wanted = REGIMES[regime]
    if records is None:
        return UNKNOWN_DATA, 1
    real = [r for r in records if r.source != "synthetic"]
    stand_in = [] if not wanted.synthetic or synthetic is None else _planned_synthetic(synthetic)
    chosen = training_set(experiment, regime, [*real, *stand_in])
    if not wanted.synthetic:
        return data_hash(chosen.records), len(chosen.records)
    science = synthetic.science if synthetic else UNKNOWN_DATA
    return short_hash([data_hash(chosen.records), science]), len(chosen.records)


def _planned_synthetic(which: ImageSet) -> list[ImageRecord]:
    """Return the synthetic images that will be, so that a plan selects exactly those a run will."""
    return [
        ImageRecord(
            image_id=f"synthetic/{row.image_id}", path="", source="synthetic", plane=row.plane, patient_id="",
            centre="", machine=None, split="train", width_px=0, height_px=0, sha256="", pixel_hash="",
        )
        for _, rows in which.shards() for row in rows
    ]  # fmt: skip


def write_pixel_stores(experiment: Experiment, records: Sequence[ImageRecord], paths: RunPaths) -> None:
    """Decode and resize every image once, into files all trials map into memory."""
    size = experiment.grid.resolution_px
    write_store(paths.pixels("real", size), [r for r in records if r.source != "synthetic"], size)
    if synthetic := [r for r in records if r.source == "synthetic"]:
        write_store(paths.pixels("synthetic", size), synthetic, size)


def _pixels(paths: RunPaths, size: int, records: Sequence[ImageRecord]) -> np.ndarray:
    """Return uint8 [N, R, R, 3] in the order of the records."""
    out = np.empty((len(records), size, size, 3), np.uint8)
    for name in ("real", "synthetic"):
        places = [i for i, r in enumerate(records) if (r.source == "synthetic") == (name == "synthetic")]
        if places:
            out[places] = open_store(paths.pixels(name, size)).rows([records[i].image_id for i in places])
    return out


def _labels(records: Sequence[ImageRecord]) -> np.ndarray:
    return np.array([plane_from_label(r.plane).index for r in records], dtype=np.int64)


def train_cell(trial: Trial, paths: RunPaths, report: Report, experiment: Experiment) -> dict[str, Any]:
    """Train one classifier, write its predictions on the test images, and return its metrics."""
    from fulora.classify.training import predict, train_classifier

    config = next(c for regime, i, c in experiment.grid.trials() if _is(trial, regime, i, c))
    records = [*read_catalog(paths), *read_synthetic(paths)]
    chosen = training_set(experiment, trial.config["regime"], records)
    training, validation = split_validation(
        chosen.records, experiment.grid.num_validation, by=experiment.grid.validation, seed=trial.seed
    )
    size, test = config.resolution_px, test_set(records)

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
    )
    probabilities = predict(trained.model, _pixels(paths, size, test), batch_size=64, device=trained.device)
    write_table(paths.prediction(trial.trial_id), "predictions", _prediction_rows(trial, test, probabilities))
    last = trained.history[trained.epoch - 1]
    return {
        "epoch": trained.epoch,
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


def _is(trial: Trial, regime: str, index: int, config: Any) -> bool:
    have = trial.config
    return (have["regime"], have["seed_index"], have["model"]) == (regime, index, config.model)


def _prediction_rows(trial: Trial, test: Sequence[ImageRecord], probabilities: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial.trial_id, "image_id": r.image_id, "patient_id": r.patient_id, "centre": r.centre,
            "plane": r.plane, **{f"p_{plane.name}": float(p[plane.index]) for plane in PLANES},
        }
        for r, p in zip(test, probabilities)
    ]  # fmt: skip


def gather_predictions(trials: Sequence[Trial], paths: RunPaths) -> int:
    """Write predictions.parquet from the parts of the trials that have one; return how many those are."""
    parts = [paths.prediction(t.trial_id) for t in trials if paths.prediction(t.trial_id).is_file()]
    write_table(paths.predictions, "predictions", (row for part in parts for row in read_rows(part, "predictions")))
    return len(parts)
