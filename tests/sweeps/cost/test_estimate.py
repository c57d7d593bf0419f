"""What a study costs by speeds that are known: works, hours, storage, wall time, money, and what is not known."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from fulora.experiment import Experiment
from fulora.recipes import demo, paper
from sweeps.console.cost import print_cost, to_json
from sweeps.core.step import Step
from sweeps.cost.assumed import assumed_records
from sweeps.cost.estimate import StudyCost, cost_of, counts_of, steps_of
from sweeps.cost.speeds import Machine, Speed
from sweeps.cost.work import Counts, work_of
from sweeps.engine.resources import Cluster
from sweeps.study import Plan, make_plan

ON_GPU = Cluster(num_cpus=16, num_gpus=2, num_nodes=1)


def study(**lora: bool) -> Experiment:
    """Return the demo with a grid of 13 cells, whatever its recipe asks for."""
    experiment = demo()
    models = ("MobileNet v2", "ResNet18")
    return replace(
        experiment,
        lora=replace(experiment.lora, **lora),
        grid=replace(experiment.grid, models=models, table2_model="ResNet18", num_seeds=1, epochs=2, num_steps=None),
        amounts=replace(experiment.amounts, numbers=(0, 40), shares=(0.0, 0.5), total=40),
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    experiment = study()
    return make_plan(experiment, assumed_records(experiment))


@pytest.fixture(scope="module")
def counts(plan: Plan) -> Counts:
    return counts_of(plan)


def machine(steps: Sequence[Step], counts: Counts, *, but: tuple[str, ...] = (), **speed: float) -> Machine:
    """Return a machine on which every unit of every work takes a hundredth of a second."""
    works = [work_of(step, counts) for step in steps if step.kind.name not in but]
    given = {"seconds_per_unit": 0.01, "bytes_per_item": 1000.0, **speed}
    speeds = tuple(Speed(what=w.what, unit=w.unit, settings=w.settings, **given) for w in works)
    return Machine(device="Card 9000", source="kept", measured_at="2026-11-25T12:00:00+00:00", speeds=speeds)


def cost(plan: Plan, counts: Counts, card: Machine, cluster: Cluster = ON_GPU, **known: float) -> StudyCost:
    return cost_of(steps_of(plan), counts, cluster, here=[card], device="Card", **known)  # type: ignore[arg-type]


def test_works_differ_by_what_decides_the_time_of_a_unit_alone(plan: Plan, counts: Counts) -> None:
    cells = {cell.label: work_of(cell, counts) for cell in plan.cells}
    es, hb, augmented = cells["ES, ResNet18"], cells["HB, ResNet18"], cells["ES+DA, ResNet18"]
    assert es.settings == hb.settings != augmented.settings
    test = 160
    assert es.units == pytest.approx(120 * 2 + (120 + test) / 3) and es.items == test
    ranks = [work_of(step, counts) for step in plan.ranks]
    assert [w.units for w in ranks] == [440] * 3 and [w.settings["rank"] for w in ranks] == [8, 32, 128]
    shards = {work_of(step, counts).units for which in plan.sets for step in which.steps}
    assert shards == {8.0}
    (pixels, drawn) = (work_of(step, counts) for step in plan.pixels)
    assert drawn.items == 80 and pixels.items >= 120 + 160


def test_ranks_trained_in_one_pass_count_once() -> None:
    experiment = study(together=True)
    found = make_plan(experiment, assumed_records(experiment))
    works = [work_of(step, counts_of(found)) for step in steps_of(found) if step.kind.stage == "lora"]
    assert [w.units for w in works if w.unit == "optimizer step"] == [440]
    assert sum(w.unit == "files taken over" for w in works) == 3


def test_hours_storage_and_money_are_sums_over_the_steps(plan: Plan, counts: Counts) -> None:
    card = machine(steps_of(plan), counts)
    found = cost(plan, counts, card, price=3.0)
    units = {s.stage: 0.0 for s in found.stages}
    for step in steps_of(plan):
        if step.kind.runs_on == "gpu":
            units[step.kind.stage] += work_of(step, counts).units
    for stage in found.stages:
        assert stage.gpu_hours == pytest.approx(units[stage.stage] * 0.01 / 3600), stage.stage
        assert stage.not_measured == () and (not stage.sources or stage.sources == ("kept",))
    by_stage = {stage.stage: stage for stage in found.stages}
    assert (by_stage["lora"].num_trials, by_stage["grid"].num_trials, by_stage["sample"].num_images) == (4, 13, 320)
    assert by_stage["lora"].storage_bytes == 4 * 1000, "three adapters and the judge"
    assert found.seconds is not None and found.bound_seconds is not None and not found.at_least
    assert found.bound_seconds <= found.seconds <= 1.5 * found.bound_seconds
    assert found.rented == pytest.approx(3.0 * 2 * found.seconds / 3600)
    assert found.used == pytest.approx(3.0 * sum(units.values()) * 0.01 / 3600) and found.used < found.rented


def test_more_gpus_take_less_time_and_the_same_gpu_hours(plan: Plan, counts: Counts) -> None:
    card = machine(steps_of(plan), counts)
    one, eight = (cost(plan, counts, card, replace(ON_GPU, num_gpus=n, num_cpus=8 * n)) for n in (1, 8))
    assert one.gpu_hours == pytest.approx(eight.gpu_hours) and one.seconds and eight.seconds
    assert one.seconds / eight.seconds > 2
    starts = cost(plan, counts, machine(steps_of(plan), counts, start_seconds=50.0))
    assert starts.seconds and one.seconds and starts.seconds > one.seconds, "a shard's start counts once for an actor"


def test_trials_that_share_a_gpu_take_turns(plan: Plan, counts: Counts) -> None:
    card = machine(steps_of(plan), counts)
    whole, halves = (cost(plan, counts, card, replace(ON_GPU, gpus_per_trial=share)) for share in (1.0, 0.5))
    assert whole.gpu_hours == pytest.approx(halves.gpu_hours) and whole.seconds and halves.seconds
    assert halves.seconds >= whole.seconds, "no gain is made up"


def test_what_is_not_measured_is_named_and_never_guessed(plan: Plan, counts: Counts) -> None:
    steps = steps_of(plan)
    without_report = cost(plan, counts, machine(steps, counts, but=("report",)), price=1.0)
    assert without_report.at_least and without_report.seconds and without_report.gpu_hours
    assert without_report.stages[-1].not_measured == ("report",) and without_report.stages[-1].cpu_hours is None
    without_lora = cost(plan, counts, machine(steps, counts, but=("lora",)), price=1.0)
    lora = without_lora.stages[1]
    assert (lora.gpu_hours, lora.not_measured, lora.not_sized) == (None, ("lora",), ("lora",))
    assert lora.storage_bytes == 1000, "the judge's"
    assert [without_lora.seconds, without_lora.gpu_hours, without_lora.rented, without_lora.used] == [None] * 4
    assert without_lora.stages[3].gpu_hours, "what is known is said"


def test_a_speed_of_other_settings_does_not_count(plan: Plan, counts: Counts) -> None:
    card = machine(steps_of(plan), counts)
    larger = study()
    larger = replace(larger, lora=replace(larger.lora, batch_size=32))
    other = make_plan(larger, assumed_records(larger))
    found = cost(other, counts_of(other), card)
    assert found.stages[1].not_measured == ("lora",) and found.seconds is None


def test_the_papers_numbers_are_expected_before_there_is_data() -> None:
    experiment = paper()
    found = make_plan(experiment, assumed_records(experiment))
    counts = counts_of(found)
    cells = {cell.label: counts(cell.need("images")) for cell in found.cells}
    assert cells["ES, ResNet18"] == {"train": 6148 - 200, "validation": 200}
    assert sum(cells["HB, ResNet18"].values()) == 1150 + 5000
    assert sum(counts(found.cells[0].need("test")).values()) == 233
    assert counts(found.ranks[0].need("images")) == {"train": 100}
    nothing = cost_of(steps_of(found), counts, ON_GPU, here=[], device="Card")
    by_stage = {stage.stage: stage for stage in nothing.stages}
    assert by_stage["sample"].storage_bytes == pytest.approx(8000 * 512**2 * 1.5), "PNG files, by the benchmark"
    assert "pixels" not in by_stage["grid"].not_sized and by_stage["grid"].storage_bytes > 10_000 * 512**2 * 3


def test_the_text_fits_and_names_every_source(plan: Plan, counts: Counts) -> None:
    card = machine(steps_of(plan), counts)
    out = io.StringIO()
    print_cost(cost(plan, counts, card, price=3.0, num_done=7), Console(file=out, width=80, highlight=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(line.split()) for line in lines)
    assert "on 2 x Card" in text and "7 steps are done already" in text and "not measured" not in text
    assert "kept: measured on Card 9000, 2026-11-25" in text
    assert re.search(r"wall time: \d+:\d\d \(", text) and "for 2 GPUs from beginning to end" in text
    (whole,) = (line.split() for line in lines if line.startswith("all"))
    assert whole[1:3] == ["17", "320"] and "unknown" not in whole


def test_json_holds_the_same(plan: Plan, counts: Counts) -> None:
    known = cost(plan, counts, machine(steps_of(plan), counts), price=3.0)
    found = json.loads(to_json(known))
    assert found["money_rented"] == known.rented and found["wall_seconds"] == known.seconds
    assert [stage["gpu_hours"] for stage in found["stages"]] == [stage.gpu_hours for stage in known.stages]
    assert found["sources"] == [{"source": "kept", "about": "measured on Card 9000, 2026-11-25"}]
