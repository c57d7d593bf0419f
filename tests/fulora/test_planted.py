"""Copies that are moved, turned, cropped, brightened or blended are found; on real images where a test has them."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.sources import read_source
from fulora.errors import InputError
from fulora.evaluate.alignment import nearest_aligned
from fulora.evaluate.clusters import merge_patients
from fulora.evaluate.copies import CopyAudit, audit_copies
from fulora.evaluate.feature_sets import FeatureSet
from fulora.evaluate.planted import KINDS, PlantedShare, plant_copies, shares_found
from fulora.evaluate.thumbnails import grey_thumbnails


def scenes(num: int, seed: int, side: int = 64) -> np.ndarray:
    """Return smooth random images in one fixed fan, uint8 [N, side, side]."""
    rng = np.random.default_rng(seed)
    axis = np.arange(side) / side
    basis = np.cos(np.pi * np.arange(8)[:, None] * axis)
    images = basis.T @ rng.standard_normal((num, 8, 8)) @ basis
    rows, columns = np.mgrid[:side, :side] / side
    fan = np.hypot(rows + 0.1, columns - 0.5) < 0.9
    return np.where(fan, 110 + 12 * images, 0).clip(0, 255).astype(np.uint8)


def image_set(images: np.ndarray, name: str, patients: list[str] | None = None) -> FeatureSet:
    """Return a side whose features say nothing, so that pixels alone are tried."""
    ids = [f"{name} {row}" for row in range(len(images))]
    features = np.random.default_rng(len(images)).standard_normal((len(images), 64))
    return FeatureSet(pixels=images, features=features, image_ids=ids, patient_ids=patients or ids)


def planted_in(training: FeatureSet, heldout: FeatureSet | None, per_kind: int) -> tuple[list[PlantedShare], CopyAudit]:
    planted = plant_copies(training.pixels, per_kind=per_kind, seed=0)
    features = np.random.default_rng(7).standard_normal((len(planted.kinds), 64))
    audit = audit_copies(planted.image_set(features), training, heldout, extractor="none")
    return shares_found(planted, audit, training.image_ids), audit


def test_every_kind_of_copy_is_found_and_traced() -> None:
    shares, audit = planted_in(image_set(scenes(60, 1), "training"), image_set(scenes(80, 2), "heldout"), 40)
    assert [share.kind for share in shares] == list(KINDS) and {share.num_planted for share in shares} == {40}
    for share in shares:
        assert share.share_found is not None and share.share_found >= 90, share
        assert share.share_below_percentile is not None and share.share_below_percentile >= share.share_found, share
        assert share.share_traced >= 95, share
    assert audit.aligned is not None and audit.aligned.minimum <= audit.aligned.first_percentile
    assert shares[0].share_found == 100 and audit.aligned_images[0].distance < 1e-5


def test_without_heldout_images_copies_are_traced_and_nothing_is_called_close() -> None:
    shares, _ = planted_in(image_set(scenes(30, 1), "training"), None, 50)
    assert {share.num_planted for share in shares} == {30}, "no source twice within a kind"
    assert all(share.share_found is None and share.share_below_percentile is None for share in shares)
    assert min(share.share_traced for share in shares) >= 90


def test_alignment_finds_what_a_moved_copy_was_moved_from() -> None:
    """Turned, shifted and enlarged at once, upright and mirrored: near 0 where the plain thumbnail is far."""
    training = scenes(40, 1, side=128)
    small = grey_thumbnails(training, 64)
    moved = []
    for row, image in enumerate(training):
        picture = Image.fromarray(image).rotate(5 if row % 2 else -5, Image.Resampling.BILINEAR)
        box = (128 * 0.02, 128 * 0.1, 128 * 0.9, 128 * 0.98)
        copy = np.asarray(picture.resize((128, 128), Image.Resampling.BILINEAR, box=box))
        moved.append(copy[:, ::-1] if row % 3 == 0 else copy)
    found = nearest_aligned(grey_thumbnails(np.stack(moved), 64), small, 7)
    assert (found.nearest == np.arange(40)).mean() > 0.9
    assert (found.flipped == (np.arange(40) % 3 == 0)).mean() > 0.9
    others = nearest_aligned(grey_thumbnails(scenes(40, 2, side=128), 64), small, 512)
    assert np.median(found.distance) < 0.6 * np.median(others.distance)
    again = nearest_aligned(grey_thumbnails(np.stack(moved), 64), small, 512)
    assert np.array_equal(found.nearest, again.nearest) and found.distance == pytest.approx(again.distance, abs=1e-5)


def test_planted_copies_repeat_and_keep_the_images_form() -> None:
    images = np.repeat(scenes(5, 1, side=48)[..., None], 3, axis=3)
    planted = plant_copies(images, per_kind=3, seed=4)
    assert planted.pixels.shape == (18, 48, 48, 3) and planted.pixels.dtype == np.uint8
    assert np.array_equal(planted.pixels, plant_copies(images, per_kind=3, seed=4).pixels)
    assert not np.array_equal(planted.pixels, plant_copies(images, per_kind=3, seed=5).pixels)
    for row, (kind, source) in enumerate(zip(planted.kinds, planted.sources)):
        assert np.array_equal(planted.pixels[row], images[source]) == (kind == "exact"), kind
    with pytest.raises(InputError, match="at least 2 and 1"):
        plant_copies(images[:1], per_kind=3, seed=0)
    _, audit = planted_in(image_set(scenes(30, 1), "training"), None, 1)
    with pytest.raises(InputError, match="the audit of these planted copies"):
        shares_found(planted, audit, [])


DATA = Path(os.environ.get("FULORA_REAL_DATA", "/nowhere"))


@pytest.mark.skipif(not (DATA / "spanish").is_dir(), reason="FULORA_REAL_DATA names no folder with the real images")
def test_copies_of_real_images_are_found_at_five_percent_of_shift_and_crop() -> None:
    with (DATA / "spanish" / "FETAL_PLANES_DB_data.csv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter=";"))
    files = [DATA / "spanish" / "Images" / f"{row['Image_name']}.png" for row in rows]
    pixels = np.stack([np.asarray(Image.open(f).convert("L").resize((128, 128))) for f in files])
    patients = [row["Patient_num"] for row in rows]
    learned = np.array([int(patient) % 2 == 0 for patient in patients])
    sides = [
        image_set(pixels[side], name, [p for p, inside in zip(patients, side) if inside])
        for side, name in ((learned, "training"), (~learned, "heldout"))
    ]
    shares, _ = planted_in(sides[0], sides[1], 100)
    for share in shares:
        assert share.share_found is not None and share.share_found >= 90, share


@pytest.mark.skipif(not (DATA / "african").is_dir(), reason="FULORA_REAL_DATA names no folder with the real images")
def test_copies_of_african_images_are_found_where_women_filed_twice_are_one() -> None:
    records = read_source(DATA / "african", source="african")
    pixels = np.stack([np.asarray(Image.open(r.path).convert("L").resize((128, 128))) for r in records])
    patients = merge_patients([r.patient_id for r in records], [r.pixel_hash for r in records])
    half = set(np.random.default_rng(0).permutation(sorted(set(patients)))[: len(set(patients)) // 2])
    learned = np.array([patient in half for patient in patients])
    sides = [
        image_set(pixels[side], name, [p for p, inside in zip(patients, side) if inside])
        for side, name in ((learned, "training"), (~learned, "heldout"))
    ]
    for share in planted_in(sides[0], sides[1], 30)[0]:
        assert share.share_found is not None and (share.share_found >= 90 or share.kind == "blended"), share
