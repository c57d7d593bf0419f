"""How many synthetic images help: which trainings are asked for, and which of them are there already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fulora.data.records import ImageRecord
from fulora.data.regimes import RegimeSizes
from fulora.experiment import Amounts
from fulora.planes import PLANES
from fulora.recipes import demo
from sweeps.experiment import make_plan
from sweeps.grid_plan import amount_sizes, sizes_of, split_of, training_set, validation_beside, validation_notes

SIZES = RegimeSizes(num_spanish=120, num_spanish_hybrid=40, num_synthetic=80)


def record(source: str, plane: str, number: int, split: str = "train") -> ImageRecord:
    name = f"{source}/{split}-{plane}-{number}"
    return ImageRecord(
        image_id=name, path="", source=source, plane=plane, patient_id=name, centre="", machine=None, split=split,
        width_px=1, height_px=1, sha256=name, pixel_hash=name,
    )  # fmt: skip


RECORDS = [
    *(record("spanish", plane.name, number) for plane in PLANES for number in range(30)),
    *(record("african", plane.name, number) for plane in PLANES[1:] for number in range(5)),
    *(record("african", plane.name, number, "test") for plane in PLANES[1:] for number in range(5)),
]


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
    trials = make_plan(experiment, RECORDS).grid
    plain = make_plan(replace(experiment, amounts=Amounts()), RECORDS).grid
    assert len({t.trial_id for t in trials}) == len(trials) == len(plain) + 4
    assert {t.trial_id for t in plain} < {t.trial_id for t in trials}
    asked = [t for t in trials if (t.config["regime"], t.config["model"]) == ("HB+DA", "ResNet18")]
    found = [[t for t in asked if sizes_of(t, experiment) == sizes] for sizes in amount_sizes(experiment)]
    assert all(len(group) == 1 for group in found)
    assert found[0] == found[3], "no synthetic image beside 40 real ones, asked for as number and as share"
    assert found[2][0] in plain, "the cell of Table 1"
    assert "num_synthetic" not in found[2][0].config
    assert found[5][0].label == "HB+DA, ResNet18, 0 real + 40 synthetic"


def test_other_numbers_are_other_trials_and_a_wider_question_keeps_the_old_ones() -> None:
    experiment = replace(demo(), amounts=Amounts(numbers=(0, 40)))
    wider = replace(experiment, amounts=Amounts(numbers=(0, 20, 40)))
    ids = [{t.trial_id for t in make_plan(e, RECORDS).grid} for e in (experiment, wider)]
    assert ids[0] < ids[1] and len(ids[1] - ids[0]) == 1


def test_validation_images_are_set_aside_beside_every_training_set() -> None:
    experiment = demo()
    grid = replace(experiment.grid, num_validation=20, validation="patients", keep="best")
    experiment = replace(experiment, grid=grid)
    synthetic = [record("synthetic", plane.name, number) for plane in PLANES for number in range(20)]
    images = [*RECORDS, *synthetic]
    trials = [t for t in make_plan(experiment, RECORDS).grid if "num_synthetic" in t.config]
    assert len(trials) == 5, "the cell of Table 1 gives images up for validation, so it is none of these"
    validated = set()
    for trial in trials:
        sizes = sizes_of(trial, experiment)
        chosen = training_set(experiment, "HB+DA", images, sizes)
        training, validation = split_of(trial, experiment, images, chosen)
        assert len(training) == sizes.num_spanish_hybrid + sizes.num_synthetic
        assert len(validation) == 20
        assert not {r.patient_id for r in training} & {r.patient_id for r in validation}
        validated.add(tuple(r.image_id for r in validation))
    assert len(validated) == 1, "every one is validated alike"
    few = [r for r in RECORDS if r.source != "spanish" or int(r.image_id.rsplit("-", 1)[1]) < 8]
    assert validation_beside(experiment, few) == [], "all patients are trained on"


def test_starting_weights_are_known_by_what_they_are_not_by_where_they_lie(tmp_path: Path) -> None:
    def ids(folder: Path) -> list[str]:
        grid = replace(demo().grid, weights=folder, models=("ResNet18",), table2_regimes=())
        return [t.trial_id for t in make_plan(replace(demo(), grid=grid, amounts=Amounts()), RECORDS).grid]

    for name, content in (("one", b"a"), ("two", b"a"), ("three", b"b"), ("none", b"")):
        (tmp_path / name).mkdir()
        if content:
            (tmp_path / name / "resnet18.tv_in1k.safetensors").write_bytes(content)
    assert ids(tmp_path / "one") == ids(tmp_path / "two")
    assert not set(ids(tmp_path / "one")) & {*ids(tmp_path / "three"), *ids(tmp_path / "none")}


def test_images_are_drawn_in_the_numbers_of_the_trial_and_a_larger_set_holds_the_smaller() -> None:
    experiment = demo()
    trials = make_plan(experiment, RECORDS).grid
    synthetic = [record("synthetic", plane.name, number) for plane in PLANES for number in range(20)]
    sets = {}
    for trial in trials:
        if trial.config["regime"] == "HB+DA" and trial.config["model"] == "ResNet18":
            chosen = training_set(experiment, "HB+DA", [*RECORDS, *synthetic], sizes_of(trial, experiment))
            sets[chosen.num_es, chosen.num_synthetic] = {r.image_id for r in chosen.records}
    assert set(sets) == {(40, 0), (40, 40), (40, 80), (20, 20), (0, 40)}
    assert sets[40, 0] < sets[40, 40] < sets[40, 80]


def test_validation_images_of_patients_who_are_trained_on_are_said() -> None:
    frames = [replace(r, patient_id=r.patient_id.rsplit("-", 1)[0]) if r.source == "spanish" else r for r in RECORDS]
    experiment = replace(demo(), amounts=Amounts())
    images = replace(experiment, grid=replace(experiment.grid, num_validation=10))
    patients = replace(images, grid=replace(images.grid, validation="patients"))
    notes = validation_notes([t for t in make_plan(images, frames).grid if t.config["regime"] == "ES"], frames, images)
    (note,) = notes
    assert note.startswith("ES: 5 of 5 validation patients are trained on too")
    trials = [t for t in make_plan(patients, RECORDS).grid if t.config["regime"] == "ES"]
    assert validation_notes(trials, RECORDS, patients) == []
