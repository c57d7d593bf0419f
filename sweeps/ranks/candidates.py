"""Candidates of a search over LoRA settings: the step of each, and which are in a search's space.

In: settings the search chose, an experiment, the selections. Out: steps of kind `search`. The objective is the
held-out loss, or KID of images sampled from the candidate (`fulora.evaluate.fidelity`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fulora.data.records import ImageRecord
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.sampler import SamplingConfig
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.seeds import derive_seed
from sweeps.core.attempts import Attempt
from sweeps.core.selections import Selection
from sweeps.core.step import Kind, Step
from sweeps.ranks.base import BaseModel, base_model
from sweeps.ranks.plan import heldout_selection, lora_selection
from sweeps.ranks.search_space import LoraSearch

SEARCH = Kind(name="search", stage="lora", work="sweeps.ranks.candidate:try_candidate", runs_on="gpu", is_trial=True)
FINISHED = ("SUCCEEDED", "PRUNED")
"""Statuses with an objective value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How images sampled from a candidate are scored."""

    sampling: SamplingConfig
    seed: int
    feature_weights: Path | None
    judge_resolution_px: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateConfig:
    """One candidate; its fields are those of a rank's fine-tuning, and how it is scored."""

    lora: LoraConfig
    base: BaseModel
    images_per_plane: int
    seed: int
    objective: str
    kid: Scoring | None = None
    """None: the objective is the held-out loss."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: its space, and what every candidate needs."""

    experiment: Experiment
    space: LoraSearch
    needs: Mapping[str, tuple[Step, ...]]
    selections: Sequence[Selection] = field(default=())

    def step(self, settings: Mapping[str, Any]) -> Step:
        """Return the candidate of some settings."""
        experiment, rank = self.experiment, settings["rank"]
        config = replace(
            experiment.lora.trials()[0], rank=rank, alpha=rank * settings["alpha_over_rank"],
            **{key: settings[key] for key in ("learning_rate", "num_steps", "targets")},
        )  # fmt: skip
        scoring = None
        if self.space.objective == "kid":
            scoring = Scoring(
                sampling=replace(experiment.sampling, images_per_plane=experiment.compare_per_plane),
                seed=experiment.seed,
                feature_weights=experiment.embedding.feature_weights,
                judge_resolution_px=experiment.judge.resolution_px,
            )
        return Step(
            kind=SEARCH,
            label=f"{config.targets} rank {config.rank}, alpha {config.alpha:g}, rate {config.learning_rate:.1e}",
            config=CandidateConfig(
                lora=config, base=base_model(experiment), images_per_plane=experiment.lora.images_per_plane,
                seed=derive_seed(experiment.seed, "search"), objective=self.space.objective, kid=scoring,
            ),
            needs=self.needs,
        )  # fmt: skip

    def settings(self, attempt: Attempt) -> dict[str, Any]:
        """Return what the search chose for a candidate."""
        config = attempt.config
        scale = config["alpha"] / config["rank"]
        nearest = min(self.space.alpha_over_rank, key=lambda choice: abs(choice - scale))
        return {
            "rank": config["rank"],
            "alpha_over_rank": nearest if math.isclose(nearest, scale) else scale,
            **{key: config[key] for key in ("learning_rate", "num_steps", "targets")},
        }

    def found(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Return the finished candidates of the same data, base and space, best first."""
        mine = {}
        for attempt in attempts:
            if attempt.stage != SEARCH.name or attempt.status not in FINISHED:
                continue
            settings = self.settings(attempt)
            # Of the same key: nothing else that decides a candidate differs.
            if self._inside(settings) and self.step(settings).key == attempt.trial_id:
                mine[attempt.trial_id] = attempt
        return sorted(mine.values(), key=lambda a: (a.status != "SUCCEEDED", self.value(a)))

    def value(self, attempt: Attempt) -> float:
        """Return the objective value of a candidate; for a pruned one, its held-out loss."""
        return float(attempt.metrics.get(self.space.objective, attempt.metrics["heldout_loss"]))

    def _inside(self, settings: Mapping[str, Any]) -> bool:
        """Return whether a candidate is in this space: a narrower search ignores candidates outside its space."""
        space, (low, high) = self.space, self.space.learning_rate
        return (
            settings["rank"] in space.ranks
            and settings["alpha_over_rank"] in space.alpha_over_rank
            and low <= settings["learning_rate"] <= high
            and settings["num_steps"] in (space.num_steps or (self.experiment.lora.num_steps,))
            and settings["targets"] in space.targets
        )


def plan_search(
    experiment: Experiment, space: LoraSearch, records: Sequence[ImageRecord], judge: Step, others: Selection | None
) -> Search:
    """Return a search; with the objective KID, `others` are real images of patients LoRA is not trained on.

    Raises InputError if no image can be held out, as candidates could not be compared.
    """
    learned = lora_selection(experiment, records)
    heldout = heldout_selection(experiment, records, least=1)
    if not heldout.roles["heldout"]:
        rule = "compares candidates on held-out patients, and LoRA is trained on all patients"
        raise InputError(fault("search", "optuna", rule, "Lower --lora.images-per-plane, or give more images"))
    needs: dict[str, tuple[Step, ...]] = {"images": (learned.step,), "heldout": (heldout.step,)}
    selections = [learned, heldout]
    if others is not None:
        needs |= {"others": (others.step,), "judge": (judge,)}
        selections.append(others)
    return Search(experiment=experiment, space=space, needs=needs, selections=selections)
