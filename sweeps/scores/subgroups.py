"""Scores of parts of the test set: without duplicates, and by centre and machine.

In: each cell's probabilities, the catalog and the audit. Out: rows of deduplicated.parquet and subgroups.parquet.
Source: measured, as the audit's: 22 of the paper's 233 test images are training images too, which lifts what is trained
on African images, and 9 pairs lie inside the test set, which counts them twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fulora.data.regimes import REGIMES
from fulora.evaluate.intervals import draw_resamples
from fulora.evaluate.scores import METRICS
from fulora.evaluate.trainings import measure_trainings
from sweeps.scores.predictions import CellName, TestImages, Trainings
from sweeps.scores.uncertainty import score_columns

Reason = Literal["trained_on", "near_trained_on", "repeated", "near_repeated"]
"""Why a test image is left out: a training image or an earlier test image has its pixels, or nearly so."""
REASONS: tuple[Reason, ...] = ("trained_on", "near_trained_on", "repeated", "near_repeated")
"""In the order in which they are looked at; an image is left out for the first that holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TestContext:
    """What is known of the test images beside the predictions."""

    __test__ = False  # no test, whatever its name says to pytest

    catalog: Sequence[Mapping[str, Any]]
    """Rows of catalog.parquet; it lacks images that were left out."""
    audit: Sequence[Mapping[str, Any]]
    """Rows of audit.parquet."""
    drop_duplicates: bool
    """Whether synthetic images near a test image were left out of training, so that they are no leak here."""

    @property
    def _real(self) -> dict[str, str]:
        return {r["image_id"]: r["source"] for r in self.catalog if r["split"] == "train"}

    def trained_on(self, regime: str) -> set[str]:
        """Return the images of the audit that a regime may train on."""
        sources, real = regime_sources(regime), self._real
        if "synthetic" in sources and not self.drop_duplicates:
            paired = {r[side] for r in self.audit for side in ("image_a", "image_b")}
            real |= {i: "synthetic" for i in paired if i.startswith("synthetic/")}
        return {image_id for image_id, source in real.items() if source in sources}


def deduplicated_rows(
    cells: Mapping[CellName, Trainings], test: TestImages, context: TestContext, *, seed: int
) -> list[dict[str, Any]]:
    """Return each cell's scores on the test images that are neither duplicates nor, for its regime, training images."""
    rows = []
    for (regime, model), trained in cells.items():
        left_out = duplicates(test.image_ids, context.audit, context.trained_on(regime))
        kept = np.array([i for i, image_id in enumerate(test.image_ids) if image_id not in left_out], dtype=np.int64)
        reasons = list(left_out.values())
        row = {"regime": regime, "model": model, "num_test": len(kept), "num_left_out": len(left_out)}
        row |= {f"num_{reason}": reasons.count(reason) for reason in REASONS}
        rows.append(row | _scores(trained, test, kept, seed=seed))
    return rows


def duplicates(image_ids: Sequence[str], pairs: Iterable[Mapping[str, Any]], trained_on: set[str]) -> dict[str, Reason]:
    """Return the test images to leave out, with the reason: those like an image in `trained_on`, then those like a test
    image that is kept and sorts before them.

    `pairs` are rows of the audit, of kind `pixels` or nearly so; of equal images the first stays.
    """
    alike: dict[str, dict[str, bool]] = defaultdict(dict)
    for pair in pairs:
        for one, other in ((pair["image_a"], pair["image_b"]), (pair["image_b"], pair["image_a"])):
            alike[one][other] = alike[one].get(other, False) or pair["kind"] == "pixels"
    left_out: dict[str, Reason] = {}
    tested = set(image_ids)
    # A synthetic image is paired with one of equal test images only: what is known of one holds for its equals.
    for image_id in image_ids:
        for equal in [other for other, same in alike[image_id].items() if same and other in tested]:
            for other, same in list(alike[equal].items()):
                if other in trained_on:
                    alike[image_id].setdefault(other, same)
    for image_id in image_ids:
        if exact := [same for other, same in alike[image_id].items() if other in trained_on]:
            left_out[image_id] = "trained_on" if any(exact) else "near_trained_on"
    kept: set[str] = set()
    for image_id in sorted(tested - set(left_out)):
        if exact := [same for other, same in alike[image_id].items() if other in kept]:
            left_out[image_id] = "repeated" if any(exact) else "near_repeated"
        else:
            kept.add(image_id)
    return left_out


def regime_sources(regime: str) -> set[str]:
    """Return the sources of the images a regime trains on."""
    wanted = REGIMES[regime]
    taken = {"african": wanted.african, "spanish": wanted.spanish != "none", "synthetic": wanted.synthetic}
    return {source for source, takes in taken.items() if takes}


def subgroup_rows(
    cells: Mapping[CellName, Trainings], test: TestImages, context: TestContext, *, seed: int
) -> list[dict[str, Any]]:
    """Return each cell's scores by centre and, where the catalog knows any test image's machine, by machine.

    Images whose centre or machine is not known are a part of their own, `unknown`.
    """
    machine = {r["image_id"]: r["machine"] for r in context.catalog}
    ways: dict[str, list[str | None]] = {"centre": list(test.centres)}
    ways["machine"] = [machine.get(image_id) for image_id in test.image_ids]
    rows = []
    for by, values in ways.items():
        parts: dict[str, list[int]] = defaultdict(list)
        for i, value in enumerate(values):
            parts[value or "unknown"].append(i)
        if set(parts) == {"unknown"}:
            continue
        for (regime, model), trained in cells.items():
            for value, places in sorted(parts.items()):
                kept = np.array(places, dtype=np.int64)
                row = {"regime": regime, "model": model, "by": by, "value": value, "num_images": len(kept)}
                row["num_patients"] = len({test.patient_ids[i] for i in places})
                rows.append(row | _scores(trained, test, kept, seed=seed))
    return rows


def _scores(trained: Trainings, test: TestImages, kept: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Return the scores of a part of the test images as columns; none where no image is left."""
    if not len(kept):
        return {}
    part = test.part(kept)
    predicted = {name: probabilities[kept] for name, probabilities in trained.items()}
    found = measure_trainings(predicted, part.labels, draw_resamples(part.resampled, seed=seed), metrics=METRICS)
    columns = score_columns(found)
    return {name: columns[name] for name in columns if name not in ("num_seeds", "num_collapsed")}
