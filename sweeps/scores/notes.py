"""What a reader must know of a run's scores and cannot see in a number, as sentences.

In: every cell's trainings, the test images, the headline. Out: notes, which stand in notes.parquet and on the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fulora.evaluate.trainings import MeasuredTrainings
from sweeps.scores.predictions import CellName, TestImages


def score_notes(
    measured: Mapping[CellName, MeasuredTrainings], test: TestImages, headline: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the notes; none where all trainings are there, differ, and have learned more than one class."""
    return [
        *_patients(test),
        *_trainings(measured),
        *_collapsed(measured),
        *_left_out(headline),
    ]


def _patients(test: TestImages) -> list[str]:
    num_patients, num_clusters = len(set(test.patient_ids)), len(set(test.resampled))
    if num_clusters == 1:
        return ["all test images are of one patient: scores have no interval, and no difference is tested"]
    if num_clusters < num_patients:
        return [
            f"{num_patients} test patients count as {num_clusters}: those who share an image with equal pixels are one"
        ]
    return []


def _trainings(measured: Mapping[CellName, MeasuredTrainings]) -> list[str]:
    every = {training for cell in measured.values() for training in cell.trainings}
    if len(every) == 1:
        return ["one training per cell: intervals cover patients alone, and no difference is called significant"]
    notes = []
    for (regime, model), cell in measured.items():
        if absent := sorted(every - set(cell.trainings)):
            named = "; ".join(f"replicate {replicate}, seed {seed}" for replicate, seed in absent)
            notes.append(
                f"{regime}, {model}: {len(absent)} of {len(every)} trainings are missing ({named}); "
                "differences are of the trainings that both sides have"
            )
    return notes


def _collapsed(measured: Mapping[CellName, MeasuredTrainings]) -> list[str]:
    notes = []
    for (regime, model), cell in measured.items():
        if num := sum(cell.collapsed):
            tail = "; the model is left out of means over models" if cell.has_collapsed else ""
            notes.append(
                f"{regime}, {model}: {num} of {len(cell.trainings)} trainings collapsed, giving (nearly) all test "
                f"images one class{tail}"
            )
    return notes


def _left_out(headline: Sequence[Mapping[str, Any]]) -> list[str]:
    num = max((row["num_left_out"] for row in headline), default=0)
    return [f"the headline is without {num} test images that another test image repeats"] if num else []
