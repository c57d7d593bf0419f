"""The work of a step, in units that take equally long: optimizer steps, images sampled, images trained on.

In: a step, and how many images its selections have. Out: a `Work`. Two works of equal name and settings differ in
their number of units alone, so that a speed measured on one holds for the other on the same device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fulora.classify.models import MODELS
from fulora.diffusion.base_files import RANDOM
from fulora.recipes import SD15
from sweeps.core.selections import SELECTION
from sweeps.core.step import Step
from sweeps.grid.plan import GRID, PIXELS, CellTrial
from sweeps.images.quality_plan import FEATURES
from sweeps.images.sets import IMAGES, ShardConfig
from sweeps.ranks.base import BaseModel
from sweeps.ranks.plan import JUDGE, LORA, TOGETHER, JudgeTrial, LoraTrial
from sweeps.sources.plan import AUDIT, CATALOG, PHANTOMS

_FORWARD = 1 / 3
"""A forward pass against a step of training: the backward pass is about two more."""

Counts = Callable[[Step], Mapping[str, int]]
"""How many images a selection has, by role."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a step does."""

    what: str
    """Kind of the step."""
    unit: str = "step"
    """What a unit is; `step`: the step as a whole, whatever its size."""
    units: float = 1.0
    items: float = 1.0
    """What its files grow with: images; 1 where their size does not depend on it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What decides how long a unit takes."""


def work_of(step: Step, counts: Counts) -> Work:
    """Return the work of a step."""
    make = _WORKS.get(step.kind.name)
    return make(step, counts) if make is not None else Work(what=step.kind.name)


def num_images(step: Step) -> int:
    """Return how many images a step draws."""
    return len(step.config.rows) if step.kind.name == IMAGES.name else 0


def _lora(step: Step, counts: Counts) -> Work:
    trial: LoraTrial = step.config
    if step.in_role("together"):
        return Work(what="lora", unit="files taken over")
    settings = {"rank": trial.lora.rank, **_lora_settings(trial)}
    return Work(what="lora", unit="optimizer step", units=trial.lora.num_steps, settings=settings)


def _together(step: Step, counts: Counts) -> Work:
    trials: tuple[LoraTrial, ...] = step.config.trials
    settings = {"ranks": [trial.lora.rank for trial in trials], **_lora_settings(trials[0])}
    return Work(what=step.kind.name, unit="optimizer step", units=trials[0].lora.num_steps, settings=settings)


def _lora_settings(trial: LoraTrial) -> dict[str, Any]:
    lora = trial.lora
    return {
        "base": _family(trial.base), "resolution_px": lora.resolution_px, "batch_size": lora.batch_size,
        "targets": lora.targets, "text_encoder": lora.text_encoder_rate > 0,
        "optimizer": lora.optimizer, "precision": lora.precision, "compile": lora.compile,
        "bucket_step_px": lora.bucket_step_px,
    }  # fmt: skip


def _judge(step: Step, counts: Counts) -> Work:
    trial: JudgeTrial = step.config
    config = trial.judge
    units = config.num_images * config.epochs + config.num_heldout * _FORWARD
    settings = {"resolution_px": config.resolution_px, "batch_size": config.batch_size}
    return Work(what="judge", unit="image trained on", units=units, settings=settings)


def _shard(step: Step, counts: Counts) -> Work:
    config: ShardConfig = step.config
    sampling = config.sampling
    settings = {
        "base": _family(config.base), "resolution_px": config.base.resolution_px, "num_steps": sampling.num_steps,
        "guided": sampling.guidance > 1, "batch_size": sampling.batch_size, "precision": config.base.precision,
    }  # fmt: skip
    units = -(-len(config.rows) // sampling.batch_size) * sampling.batch_size  # the last batch is padded
    return Work(what="images", unit="image drawn", units=units, items=len(config.rows), settings=settings)


def _cell(step: Step, counts: Counts) -> Work:
    trial: CellTrial = step.config
    config = trial.classifier
    images, test = counts(step.need("images")), sum(counts(step.need("test")).values())
    train, validation = images.get("train", 0), images.get("validation", 0)
    settings = {
        "model": config.model, "resolution_px": config.resolution_px, "batch_size": config.batch_size,
        "augment": config.augment, "precision": config.precision,
    }  # fmt: skip
    if MODELS[config.model].trained == "head" and not config.augment:
        return Work(what="grid", unit="image embedded", units=train + validation + test, items=test, settings=settings)
    trained = train * config.epochs if config.num_steps is None else config.num_steps * config.batch_size
    forward = validation * config.epochs + test + (train if config.refit_batchnorm else 0)
    return Work(
        what="grid", unit="image trained on", units=trained + forward * _FORWARD, items=test, settings=settings
    )  # fmt: skip


def _of_images(*fields: str) -> Callable[[Step, Counts], Work]:
    """Return the work of a kind whose time grows with the images it reads; `fields` are of its configuration."""

    def make(step: Step, counts: Counts) -> Work:
        number = 0
        for need in step.in_role("images"):
            number += sum(counts(need).values()) if need.kind.name == SELECTION.name else num_images(need)
        settings = {name: getattr(step.config, name) for name in fields}
        return Work(what=step.kind.name, unit="image", units=number, items=number, settings=settings)

    return make


def _sources(step: Step, counts: Counts) -> Work:
    number = sum(counts(step).values())
    return Work(what=step.kind.name, unit="image", units=number, items=number)


def _audit(step: Step, counts: Counts) -> Work:
    number = sum(counts(step.need("catalog")).values()) + sum(map(num_images, step.in_role("images")))
    return Work(what="audit", unit="image", units=number, items=number)


def _family(base: BaseModel) -> str:
    """Return the architecture of a base as far as it is known by its name, else the base itself."""
    return "sd15" if base.spec in (RANDOM, SD15) else "tiny" if base.spec == "tiny" else base.identity


_WORKS: Mapping[str, Callable[[Step, Counts], Work]] = {
    LORA.name: _lora,
    TOGETHER.name: _together,
    JUDGE.name: _judge,
    IMAGES.name: _shard,
    GRID.name: _cell,
    PIXELS.name: _of_images("resolution_px"),
    FEATURES.name: _of_images("judge_resolution_px", "image_resolution_px"),
    PHANTOMS.name: _sources,
    CATALOG.name: _sources,
    AUDIT.name: _audit,
}
"""By the name of the kind; all others take as long whatever their size."""
