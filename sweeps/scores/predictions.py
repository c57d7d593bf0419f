"""predictions.parquet as arrays, checked.

In: a run's predictions. Out: the test images once, each trial's probabilities of them, and the cell a trial belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fulora.errors import InputError, fault
from fulora.evaluate.clusters import merge_patients
from fulora.evaluate.trainings import Training
from fulora.planes import PLANES, TESTED_PLANES, plane_from_label
from sweeps.core.tables import read_rows

CellName = tuple[str, str]
"""Regime and model."""
Trainings = Mapping[Training, np.ndarray]
"""Probabilities [N, 5] of a cell's trainings, by (replicate, seed)."""

_COLUMNS = [f"p_{plane.name}" for plane in PLANES]
_IMAGE_COLUMNS = ("image_id", "patient_id", "centre", "plane")


@dataclass(frozen=True, kw_only=True, slots=True)
class TestImages:
    """The images every trial is scored on, in order of their ids."""

    __test__ = False  # no test, whatever its name says to pytest

    image_ids: list[str]
    patient_ids: list[str]
    centres: list[str]
    labels: np.ndarray
    """Plane indices int64 [N]."""
    clusters: list[str] = field(default_factory=list)
    """What is resampled: the patient of each image, or the first of several who share an image (`with_clusters`)."""

    def part(self, kept: Sequence[int] | np.ndarray) -> TestImages:
        """Return some of the images, by their places."""
        columns = {name: [getattr(self, name)[i] for i in kept] for name in ("image_ids", "patient_ids", "centres")}
        clusters = [self.clusters[i] for i in kept] if self.clusters else []
        return TestImages(**columns, labels=self.labels[np.asarray(kept, dtype=np.int64)], clusters=clusters)

    @property
    def resampled(self) -> list[str]:
        """The cluster of each image; its patient where nothing is known of shared images."""
        return self.clusters or self.patient_ids


def with_clusters(test: TestImages, catalog: Sequence[Mapping[str, Any]]) -> TestImages:
    """Return the test images with patients who share an identical image made one, in the test set or beside it."""
    hashes = {row["image_id"]: row.get("pixel_hash") or "" for row in catalog}
    tested = set(test.image_ids)
    others = [
        (row["patient_id"], row["pixel_hash"])
        for row in catalog
        if row["image_id"] not in tested and row.get("patient_id") and row.get("pixel_hash")
    ]
    patients = [*test.patient_ids, *(patient for patient, _ in others)]
    merged = merge_patients(patients, [*(hashes.get(i, "") for i in test.image_ids), *(pixels for _, pixels in others)])
    return replace(test, clusters=merged[: len(test.image_ids)])


def read_predictions(file: Path) -> tuple[TestImages, dict[str, np.ndarray]]:
    """Return the test images and each trial's probabilities [N, 5] of them.

    Raises InputError where the file cannot be read, trials differ in their test images, or a tested plane has none.
    """
    by_trial: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(file, "predictions"):
        by_trial.setdefault(row["trial_id"], []).append(row)
    if not by_trial:
        raise InputError(fault("predictions", str(file), "has no rows", "Run the grid: `sweeps grid`."))
    for rows in by_trial.values():
        rows.sort(key=lambda row: row["image_id"])
    first, images = next((trial_id, [_image(r) for r in rows]) for trial_id, rows in by_trial.items())
    for trial_id, rows in by_trial.items():
        if (other := [_image(r) for r in rows]) != images:
            rule = (
                f"is scored on other test images than trial {first}: {len(other)} and {len(images)}, "
                f"{len(set(other) ^ set(images))} of them on one side only"
            )
            remedy = f"Delete steps/grid/{trial_id} and run `sweeps grid` again."
            raise InputError(fault("predictions, trial", trial_id, rule, remedy))
    ids, patients, centres, planes = (list(column) for column in zip(*images))
    if len(set(ids)) < len(ids):
        rule = "contains a duplicate test image"
        raise InputError(fault("predictions, trial", first, rule, "Delete the file and run `sweeps grid` again."))
    if absent := [plane.name for plane in TESTED_PLANES if plane.name not in planes]:
        rule = f"lack {' and '.join(absent)}; the scores are averages over the four tested planes"
        raise InputError(fault("test images", len(ids), rule, "Give African test images of every one of them."))
    labels = np.array([plane_from_label(plane).index for plane in planes], dtype=np.int64)
    test = TestImages(image_ids=ids, patient_ids=patients, centres=centres, labels=labels)
    return test, {t: np.array([[r[name] for name in _COLUMNS] for r in rows]) for t, rows in by_trial.items()}


def _image(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in _IMAGE_COLUMNS)
