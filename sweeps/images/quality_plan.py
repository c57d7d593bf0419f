"""The steps that measure synthetic images: features of every set, then fidelity, memorisation and the table of ranks.

In: an experiment, its sets, the catalog's records. Out: steps. Real images are of Spanish patients that LoRA is
not trained on, the same number of every plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fulora.data.records import ImageRecord
from fulora.data.regimes import select_heldout_images
from fulora.evaluate.clusters import merge_patients
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.core.selections import Selection
from sweeps.core.step import Kind, Step
from sweeps.images.sets import SyntheticSet
from sweeps.ranks.plan import judge_selection, lora_selection

FEATURES = Kind(name="features", stage="sample", work="sweeps.images.features:take_features", runs_on="gpu")
QUALITY = Kind(name="quality", stage="sample", work="sweeps.images.quality:measure_quality")
RANKS = Kind(name="ranks", stage="sample", work="sweeps.images.rank_table:write_rank_table")
PLANTED = Kind(name="planted", stage="sample", work="sweeps.images.planted:take_planted", runs_on="gpu")
CHOICE = Kind(name="choice", stage="sample", work="sweeps.images.rank_choice:choose_rank")
NUM_PLANTED = 20
"""Copies of each kind that are planted; what the audit finds of them stands beside its verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig:
    """How features are computed."""

    judge_resolution_px: int
    image_resolution_px: int
    feature_weights: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedConfig:
    """Copies of training images planted to see what the near-copy audit finds."""

    per_kind: int
    """Copies of each alteration."""
    feature_weights: Path | None
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SetFacts:
    """The columns that describe a set."""

    label: str
    rank: int | None
    chosen: bool
    samplers: tuple[str, ...]
    images_per_plane: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityConfig:
    """Which sets are compared, in the order of the needs."""

    sets: tuple[SetFacts, ...]
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceConfig:
    """By which score a rank is chosen."""

    sets: tuple[SetFacts, ...]
    choose_rank: str
    seed: int


def facts_of(which: SyntheticSet) -> SetFacts:
    """Return what tables say of a set."""
    return SetFacts(
        label=which.label, rank=which.rank, chosen=which.chosen, samplers=tuple(which.config.samplers),
        images_per_plane=which.config.images_per_plane,
    )  # fmt: skip


def real_selections(
    experiment: Experiment, records: Sequence[ImageRecord], sets: Sequence[SyntheticSet]
) -> tuple[Selection, Selection]:
    """Return (LoRA's images, images of other patients): of each plane as many, at most twice the images of the largest
    set, so that two halves of them make a baseline. None of the judge's patients, unless it had to take LoRA's."""
    learned, judged = lora_selection(experiment, records), judge_selection(experiment, records)
    seen = _with_linked(learned.roles["train"], records)
    if judged is not None and not judged.notes:
        seen += [r for images in judged.roles.values() for r in images]
    most = max(which.config.images_per_plane * len(which.config.samplers) for which in sets)
    others = select_heldout_images(records, seen, per_plane=10**9, seed=experiment.seed)
    counts = [sum(r.plane == plane.name for r in others) for plane in PLANES]
    least = min((count for count in counts if count), default=0)
    chosen = select_heldout_images(records, seen, per_plane=min(least, 2 * most), seed=experiment.seed)
    return learned, Selection(label="real images to compare with", roles={"heldout": chosen})


def _with_linked(chosen: Sequence[ImageRecord], records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return images with those of all patients who share an image with one of their patients: they may be one woman."""
    mine = [r for r in records if r.source == chosen[0].source]
    clusters = merge_patients([r.patient_id for r in mine], [r.pixel_hash for r in mine])
    patients = {r.patient_id for r in chosen}
    linked = {cluster for r, cluster in zip(mine, clusters, strict=True) if r.patient_id in patients}
    return [*chosen, *(r for r, cluster in zip(mine, clusters, strict=True) if cluster in linked)]


def features_step(experiment: Experiment, judge: Step, label: str, images: Sequence[Step]) -> Step:
    """Return the step that takes the features of some images: shards, or a selection of real ones."""
    config = FeaturesConfig(
        judge_resolution_px=experiment.judge.resolution_px,
        image_resolution_px=experiment.lora.resolution_px,
        feature_weights=experiment.embedding.feature_weights,
    )
    needs = {"images": tuple(images), "judge": (judge,)}
    return Step(kind=FEATURES, label=f"features of {label}", config=config, needs=needs, cost=3.0)


def planted_step(experiment: Experiment, judge: Step, learned: Step) -> Step:
    """Return the step that plants copies of LoRA's training images, whose features are `learned`."""
    config = PlantedConfig(
        per_kind=NUM_PLANTED, feature_weights=experiment.embedding.feature_weights, seed=experiment.seed
    )
    return Step(kind=PLANTED, label="planted copies", config=config, needs={"judge": (judge,), "learned": (learned,)})


def quality_step(
    experiment: Experiment, sets: Sequence[tuple[SyntheticSet, Step]], real: tuple[Selection, Selection],
    real_features: tuple[Step, Step], planted: Step,
) -> Step:  # fmt: skip
    """Return the step that scores sets and looks for near copies; takes each set with its features."""
    return Step(
        kind=QUALITY,
        label="fidelity and memorisation",
        config=QualityConfig(sets=tuple(facts_of(which) for which, _ in sets), seed=experiment.seed),
        needs={**_needs(sets, real, real_features), "planted": (planted,)},
        cost=20.0,
    )


def choice_step(
    experiment: Experiment, sets: Sequence[tuple[SyntheticSet, Step]], real: tuple[Selection, Selection],
    real_features: tuple[Step, Step],
) -> Step:  # fmt: skip
    """Return the step that chooses the rank that samples, by the score the experiment names."""
    facts = tuple(facts_of(which) for which, _ in sets)
    config = ChoiceConfig(sets=facts, choose_rank=experiment.choose_rank, seed=experiment.seed)
    return Step(kind=CHOICE, label="choice of the rank", config=config, needs=_needs(sets, real, real_features))


def rank_table_step(experiment: Experiment, judge: Step, sets: Sequence[tuple[SyntheticSet, Step]]) -> Step:
    """Return the step that writes the table of ranks."""
    return Step(
        kind=RANKS,
        label="table of ranks",
        config=QualityConfig(sets=tuple(facts_of(which) for which, _ in sets), seed=experiment.seed),
        needs={
            "sets": tuple(features for _, features in sets),
            "adapters": tuple(which.adapter for which, _ in sets if which.adapter is not None),
            "judge": (judge,),
        },
    )


def _needs(
    sets: Sequence[tuple[SyntheticSet, Step]], real: tuple[Selection, Selection], real_features: tuple[Step, Step]
) -> dict[str, tuple[Step, ...]]:
    learned, others = real
    return {
        "sets": tuple(features for _, features in sets),
        "learned": (learned.step,), "others": (others.step,),
        "learned_features": (real_features[0],), "others_features": (real_features[1],),
    }  # fmt: skip
