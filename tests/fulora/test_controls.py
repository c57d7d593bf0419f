"""Controls change their regime in one respect: shares of planes, repeats, labels or where synthetic images are from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fulora.controls import CONTROLS, Controls, select_control_set
from fulora.data.records import ImageRecord
from fulora.data.regimes import RegimeSizes, TrainingSet, select_training_set
from fulora.planes import PLANES

SIZES = RegimeSizes(num_spanish=200, num_spanish_hybrid=50, num_synthetic=100)


def record(source: str, plane: str, number: int) -> ImageRecord:
    name = f"{source}/{plane}/{number:03d}"
    return ImageRecord(
        image_id=name, path="", source=source, plane=plane, patient_id="" if source == "synthetic" else name, centre="",
        machine=None, split="train", width_px=1, height_px=1, sha256=name, pixel_hash=name,
    )  # fmt: skip


NUMBERS = {"other": 84, "abdomen": 16, "brain": 50, "femur": 20, "thorax": 30}
"""Spanish images in about the published shares of the planes."""
RECORDS = [
    *(record("spanish", plane, number) for plane, num in NUMBERS.items() for number in range(num)),
    *(record("synthetic", plane.name, number) for plane in PLANES for number in range(20)),
]


def chosen(name: str, seed: int = 0) -> TrainingSet:
    return select_control_set(name, RECORDS, SIZES, seed=seed)


def counts(found: TrainingSet) -> Counter[tuple[str, str]]:
    return Counter((r.source, r.plane) for r in found.records)


def regime(name: str) -> TrainingSet:
    return select_training_set(name, RECORDS, SIZES, seed=0)


def test_hbs_shares_of_the_planes_with_as_many_images_as_es() -> None:
    found = chosen("hb_priors")
    assert counts(found) == {("spanish", plane.name): 40 for plane in PLANES}
    times = Counter(r.image_id for r in found.records)
    assert {times[r.image_id] for r in RECORDS if (r.source, r.plane) == ("spanish", "abdomen")} == {2, 3}, (
        "16 images fill 40 places evenly"
    )
    assert max(times[r.image_id] for r in RECORDS if r.plane == "other") == 1
    assert set(times) <= {r.image_id for r in regime("ES").records}


@pytest.mark.parametrize("name", ["class_weights", "logit_adjustment"])
def test_corrected_losses_train_on_es_itself(name: str) -> None:
    assert chosen(name).records == regime("ES").records and CONTROLS[name].balance == name


def test_hbs_real_images_alone_and_repeated_to_its_size() -> None:
    hybrid = [r for r in regime("HB").records if r.source == "spanish"]
    assert list(chosen("real_alone").records) == hybrid
    repeated = chosen("real_repeated")
    assert len(repeated.records) == len(regime("HB").records) == 150
    assert set(Counter(r.image_id for r in repeated.records).values()) == {3}
    assert {r.image_id for r in repeated.records} == {r.image_id for r in hybrid}


def test_synthetic_images_of_the_base_alone_and_by_shuffled_prompts() -> None:
    assert chosen("base_images").records == regime("HB").records and CONTROLS["base_images"].images == "base"
    alone = chosen("synthetic_only")
    assert (alone.num_es, alone.num_synthetic) == (0, 100)
    shuffled = chosen("shuffled_prompts")
    assert counts(shuffled) == counts(regime("HB")), "as many of each plane"
    drawn = {r.image_id: r.plane for r in RECORDS}
    own = {source: [r.plane == drawn[r.image_id] for r in shuffled.records if r.source == source]
           for source in ("spanish", "synthetic")}  # fmt: skip
    assert all(own["spanish"]) and 5 <= sum(own["synthetic"]) <= 40, "a fifth by chance"


def test_shuffled_labels_shuffle_all_and_follow_the_seed() -> None:
    found, again, other = chosen("shuffled_labels"), chosen("shuffled_labels"), chosen("shuffled_labels", seed=1)
    assert found == again != other and {r.image_id for r in found.records} == {r.image_id for r in regime("HB").records}
    assert Counter(r.plane for r in found.records) == Counter(r.plane for r in regime("HB").records)
    drawn = {r.image_id: r.plane for r in RECORDS}
    assert sum(r.plane == drawn[r.image_id] for r in found.records) < 60
    assert [name for name, control in CONTROLS.items() if control.negative] == ["shuffled_labels"]


def test_a_control_needs_the_rows_it_is_compared_with() -> None:
    every = Controls(names=tuple(CONTROLS))
    grid = {"models": ("ResNet18", "ViT b16"), "regimes": ("ES", "ES+DA", "HB", "HB+DA")}
    assert every.validate(**grid) == [] and Controls().validate(models=(), regimes=()) == []
    assert "ES+DA" in every.validate(**{**grid, "regimes": ("ES", "HB")})[0]
    assert replace(every, augment=False).validate(**{**grid, "regimes": ("ES", "HB")}) == []
    assert "grid.models" in replace(every, models=("DenseNet169",)).validate(**grid)[0]
    assert "is not one of hb_priors" in Controls(names=("luck",)).validate(**grid)[0]
    assert "duplicate" in Controls(names=("real_alone", "real_alone")).validate(**grid)[0]
