"""The steps that score a study: Tables 1 and 2 with all that is computed beside them, data scaling, t-SNE.

In: an experiment and the trainings that are done. Out: steps. A cell whose trainings all failed has null scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fulora.data.records import ImageRecord
from fulora.data.regimes import RegimeSizes
from fulora.endpoint import Endpoint
from fulora.experiment import Amounts, Experiment, Grid
from fulora.planes import TESTED_PLANES
from fulora.seeds import numpy_rng
from sweeps.core.selections import Selection
from sweeps.core.step import Kind, Step
from sweeps.images.sets import SyntheticSet
from sweeps.ranks.plan import lora_selection

SCORES = Kind(name="scores", stage="grid", work="sweeps.scores.tables:write_scores", version=2)
SCALING = Kind(name="data_scaling", stage="grid", work="sweeps.scores.data_scaling:write_data_scaling", version=2)
EMBEDDING = Kind(name="embedding", stage="report", work="sweeps.scores.embedding:write_embedding", runs_on="gpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoresConfig:
    """Which rows the tables have."""

    regimes: tuple[str, ...]
    models: tuple[str, ...]
    table2_model: str
    table2_regimes: tuple[str, ...]
    seed: int
    drop_duplicates: bool
    endpoint: Endpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """Which training sets are compared."""

    amounts: Amounts
    sizes: RegimeSizes
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """How images are embedded."""

    images_per_source: int
    feature_weights: Path | None
    resolution_px: int
    """The judge's, if its features are taken; Inception reads the images in its own size."""
    output: Literal["features", "logits"]
    seed: int
    synthetic: tuple[str, ...]
    """Ids of the synthetic images."""


def scores_step(experiment: Experiment, cells: Sequence[Step], catalog: Step, audits: Sequence[Step]) -> Step:
    """Return the step that scores the trainings that are done; `audits` are those of the replicates."""
    grid: Grid = experiment.grid
    config = ScoresConfig(
        regimes=grid.regimes, models=grid.models, table2_model=grid.table2_model, table2_regimes=grid.table2_regimes,
        seed=experiment.seed, drop_duplicates=experiment.drop_duplicates, endpoint=experiment.endpoint,
    )  # fmt: skip
    needs = {"cells": tuple(cells), "catalog": (catalog,), "audit": tuple(audits)}
    return Step(kind=SCORES, label="scores", config=config, needs=needs, cost=20.0)


def scaling_step(experiment: Experiment, cells: Sequence[Step], catalog: Step) -> Step | None:
    """Return the step that compares training sets with more and more synthetic images; None where none is asked for."""
    if not experiment.amounts.cells(experiment.sizes):
        return None
    config = ScalingConfig(amounts=experiment.amounts, sizes=experiment.sizes, seed=experiment.seed)
    needs = {"cells": tuple(cells), "catalog": (catalog,)}
    return Step(kind=SCALING, label="data scaling", config=config, needs=needs, cost=5.0)


def embedding_step(
    experiment: Experiment, records: Sequence[ImageRecord], chosen: SyntheticSet, judge: Step
) -> tuple[Step, Selection]:
    """Return the step that embeds real and synthetic images, and the selection of the real ones."""
    config = experiment.embedding
    real, synthetic = list[ImageRecord](), list[str]()
    learned = {r.patient_id for r in lora_selection(experiment, records).roles["train"]} if config.held_out else set()
    planned = [(row.plane, f"synthetic/{row.image_id}") for row in chosen.rows()]
    for plane in TESTED_PLANES:
        for source in ("spanish", "synthetic", "african"):
            rng = numpy_rng(experiment.seed, "embedding", plane.name, source)
            if source == "synthetic":
                ids = sorted(image_id for name, image_id in planned if name == plane.name)
                synthetic += [ids[i] for i in rng.permutation(len(ids))[: config.images_per_source]]
                continue
            pool = sorted((r for r in records if (r.plane, r.source) == (plane.name, source)), key=lambda r: r.image_id)
            if source == "african":  # the paper's figure shows test images; fall back to all where there are none
                pool = [r for r in pool if r.split == ("train" if config.held_out else "test")] or pool
            elif config.held_out:
                pool = [r for r in pool if r.patient_id not in learned]
            real += [pool[i] for i in rng.permutation(len(pool))[: config.images_per_source]]
    selection = Selection(label="real images of the embedding", roles={"embedded": real})
    settings = EmbeddingConfig(
        images_per_source=config.images_per_source, feature_weights=config.feature_weights,
        resolution_px=experiment.judge.resolution_px, output=config.output, seed=experiment.seed,
        synthetic=tuple(synthetic),
    )  # fmt: skip
    shards = tuple({chosen.step_of[i].key: chosen.step_of[i] for i in synthetic}.values())
    needs = {"images": (selection.step,), "shards": shards, "judge": (judge,)}
    return Step(kind=EMBEDDING, label="t-SNE embedding", config=settings, needs=needs, cost=8.0), selection
