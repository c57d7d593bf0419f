"""The regimes of Tables 1 and 2 and the images of LoRA, on records without files."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from fulora.data.records import ImageRecord
from fulora.data.regimes import (
    HYBRIDS,
    REGIMES,
    TABLE1_REGIMES,
    TABLE2_REGIMES,
    Regime,
    RegimeSizes,
    select_lora_images,
    select_training_set,
    split_validation,
)
from fulora.errors import InputError
from fulora.experiment import Grid
from fulora.planes import PLANES

SIZES = RegimeSizes(num_spanish=200, num_spanish_hybrid=50, num_synthetic=100)


def make(source: str, per_plane: int, *, split: str = "train", start: int = 0) -> list[ImageRecord]:
    return [
        ImageRecord(
            image_id=f"{source}/{split}/{plane.name}/{number:04d}",
            path="",
            source=source,
            plane=plane.name,
            patient_id="" if source == "synthetic" else f"{source}/{split}/{number // 2}",
            centre="",
            machine=None,
            split=split,
            width_px=1,
            height_px=1,
            sha256="",
            pixel_hash="",
        )
        for plane in PLANES
        for number in range(start, start + per_plane)
    ]


CATALOG = [
    *make("spanish", 60),
    *make("spanish", 20, split="test"),
    *make("african", 10),
    *make("african", 12, split="test"),
    *make("synthetic", 40),
]


@pytest.mark.parametrize(
    ("regime", "num_es", "num_af", "num_synthetic"),
    [
        ("ES", 200, 0, 0),
        ("ES+DA", 200, 0, 0),
        ("HB", 50, 0, 100),
        ("HB+DA", 50, 0, 100),
        ("AF", 0, 50, 0),
        ("ES+AF", 200, 50, 0),
        ("HB full", 200, 0, 100),
        ("HB full+DA", 200, 0, 100),
        ("SYN->ES", 200, 0, 100),
        ("SYN->ES+DA", 200, 0, 100),
    ],
)
def test_every_regime(regime: str, num_es: int, num_af: int, num_synthetic: int) -> None:
    chosen = select_training_set(regime, CATALOG, SIZES, seed=0)
    assert (chosen.num_es, chosen.num_af, chosen.num_synthetic) == (num_es, num_af, num_synthetic)
    assert chosen.regime == regime
    assert chosen.notes == ()
    assert {record.split for record in chosen.records} == {"train"}
    assert len({record.image_id for record in chosen.records}) == len(chosen.records)
    assert chosen.num_patients == len({r.patient_id for r in chosen.records if r.source != "synthetic"})
    assert (chosen.num_patients > 0) == (num_es + num_af > 0)


def test_the_tables_regimes_are_all_there_is() -> None:
    ours = {"SYN->ES", "SYN->ES+DA"}
    assert set(TABLE1_REGIMES) | set(TABLE2_REGIMES) | set(HYBRIDS) | ours == set(REGIMES)
    assert all(regime.augment == name.endswith("+DA") for name, regime in REGIMES.items())
    assert {name for name, regime in REGIMES.items() if regime.synthetic_first} == ours


def test_hybrid_is_balanced() -> None:
    chosen = select_training_set("HB", CATALOG, SIZES, seed=3)
    counts = Counter((record.source, record.plane) for record in chosen.records)
    assert {counts["spanish", plane.name] for plane in PLANES} == {10}
    assert {counts["synthetic", plane.name] for plane in PLANES} == {20}


@pytest.mark.parametrize("regime", sorted(REGIMES))
def test_order_and_other_rows_do_not_matter_seed_does(regime: str) -> None:
    chosen = select_training_set(regime, CATALOG, SIZES, seed=0)
    shuffled = random.Random(1).sample(CATALOG, len(CATALOG))
    assert select_training_set(regime, shuffled, SIZES, seed=0) == chosen
    fewer = [record for record in CATALOG if record.split == "train"]
    assert select_training_set(regime, fewer, SIZES, seed=0) == chosen
    other = select_training_set(regime, CATALOG, SIZES, seed=1)
    assert (other.records == chosen.records) == (regime == "AF")  # AF takes all there are


def test_regimes_share_their_images_so_that_rows_compare() -> None:
    chosen = {name: select_training_set(name, CATALOG, SIZES, seed=0) for name in REGIMES}
    assert chosen["ES"].records == chosen["ES+DA"].records == chosen["ES+AF"].records[:200]
    assert chosen["HB"].records == chosen["HB+DA"].records
    assert chosen["AF"].records == chosen["ES+AF"].records[200:]


def test_fewer_than_asked_for_takes_all_and_says_so() -> None:
    few = [*make("spanish", 20), *make("synthetic", 50)]
    chosen = select_training_set("ES", few, RegimeSizes(), seed=0)
    assert chosen.num_es == 100
    assert chosen.notes == ("ES asks for 6148 Spanish images; there are 100, all are taken",)
    chosen = select_training_set("HB", few, RegimeSizes(), seed=0)
    assert (chosen.num_es, chosen.num_synthetic) == (100, 250)
    assert chosen.notes == (
        "HB asks for 1150 Spanish images, 230 of each plane; there are 100, all are taken",
        "HB asks for 5000 synthetic images, 1000 of each plane; there are 250, all are taken",
    )


def test_one_short_plane_is_named() -> None:
    cut = {f"spanish/train/femur/{number:04d}" for number in range(5, 60)}
    few = [record for record in CATALOG if record.image_id not in cut]
    chosen = select_training_set("HB", few, SIZES, seed=0)
    assert chosen.num_es == 45
    assert chosen.notes == ("HB asks for 50 Spanish images, 10 of each plane; 45 are taken, there are only femur 5",)


def test_exactly_enough_is_no_note() -> None:
    exact = replace(SIZES, num_spanish=300, num_spanish_hybrid=300, num_synthetic=200)
    assert select_training_set("ES", CATALOG, exact, seed=0).notes == ()
    assert select_training_set("HB", CATALOG, exact, seed=0).notes == ()


@pytest.mark.parametrize(
    ("regime", "missing"),
    [("ES", "spanish"), ("HB", "spanish"), ("HB", "synthetic"), ("AF", "african"), ("ES+AF", "african")],
)
def test_a_regime_whose_source_is_not_there(regime: str, missing: str) -> None:
    left = [record for record in CATALOG if record.source != missing or record.split == "test"]
    with pytest.raises(InputError, match=f"{regime.replace('+', '.')}.*needs {missing} training images"):
        select_training_set(regime, left, SIZES, seed=0)


def test_bad_regime_sizes_and_catalog() -> None:
    with pytest.raises(InputError, match=r"ES, ES.DA, HB, HB.DA, AF, ES.AF"):
        select_training_set("XX", CATALOG, SIZES, seed=0)
    bad = RegimeSizes(num_spanish=0, num_spanish_hybrid=7, num_synthetic=-5)
    assert len(bad.validate()) == 3
    with pytest.raises(InputError) as caught:
        select_training_set("ES", CATALOG, bad, seed=0)
    assert len(caught.value.faults) == 3
    assert RegimeSizes().validate() == []
    with pytest.raises(InputError, match="twice"):
        select_training_set("ES", [*CATALOG, CATALOG[0]], SIZES, seed=0)


def test_lora_images_are_balanced_training_images() -> None:
    images, notes = select_lora_images(CATALOG, per_plane=20, seed=0)
    assert notes == []
    assert [record.plane for record in images] == [plane.name for plane in PLANES for _ in range(20)]
    assert {(record.source, record.split) for record in images} == {("spanish", "train")}
    assert select_lora_images(CATALOG[::-1], per_plane=20, seed=0)[0] == images
    assert select_lora_images(CATALOG, per_plane=20, seed=1)[0] != images


def test_lora_with_too_few_images() -> None:
    images, notes = select_lora_images(make("spanish", 3), per_plane=20, seed=0)
    assert len(images) == 15
    assert notes == ["LoRA asks for 100 Spanish images, 20 of each plane; there are 15, all are taken"]
    with pytest.raises(InputError, match="LoRA"):
        select_lora_images(make("african", 3), per_plane=20, seed=0)
    with pytest.raises(InputError, match="per_plane"):
        select_lora_images(CATALOG, per_plane=0, seed=0)


def test_lora_where_a_plane_has_no_images_says_which() -> None:
    without = [record for record in CATALOG if record.plane != "femur"]
    images, notes = select_lora_images(without, per_plane=20, seed=0)
    assert len(images) == 80 and "femur" not in {record.plane for record in images}
    assert notes == ["LoRA asks for 100 Spanish images, 20 of each plane; 80 are taken, there are only femur 0"]


def test_validation_by_images_and_by_patients() -> None:
    chosen = select_training_set("HB", CATALOG, replace(SIZES, num_spanish_hybrid=300), seed=0).records
    training, validation = split_validation(chosen, 20, by="images", seed=0)
    assert len(validation) == 20 and len(training) == len(chosen) - 20
    training, validation = split_validation(chosen, 30, by="patients", seed=0)
    assert len(training) + len(validation) == len(chosen)
    assert {r.source for r in validation} == {"spanish"}, "synthetic images have no patient"
    assert not {r.patient_id for r in training} & {r.patient_id for r in validation}
    per_patient = max(sum(r.patient_id == p for r in validation) for p in {r.patient_id for r in validation})
    assert 30 <= len(validation) < 30 + per_patient
    assert split_validation(chosen[::-1], 30, by="patients", seed=0)[1] == validation[::-1]
    assert split_validation(chosen, 30, by="patients", seed=1)[1] != validation
    most = split_validation(chosen, 10_000, by="patients", seed=0)[1]
    assert 0 < len(most) <= sum(bool(r.patient_id) for r in chosen) // 5
    assert split_validation(chosen, 0, by="patients", seed=0) == (list(chosen), [])
    apart, inside = (split_validation(chosen, 20, by=by, seed=0) for by in ("images", "inside"))
    assert inside[1] == apart[1] and inside[0] == list(chosen), "the released code trains on them too"


def test_another_regime_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Regime(name="AF+SYN", spanish="none", african=True, synthetic=True, augment=True)
    monkeypatch.setitem(REGIMES, both.name, both)
    grid = Grid(models=("ResNet18",), regimes=("AF+SYN",), table2_regimes=())
    assert grid.validate() == []
    assert [(regime, config.augment) for regime, _, config in grid.trials()] == [("AF+SYN", True)]
    chosen = select_training_set("AF+SYN", [*make("african", 4), *make("synthetic", 30)], SIZES, seed=0)
    assert (chosen.num_es, chosen.num_af, chosen.num_synthetic) == (0, 20, 100)


def test_a_hybrid_without_one_of_its_halves() -> None:
    records = [*make("spanish", 20), *make("synthetic", 30)]
    none = select_training_set("HB", records, replace(SIZES, num_synthetic=0), seed=0)
    assert (none.num_es, none.num_synthetic, none.notes) == (50, 0, ())
    alone = select_training_set("HB", records, replace(SIZES, num_spanish_hybrid=0), seed=0)
    assert (alone.num_es, alone.num_synthetic, alone.num_patients) == (0, 100, 0)
    with pytest.raises(InputError, match="HB has no images"):
        select_training_set("HB", records, replace(SIZES, num_spanish_hybrid=0, num_synthetic=0), seed=0)
