"""Replicates repeat the whole pipeline: what they draw anew, what they share, and that the first stays as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fulora.experiment import Amounts, Experiment
from fulora.planes import PLANES
from fulora.recipes import RECIPES, demo, fixed
from fulora.replicates import of_replicate
from sweeps.console.status import print_plan
from sweeps.core.attempts import flat_config
from sweeps.core.hashing import identity
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step, closure
from sweeps.core.tables import read_rows
from sweeps.run import save_plan
from sweeps.study import Plan, make_plan

from .mini import go
from .studies import made_up

RECORDS = [
    *(made_up("spanish", plane.name, number) for plane in PLANES for number in range(60)),
    *(made_up("african", plane.name, number) for plane in PLANES[1:] for number in range(5)),
    *(made_up("african", plane.name, number, "test") for plane in PLANES[1:] for number in range(5)),
]
ONE = replace(demo(), replicates=1, grid=replace(demo().grid, num_seeds=2, models=("ResNet18",)))
THREE = replace(ONE, replicates=3)


def keys(steps: list[Step]) -> set[str]:
    return {step.key for step in steps}


def images_of(step: Step, plan: Plan, role: str = "train") -> set[str]:
    """Return the ids of the images that a step names."""
    selection = next(s for s in plan.selections if s.step == step.need("images"))
    return {r.image_id for r in selection.roles[role]}


@pytest.fixture(scope="module")
def three() -> Plan:
    return make_plan(THREE, RECORDS)


@pytest.mark.parametrize("recipe", [demo, fixed])
def test_the_first_replicate_keeps_every_key_however_many_there_are(recipe) -> None:
    small = replace(recipe(), sampling=replace(demo().sampling, rank=128))
    one, more = (make_plan(replace(small, replicates=number), RECORDS) for number in (1, 3))
    summed = {"pixels", "selection"}  # the store of real images holds those of all
    first = {step.key for step in closure(one.targets("report")) if step.kind.name not in summed}
    assert first < {step.key for step in closure(more.targets("report"))}
    assert keys([c for c in more.cells if c.config.replicate == 0]) == keys(one.cells)
    assert not any("replicate" in identity(step.config) for step in more.trials), "the seed tells them apart"
    assert len(more.cells) == 3 * len(one.cells) and len(keys(more.cells)) == len(more.cells)


def test_a_replicate_draws_everything_anew_but_the_test_images_the_judge_and_the_ranks(three: Plan) -> None:
    per_replicate = len(three.cells) // 3
    groups = [three.cells[n * per_replicate :][:per_replicate] for n in range(3)]
    assert [{c.config.replicate for c in group} for group in groups] == [{0}, {1}, {2}]
    for first, *others in zip(*groups):
        assert len({c.config.seed for c in (first, *others)}) == 3
        assert {c.need("test") for c in others} == {first.need("test")}
        assert all((c.config.regime, c.config.seed_index) == (first.config.regime, first.config.seed_index)
                   for c in others)  # fmt: skip
        if first.config.regime in ("ES", "HB"):
            assert len({frozenset(images_of(c, three)) for c in (first, *others)}) == 3
    adapters = [next(s for s in three.ranks if s.config.lora.rank == 128), *(r.adapter for r in three.replicates)]
    assert len(three.ranks) == 3 and {s.config.lora.rank for s in adapters} == {128}
    assert len({s.config.seed for s in adapters}) == len({frozenset(images_of(s, three)) for s in adapters}) == 3
    sets = [three.chosen, *(r.images for r in three.replicates)]
    assert {s.num_images for s in sets} == {80} and len({row.seed for s in sets for row in s.rows()}) == 3 * 80
    hybrid = [group[-1] for group in groups]
    for cell, audit, which in zip(hybrid, [three.audit, *(r.audit for r in three.replicates)], sets):
        assert set(cell.in_role("shards")) <= set(which.steps) == set(audit.in_role("images"))


def test_regimes_without_synthetic_images_are_trained_anew_on_all_there_is() -> None:
    """All images of ES are taken in `fixed`: then its replicates differ in their seeds."""
    every = replace(THREE, sizes=replace(THREE.sizes, num_spanish=300))
    plan = make_plan(every, RECORDS)
    es = [c for c in plan.cells if c.config.regime == "ES" and c.config.classifier.model == "ResNet18"]
    assert len({c.need("images") for c in es}) == 1 and len(images_of(es[0], plan)) == 300
    assert len(keys(es)) == len({c.config.seed for c in es}) == 3 * 2


def test_labels_configurations_and_the_plan_name_the_replicate(three: Plan, tmp_path: Path) -> None:
    assert three.cells[0].label == "ES, ResNet18, replicate 0, seed 0"
    assert [r.adapter.label for r in three.replicates] == ["rank 128, replicate 1", "rank 128, replicate 2"]
    assert flat_config(three.cells[-1])["replicate"] == flat_config(three.replicates[1].adapter)["replicate"] == 2
    paths = RunPaths(tmp_path)
    save_plan(three, paths)
    plan = json.loads(paths.plan.read_text())
    assert {t["config"].get("replicate", 0) for t in plan["trials"]} == {0, 1, 2}
    assert {"replicate-1", "replicate-2"} < {i["label"] for i in plan["images"]}
    assert keys(closure(three.targets("report"))) == {s["key"] for s in plan["steps"]}


def test_the_endpoint_and_its_power_are_recorded_before_anything_runs(tmp_path: Path) -> None:
    found = []
    for experiment in (ONE, THREE, replace(THREE, grid=replace(THREE.grid, num_seeds=1, regimes=("ES", "HB")))):
        save_plan(make_plan(experiment, RECORDS), RunPaths(tmp_path))
        found.append(json.loads((tmp_path / "plan.json").read_text())["endpoint"])
    assert {e["words"] for e in found} == {"difference of balanced accuracy, HB+DA against ES+DA"}
    assert [e["in_grid"] for e in found] == [True, True, False]
    seeds, three, _ = (e["smallest_difference"] for e in found)
    assert seeds > three > 5, "two seeds have one degree of freedom, three replicates two"
    alone = replace(ONE, grid=replace(ONE.grid, num_seeds=1))
    save_plan(make_plan(alone, RECORDS), RunPaths(tmp_path))
    assert json.loads((tmp_path / "plan.json").read_text())["endpoint"]["smallest_difference"] is None


def test_recipes_repeat_what_they_say() -> None:
    found = {name: (recipe().replicates, recipe().grid.num_seeds) for name, recipe in RECIPES.items()}
    assert found["fixed"] == (3, 3) and found["paper"] == found["repo"] == (1, 1)
    assert any("replicates" in text for text in replace(demo(), replicates=0).validate())
    assert of_replicate(THREE, 0) is THREE and of_replicate(THREE, 1).seed != THREE.seed


def test_a_run_of_two_replicates_reuses_the_first(copied: RunPaths, mini_experiment: Experiment) -> None:
    few = replace(
        mini_experiment, amounts=Amounts(), replicates=2,
        grid=replace(mini_experiment.grid, models=("MobileNet v2",), table2_regimes=()),
    )  # fmt: skip
    before = set(copied.root.glob("steps/grid/*"))
    assert go(few, copied) == []
    new = [r for r in read_rows(copied.trials, "trials") if r["config_replicate"] == 1]
    assert [r["stage"] for r in new] == ["lora"] + ["grid"] * 4
    assert len(set(copied.root.glob("steps/grid/*")) - before) == 4
    assert (copied.adapters / "replicate-1").is_dir() and (copied.images("replicate-1") / "metadata.parquet").is_file()
    for row in read_rows(copied.table("table1"), "table1"):
        assert (row["num_replicates"], row["num_trainings"]) == (2, 2)
        assert row["covers"] == "patients, replicates and seeds"


def test_the_plan_lists_replicates_before_there_is_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(replace(ONE, replicates=2), tmp_path / "run")
    out = capsys.readouterr().out
    for text in (
        "rank 128, replicate 1",
        "replicate-1: 80 images",
        "HB, ResNet18, replicate 1, seed 1",
        "4 rank trials",
    ):
        assert text in out, text
    assert "replicate 2" not in out
