"""The readers on the published images; runs where FULORA_REAL_DATA names a folder with `spanish` and `african`.

The counts are those of the 100 Spanish and 295 African images that the project's tests are given.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.audit import find_duplicates, without_duplicates
from fulora.data.listing import Listed, read_csv
from fulora.data.near_duplicates import perceptual_hash
from fulora.data.pixels import decode_square, open_store, pixel_hash, read_grey, write_store
from fulora.data.records import ImageRecord
from fulora.data.regimes import RegimeSizes, TrainingSet, select_lora_images, select_training_set
from fulora.data.sources import read_source
from fulora.data.spanish import COLUMNS, listed
from fulora.planes import plane_from_label

REAL_DATA = os.environ.get("FULORA_REAL_DATA", "")
pytestmark = pytest.mark.skipif(not REAL_DATA, reason="FULORA_REAL_DATA names no folder of real images")


@pytest.fixture(scope="module")
def spanish() -> list[ImageRecord]:
    return read_source(Path(REAL_DATA) / "spanish", source="spanish")


@pytest.fixture(scope="module")
def african() -> list[ImageRecord]:
    return read_source(Path(REAL_DATA) / "african", source="african")


def test_spanish(spanish: list[ImageRecord]) -> None:
    assert len(spanish) == 100
    assert len({record.patient_id for record in spanish}) == 85
    assert set(Counter(record.plane for record in spanish).values()) == {20}
    assert {record.split for record in spanish} == {"train"}
    assert "Voluson E6" in {record.machine for record in spanish}


def test_african(african: list[ImageRecord]) -> None:
    assert len(african) == 295
    assert sum(record.split == "train" for record in african) == 217
    assert Counter(record.plane for record in african)["other"] == 0
    assert len({record.centre for record in african}) == 5
    # Table 2: ES+AF has 673 patients, ES 612, so AF has 61. Numbers alone would be fewer, they restart per country.
    train = [record for record in african if record.split == "train"]
    assert len({record.patient_id for record in train}) == 61
    assert len({record.patient_id.rsplit("/", 1)[1] for record in train}) < 61
    assert not {r.patient_id for r in train} & {r.patient_id for r in african if r.split == "test"}


def test_duplicates_in_the_published_training_images(spanish: list[ImageRecord], african: list[ImageRecord]) -> None:
    pairs = find_duplicates([*spanish, *african])
    inside = [pair for pair in pairs if (pair.split_a, pair.split_b) == ("train", "train")]
    assert len(inside) == 16
    assert all(pair.same_plane and pair.patient_a != pair.patient_b for pair in pairs)
    assert {pair.source_a for pair in pairs} == {"african"}


def test_the_audit_finds_the_pairs_with_equal_pixels_and_no_others(
    spanish: list[ImageRecord], african: list[ImageRecord]
) -> None:
    pairs = find_duplicates(african)
    assert [pair.kind for pair in pairs] == ["pixels"] * 16 and not any(pair.leak for pair in pairs)
    assert find_duplicates(spanish) == []
    assert find_duplicates([*spanish, *african]) == pairs


def test_copies_of_real_images_are_found(spanish: list[ImageRecord], african: list[ImageRecord]) -> None:
    images = [r for r in without_duplicates([*spanish, *african])[0] if r.split == "train"][::8]
    for factor in (0.5, 0.9):
        copies = []
        for record in images:
            image = Image.fromarray(read_grey(record.path)).point(lambda level: min(255, level * 1.1))
            buffer = io.BytesIO()
            image.resize((round(image.width * factor), round(image.height * factor))).save(buffer, "JPEG", quality=75)
            grey = np.asarray(Image.open(buffer))
            name = f"spanish/copy-{record.image_id}"
            hashes = {"pixel_hash": pixel_hash(grey), "perceptual_hash": perceptual_hash(grey)}
            copies.append(replace(record, image_id=name, source="spanish", split="test", **hashes))
        found = {(p.image_a, p.image_b) for p in find_duplicates([*images, *copies]) if p.leak}
        assert found == {tuple(sorted((r.image_id, f"spanish/copy-{r.image_id}"))) for r in images}


@pytest.mark.parametrize(
    ("name", "num_images", "num_patients"),
    [("spanish_train_6148.csv", 6148, 612), ("spanish_balanced_1150.csv", 1150, 486)],
)
def test_patients_of_the_published_lists_are_the_papers(name: str, num_images: int, num_patients: int) -> None:
    """Table 1 counts 612 patients in ES and 486 in HB."""
    lists = Path(REAL_DATA) / "lists"
    rows = read_csv(lists / "spanish_train_6148.csv", required=COLUMNS)
    wanted = {row.cells["Image_name"] for row in read_csv(lists / name, required=("Image_name",))}
    records = tuple(unread(listed(row.cells)) for row in rows if row.cells["Image_name"] in wanted)
    assert len(records) == num_images
    training = TrainingSet(regime="", records=records, notes=())
    assert (training.num_es, training.num_patients) == (num_images, num_patients)
    if num_images == 6148:
        chosen = select_training_set("ES", records, RegimeSizes(), seed=0)
        assert (chosen.num_es, chosen.num_patients, chosen.notes) == (6148, 612, ())
    else:
        assert set(Counter(record.plane for record in records).values()) == {230}


def unread(image: Listed) -> ImageRecord:
    """Return the record of an image that is listed but not at hand."""
    return ImageRecord(
        image_id=f"spanish/{image.name}",
        path="",
        source="spanish",
        plane=plane_from_label(image.plane).name,
        patient_id=f"spanish/{image.patient}",
        centre=image.centre,
        machine=image.machine,
        split="train" if image.split == "1" else "test",
        width_px=0,
        height_px=0,
        sha256="",
        pixel_hash="",
    )


def test_regimes(spanish: list[ImageRecord], african: list[ImageRecord]) -> None:
    both = select_training_set("ES+AF", [*spanish, *african], RegimeSizes(), seed=0)
    assert (both.num_es, both.num_af, both.num_patients) == (100, 217, 85 + 61)
    assert both.notes == ("ES+AF asks for 6148 Spanish images; there are 100, all are taken",)
    images, notes = select_lora_images(spanish, per_plane=20, seed=0)
    assert (len(images), notes) == (100, [])


def test_store(spanish: list[ImageRecord], african: list[ImageRecord], tmp_path: Path) -> None:
    records = [*spanish, *african]
    write_store(tmp_path / "store", records, 64)
    store = open_store(tmp_path / "store")
    assert store.pixels.shape == (395, 64, 64, 3)
    asked = [records[200], records[7]]
    rows = store.rows([record.image_id for record in asked])
    np.testing.assert_array_equal(rows, decode_square([record.path for record in asked], resolution_px=64, workers=1))
    assert store.pixels.std(axis=(1, 2, 3)).min() > 5


def test_what_a_run_without_duplicates_trains_on(african: list[ImageRecord]) -> None:
    kept, dropped = without_duplicates(african)
    assert len({record.pixel_hash for record in african if record.split == "train"}) == 217 - 16
    assert {record.split for record in dropped} == {"train"}
    assert sum(record.split == "test" for record in kept) == sum(record.split == "test" for record in african)
    left = [pair for pair in find_duplicates(kept) if "train" in (pair.split_a, pair.split_b)]
    assert left == []
