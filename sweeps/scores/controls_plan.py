"""The step that compares controls, and regimes by centre.

In: an experiment and the trainings that are done. Out: a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulora.controls import Controls
from fulora.experiment import Experiment
from sweeps.core.step import Kind, Step

CONTROL_SCORES = Kind(name="control_scores", stage="grid", work="sweeps.scores.controls:write_controls")


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlScoresConfig:
    """Which controls are compared, and the models of Table 1."""

    controls: Controls
    models: tuple[str, ...]
    seed: int


def controls_step(experiment: Experiment, cells: Sequence[Step], catalog: Step) -> Step:
    """Return the step that compares controls with ES and HB, and both by centre."""
    config = ControlScoresConfig(
        controls=experiment.controls, models=experiment.grid.models, seed=experiment.seed
    )  # fmt: skip
    needs = {"cells": tuple(cells), "catalog": (catalog,)}
    return Step(kind=CONTROL_SCORES, label="controls and centres", config=config, needs=needs, cost=15.0)
