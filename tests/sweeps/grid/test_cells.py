"""Which trainings a grid has, which of them are one and the same, and which images each trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fulora import recipes
from fulora.data.records import ImageRecord
from fulora.data.regimes import REGIMES, RegimeSizes, select_test_images, select_training_set
from fulora.errors import InputError
from fulora.experiment import Amounts, Experiment
from fulora.planes import PLANES
from sweeps.core.paths import RunPaths
from sweeps.core.selections import read_selection
from sweeps.core.step import Step
from sweeps.grid.cells import scaling_sizes
from sweeps.grid.plan import disjoint_validation
from sweeps.images.sets import planned_records
from sweeps.ranks.plan import lora_selection
from sweeps.study import Plan, make_plan

from ..studies import made_up

SIZES = RegimeSizes(num_spanish=120, num_spanish_hybrid=40, num_synthetic=80)
RECORDS = [
    *(made_up("spanish", plane.name, number) for plane in PLANES for number in range(30)),
    *(made_up("african", plane.name, number) for plane in PLANES[1:] for number in range(5)),
    *(made_up("african", plane.name, number, "test") for plane in PLANES[1:] for number in range(5)),
]


def demo() -> Experiment:
    """Return the demo with one training a cell, and more numbers of synthetic images."""
    experiment = recipes.demo()
    amounts = Amounts(numbers=(0, 40, 80), shares=(0.0, 0.5, 1.0), total=40)
    return replace(experiment, grid=replace(experiment.grid, num_seeds=1), amounts=amounts)


def cells(experiment: Experiment, records: Sequence[ImageRecord] = RECORDS) -> list[Step]:
    return make_plan(experiment, records).cells


def sizes_of(cell: Step, experiment: Experiment) -> RegimeSizes:
    """Return the numbers of images that a cell asks for."""
    trial = cell.config
    if trial.in_tables:
        return experiment.sizes
    return replace(
        experiment.sizes, num_spanish_hybrid=trial.num_spanish_hybrid, num_synthetic=trial.num_synthetic
    )  # fmt: skip


def roles_of(cell: Step, plan: Plan) -> dict[str, list[ImageRecord]]:
    """Return the images of a cell by role."""
    (selection,) = [s for s in plan.selections if s.step == cell.need("images")]
    return {role: list(records) for role, records in selection.roles.items()}


def test_numbers_keep_the_real_images_and_shares_keep_the_total() -> None:
    amounts = Amounts(numbers=(0, 40, 80), shares=(0.0, 0.25, 0.5, 1.0), total=40)
    assert amounts.cells(SIZES) == [
        ("number", 40, 0), ("number", 40, 40), ("number", 40, 80),
        ("share", 40, 0), ("share", 30, 10), ("share", 20, 20), ("share", 0, 40),
    ]  # fmt: skip
    assert amounts.validate() == [] and Amounts().cells(SIZES) == []
    assert [text.split(":")[0] for text in Amounts(numbers=(5, 5), shares=(0.5,), total=7).validate()] == [
        "amounts.numbers", "amounts.total",
    ]  # fmt: skip


def test_a_training_set_is_planned_once_whoever_asks_for_it() -> None:
    experiment = demo()
    every, tables = cells(experiment), cells(replace(experiment, amounts=Amounts()))
    assert len({c.key for c in every}) == len(every) == len(tables) + 4
    assert {c.key for c in tables} < {c.key for c in every}
    asked = [c for c in every if (c.config.regime, c.config.classifier.model) == ("HB+DA", "ResNet18")]
    found = [[c for c in asked if sizes_of(c, experiment) == sizes] for sizes in scaling_sizes(experiment)]
    assert all(len(group) == 1 for group in found)
    assert found[0] == found[3], "no synthetic image beside 40 real ones, asked for as number and as share"
    assert found[2][0] in tables, "the cell of Table 1"
    assert found[2][0].config.in_tables and not found[0][0].config.in_tables
    assert found[5][0].label == "HB+DA, ResNet18, 0 real + 40 synthetic"


def test_other_numbers_are_other_trials_and_a_wider_question_keeps_the_old_ones() -> None:
    experiment = replace(demo(), amounts=Amounts(numbers=(0, 40)))
    wider = replace(experiment, amounts=Amounts(numbers=(0, 20, 40)))
    keys = [{c.key for c in cells(e)} for e in (experiment, wider)]
    assert keys[0] < keys[1] and len(keys[1] - keys[0]) == 1


def test_a_manifest_has_the_images_that_the_regime_selects(tmp_path: Path) -> None:
    experiment = replace(demo(), grid=replace(demo().grid, num_seeds=2, regimes=tuple(REGIMES)))
    plan, store = make_plan(experiment, RECORDS), RunPaths(tmp_path).store
    for selection in plan.selections:
        selection.write(store)
    synthetic = planned_records(plan.chosen)
    assert len(synthetic) == plan.chosen.num_images == 80
    for cell in plan.cells:
        chosen = select_training_set(
            cell.config.regime, [*RECORDS, *synthetic], sizes_of(cell, experiment), seed=experiment.seed
        )
        assert read_selection(store.folder(cell.need("images")), store.root) == {"train": list(chosen.records)}
        (test,) = read_selection(store.folder(cell.need("test")), store.root).values()
        assert test == select_test_images(RECORDS)
    of_regime = {(c.config.regime, c.config.num_synthetic): c.need("images").key for c in plan.cells}
    assert of_regime["ES", None] == of_regime["ES+DA", None] != of_regime["HB", None] == of_regime["HB+DA", None]
    assert len({c.key for c in plan.cells}) == len(plan.cells), "seeds share a manifest and are cells of their own"


def test_a_cell_needs_the_shards_of_its_images_and_no_other() -> None:
    experiment = demo()
    plan = make_plan(experiment, RECORDS)
    for cell in plan.cells:
        drawn = [r for r in roles_of(cell, plan)["train"] if r.source == "synthetic"]
        needed = {plan.chosen.step_of[r.image_id] for r in drawn}
        assert set(cell.in_role("shards")) == needed and bool(needed) == bool(sizes_of(cell, experiment).num_synthetic
            and REGIMES[cell.config.regime].synthetic)  # fmt: skip
    more = replace(experiment, sampling=replace(experiment.sampling, images_per_plane=16))
    keys = [{c.label: c.key for c in cells(e)} for e in (experiment, more)]
    changed = {label for label in keys[0] if keys[0][label] != keys[1][label]}
    assert changed == {c.label for c in plan.cells if c.in_role("shards")}, "others are drawn from the larger set"


def test_images_are_drawn_in_the_numbers_of_the_trial_and_a_larger_set_holds_the_smaller() -> None:
    plan, sets = make_plan(demo(), RECORDS), {}
    for cell in plan.cells:
        if cell.config.regime == "HB+DA" and cell.config.classifier.model == "ResNet18":
            training = roles_of(cell, plan)["train"]
            counts = tuple(sum(r.source == source for r in training) for source in ("spanish", "synthetic"))
            sets[counts] = {r.image_id for r in training}
    assert set(sets) == {(40, 0), (40, 40), (40, 80), (20, 20), (0, 40)}
    assert sets[40, 0] < sets[40, 40] < sets[40, 80]


def test_validation_images_are_set_aside_beside_every_training_set() -> None:
    experiment = demo()
    grid = replace(experiment.grid, num_validation=20, validation="patients", keep="best")
    experiment = replace(experiment, grid=grid)
    plan = make_plan(experiment, RECORDS)
    varied = [c for c in plan.cells if not c.config.in_tables]
    assert len(varied) == 5, "the cell of Table 1 gives images up for validation, so it is none of these"
    validated = set()
    for cell in varied:
        sizes, roles = sizes_of(cell, experiment), roles_of(cell, plan)
        training, validation = roles["train"], roles["validation"]
        assert len(training) == sizes.num_spanish_hybrid + sizes.num_synthetic
        assert len(validation) == 20
        assert not {r.patient_id for r in training} & {r.patient_id for r in validation}
        validated.add(tuple(r.image_id for r in validation))
    assert len(validated) == 1, "every one is validated alike"
    few = [r for r in RECORDS if r.source != "spanish" or int(r.image_id.rsplit("-", 1)[1]) < 8]
    assert disjoint_validation(experiment, few) == [], "all patients are trained on"


def test_one_validation_set_beside_every_training_set_and_loras_patients() -> None:
    grid = replace(demo().grid, num_validation=15, validation="beside", keep="best", models=("ResNet18",))
    experiment = replace(demo(), grid=grid, lora=replace(demo().lora, images_per_plane=5))
    plan = make_plan(experiment, RECORDS)
    learned = {r.patient_id for r in lora_selection(experiment, RECORDS).roles["train"]}
    validated = {tuple(r.patient_id for r in roles_of(cell, plan)["validation"]) for cell in plan.cells}
    assert len(validated) == 1 and len(held := set(*validated)) == 15 and not held & learned
    for cell in plan.cells:
        training = roles_of(cell, plan)["train"]
        assert not held & {r.patient_id for r in training}
        if REGIMES[cell.config.regime].synthetic:
            sizes = sizes_of(cell, experiment)
            assert len(training) == sizes.num_spanish_hybrid + sizes.num_synthetic, "none is given up for validation"
    every = replace(experiment, lora=replace(experiment.lora, images_per_plane=30))
    with pytest.raises(InputError, match="no Spanish patient that LoRA is not trained on"):
        make_plan(every, RECORDS)


def test_a_cell_of_the_tables_gives_up_its_validation_images_and_another_seed_gives_up_others() -> None:
    grid = replace(demo().grid, num_validation=20, num_seeds=2, models=("ResNet18",), table2_regimes=())
    plan = make_plan(replace(demo(), grid=grid, amounts=Amounts()), RECORDS)
    for regime in grid.regimes:
        mine = [c for c in plan.cells if c.config.regime == regime]
        first, second = ({role: [r.image_id for r in rs] for role, rs in roles_of(c, plan).items()} for c in mine)
        for roles in (first, second):
            assert len(roles["validation"]) == 20 and not {*roles["train"]} & {*roles["validation"]}
        assert sorted(first["train"] + first["validation"]) == sorted(second["train"] + second["validation"])
        assert first["validation"] != second["validation"]


def test_starting_weights_are_known_by_what_they_are_not_by_where_they_lie(tmp_path: Path) -> None:
    def keys(folder: Path) -> list[str]:
        grid = replace(demo().grid, weights=folder, models=("ResNet18",), table2_regimes=())
        return [c.key for c in cells(replace(demo(), grid=grid, amounts=Amounts()))]

    for name, content in (("one", b"a"), ("two", b"a"), ("three", b"b"), ("none", b"")):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "resnet18.tv_in1k.safetensors").write_bytes(content)
    assert keys(tmp_path / "one") == keys(tmp_path / "two")
    assert not set(keys(tmp_path / "one")) & {*keys(tmp_path / "three"), *keys(tmp_path / "none")}


def test_validation_images_of_patients_who_are_trained_on_are_said() -> None:
    frames = [replace(r, patient_id=r.patient_id.rsplit("-", 1)[0]) if r.source == "spanish" else r for r in RECORDS]
    experiment = replace(demo(), amounts=Amounts())
    images = replace(experiment, grid=replace(experiment.grid, num_validation=10))
    patients = replace(images, grid=replace(images.grid, validation="patients"))

    def notes(experiment: Experiment, records: Sequence[ImageRecord]) -> list[str]:
        return [n for s in make_plan(experiment, records).selections if s.label == "images of ES" for n in s.notes]

    (note,) = notes(images, frames)
    assert note.startswith("ES: 5 of 5 validation patients are training patients too")
    assert notes(patients, RECORDS) == []
