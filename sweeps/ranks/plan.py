"""The steps of the rank sweep: a fine-tuning per rank, and the judge.

In: an experiment and the catalog's records; None plans without data. Out: steps, and the selections they name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fulora.data.records import ImageRecord
from fulora.data.regimes import select_heldout_images, select_lora_images
from fulora.diffusion.lora_config import LoraConfig
from fulora.evaluate.judge import JudgeConfig
from fulora.experiment import Experiment
from fulora.planes import PLANES
from fulora.replicates import of_replicate
from fulora.seeds import derive_seed, numpy_rng
from sweeps.core.hashing import PLACE
from sweeps.core.selections import Selection
from sweeps.core.step import Kind, Step
from sweeps.ranks.base import BaseModel, base_model

LORA = Kind(
    name="lora", stage="lora", work="sweeps.ranks.finetune:train_rank", runs_on="gpu", is_trial=True,
    measure="sweeps.ranks.finetune:measure_ranks",
)  # fmt: skip
TOGETHER = Kind(name="ranks_together", stage="lora", work="sweeps.ranks.finetune:train_together", runs_on="gpu")
_TAKEN_OVER = replace(LORA, work="sweeps.ranks.finetune:take_over", runs_on="cpu", measure=None)
"""A rank that another step trained: of the key of one trained alone, whose files it equals but for rounding."""
JUDGE = Kind(name="judge", stage="lora", work="sweeps.ranks.judge:train_judge_step", runs_on="gpu", is_trial=True)
_SECONDS_PER_STEP = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraTrial:
    """One fine-tuning; its training images are a need."""

    lora: LoraConfig
    base: BaseModel
    images_per_plane: int
    seed: int
    replicate: int = field(default=0, metadata=PLACE)
    """Number of the replicate; its seed and images tell it from others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JointTrial:
    """The fine-tuning of several ranks in one pass."""

    trials: tuple[LoraTrial, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeTrial:
    """The judge's training."""

    judge: JudgeConfig
    phantoms: bool
    """Whether it is trained on new phantoms; else its images are a need."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class RepeatedRank:
    """A fine-tuning of a replicate beyond the first, and the selections it names."""

    step: Step
    selections: Sequence[Selection]


def lora_selection(experiment: Experiment, records: Sequence[ImageRecord]) -> Selection:
    """Return the training images of LoRA."""
    images, notes = select_lora_images(records, per_plane=experiment.lora.images_per_plane, seed=experiment.seed)
    return Selection(label="images LoRA learns from", roles={"train": images}, notes=tuple(notes))


def heldout_selection(experiment: Experiment, records: Sequence[ImageRecord], *, least: int = 0) -> Selection:
    """Return held-out images (of patients LoRA is not trained on) for its loss; at least `least` of each plane."""
    learned = lora_selection(experiment, records).roles["train"]
    per_plane = max(least, experiment.lora.heldout_per_plane)
    images = select_heldout_images(records, learned, per_plane=per_plane, seed=experiment.seed)
    return Selection(label="images LoRA's loss is measured on", roles={"heldout": images})


def sampled_rank(experiment: Experiment) -> int:
    """Return the rank whose images classifiers train on; the last where it is chosen later and none is given."""
    ranks = experiment.lora.ranks
    return experiment.sampling.rank if experiment.sampling.rank in ranks else ranks[-1]


def repeated_step(experiment: Experiment, number: int, records: Sequence[ImageRecord] | None) -> RepeatedRank:
    """Return the fine-tuning of a replicate beyond the first, of the rank that is sampled alone.

    Without records no images are selected: a plan before there is data.
    """
    own = of_replicate(experiment, number)
    own = replace(own, lora=replace(own.lora, ranks=(sampled_rank(own),)))
    learned = heldout = None
    if records is not None:
        learned, heldout = lora_selection(own, records), heldout_selection(own, records)
    (step,) = rank_steps(own, learned, heldout, replicate=number)
    return RepeatedRank(step=step, selections=[s for s in (learned, heldout) if s is not None])


def rank_steps(
    experiment: Experiment, learned: Selection | None, heldout: Selection | None, *, replicate: int = 0
) -> list[Step]:
    """Return one fine-tuning per rank."""
    base = base_model(experiment)
    return [
        Step(
            kind=LORA,
            label=f"rank {config.rank}" + (f", replicate {replicate}" if replicate else ""),
            config=LoraTrial(
                lora=replace(config, alpha=config.alpha or float(config.rank)),
                base=base,
                images_per_plane=experiment.lora.images_per_plane,
                seed=derive_seed(experiment.seed, "lora", config.rank),
                replicate=replicate,
            ),
            needs={"images": (learned.step,)} if learned else {},
            uses={"heldout": (heldout.step,)} if heldout and heldout.roles["heldout"] else {},
            cost=config.num_steps * config.batch_size * _SECONDS_PER_STEP,
        )
        for config in experiment.lora.trials()
    ]


def trained_together(experiment: Experiment, ranks: list[Step]) -> list[Step]:
    """Return the ranks' steps; with `lora.together` they take over what one step, used by all, trains in one pass."""
    if not experiment.lora.together or len(ranks) < 2:
        return ranks
    joint = Step(
        kind=TOGETHER,
        label=", ".join(step.label for step in ranks),
        config=JointTrial(trials=tuple(step.config for step in ranks)),
        needs=ranks[0].needs,
        uses=ranks[0].uses,
        cost=sum(step.cost for step in ranks),
    )
    return [
        replace(step, kind=_TAKEN_OVER, uses={**step.uses, "together": (joint,)}, cost=_SECONDS_PER_STEP)
        for step in ranks
    ]


def judge_step(experiment: Experiment, selection: Selection | None) -> Step:
    """Return the judge's training."""
    seed = derive_seed(experiment.seed, "judge")
    return Step(
        kind=JUDGE,
        label="judge",
        config=JudgeTrial(judge=experiment.judge, phantoms=experiment.spanish is None, seed=seed),
        needs={"images": (selection.step,)} if selection else {},
        cost=experiment.judge.num_images * experiment.judge.epochs * 0.01,
    )


def judge_selection(experiment: Experiment, records: Sequence[ImageRecord]) -> Selection | None:
    """Return the training and held-out images of the judge; None if it is trained on new phantoms.

    Spanish training images of at most half of the patients that LoRA is not trained on, so that the others are left for
    FID and KID, which the judge's features would favour on its own images; all Spanish ones where those are few. A
    fifth of the judge's patients is held out.
    """
    if experiment.spanish is None:
        return None
    lora = lora_selection(experiment, records).roles["train"]
    learned, seen = {r.image_id for r in lora}, {r.patient_id for r in lora}
    spanish = sorted((r for r in records if (r.source, r.split) == ("spanish", "train")), key=lambda r: r.image_id)
    seed = derive_seed(experiment.seed, "judge")
    rng = numpy_rng(seed, "judge", "images")
    others = rng.permutation(sorted({r.patient_id for r in spanish} - seen))
    mine = set(others[: len(others) // 2].tolist())
    chosen = [r for r in spanish if r.patient_id in mine]
    if len(chosen) < 10 * len(PLANES):
        chosen = spanish
    order = rng.permutation(len(chosen))[: experiment.judge.num_images]
    chosen = [chosen[i] for i in sorted(order)]
    patients = np.array([r.patient_id for r in chosen])
    unique = numpy_rng(seed, "judge", "patients").permutation(np.unique(patients))
    held = np.isin(patients, unique[: max(1, len(unique) // 5)])
    training = [r for r, is_held in zip(chosen, held) if not is_held]
    heldout = [r for r, is_held in zip(chosen, held) if is_held]
    overlap = sum(r.image_id in learned for r in training)
    notes = (f"the judge is trained on {overlap} of LoRA's training images: too few others",) if overlap else ()
    return Selection(label="images of the judge", roles={"train": training, "heldout": heldout}, notes=notes)
