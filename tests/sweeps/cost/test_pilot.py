"""A pilot: the study in small, whose real steps measure every work that the study itself has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fulora.experiment import Experiment
from fulora.recipes import demo, paper
from sweeps.cost.assumed import assumed_records
from sweeps.cost.estimate import cost_of, counts_of, steps_of
from sweeps.cost.work import work_of
from sweeps.engine.options import ClusterOptions
from sweeps.engine.resources import Cluster
from sweeps.pilot import measure, small
from sweeps.study import make_plan


@pytest.mark.parametrize("recipe", [demo, paper])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_study_in_small_is_valid_and_has_works_of_the_same_settings(
    recipe: Callable[[], Experiment], on_gpu: bool
) -> None:
    study = recipe()
    pilot = small(study, on_gpu=on_gpu)
    assert pilot.validate() == []
    plans = [make_plan(one, assumed_records(one)) for one in (study, pilot)]
    whole, few = ([work_of(step, counts_of(plan)) for step in plan.trials] for plan in plans)
    assert all(any(work.settings == other.settings for other in few) for work in whole)
    assert len(plans[1].chosen.steps) == 5 < len(plans[0].chosen.steps)


@pytest.mark.slow
def test_a_pilot_measures_every_work_of_the_study(mini_experiment: Experiment) -> None:
    said: list[str] = []
    found = measure(mini_experiment, ClusterOptions(executor="process", device="cpu"), said.append)
    assert said == [] and found.source == "pilot" and found.at_once == 1
    plan = make_plan(mini_experiment, assumed_records(mini_experiment))
    alone = Cluster(num_cpus=1, num_gpus=0, num_nodes=1)
    cost = cost_of(steps_of(plan), counts_of(plan), alone, here=[found], device=found.device)
    assert [stage.not_measured for stage in cost.stages] == [()] * 5
    assert [stage.not_sized for stage in cost.stages] == [()] * 5
    assert cost.seconds and not cost.at_least
