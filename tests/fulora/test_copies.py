"""Planted copies are found with their training image; new draws are flagged about as rarely as chance has it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from fulora.errors import InputError
from fulora.evaluate import thumbnails
from fulora.evaluate.copies import CopyAudit, FeatureSet, audit_copies


def scenes(num: int, seed: int, side: int = 64) -> np.ndarray:
    """Return smooth random images in one fixed fan, uint8 [N, side, side]."""
    rng = np.random.default_rng(seed)
    waves = rng.standard_normal((num, 6, 6))
    axis = np.arange(side) / side
    basis = np.cos(np.pi * np.arange(6)[:, None] * axis)
    images = basis.T @ waves @ basis
    rows, columns = np.mgrid[:side, :side] / side
    fan = np.hypot(rows + 0.1, columns - 0.5) < 0.9
    return np.where(fan, 100 + 15 * images, 0).clip(0, 255).astype(np.uint8)


def features_of(images: np.ndarray) -> np.ndarray:
    """Return a crude extractor's features: random projections of the pixels, rectified."""
    flat = (images if images.ndim == 3 else images[..., 0]).reshape(
        len(images), images.shape[1] * images.shape[2]
    ) * 1.0
    weights = np.random.default_rng(99).standard_normal((flat.shape[1], 40))
    return np.maximum(flat @ weights / 100, 0).astype(np.float32)


def image_set(images: np.ndarray, name: str, *, per_patient: int = 1) -> FeatureSet:
    return FeatureSet(
        pixels=images,
        features=features_of(images),
        image_ids=[f"{name} {row}" for row in range(len(images))],
        patient_ids=[f"{name} patient {row // per_patient}" for row in range(len(images))],
    )


TRAINING = scenes(200, seed=1)
HELDOUT = scenes(100, seed=2)


def audited(images: np.ndarray, **options: int) -> CopyAudit:
    sides = image_set(images, "synthetic"), image_set(TRAINING, "training"), image_set(HELDOUT, "heldout")
    return audit_copies(*sides, extractor="random projections", **options)


def test_planted_copies_are_flagged_with_their_training_image() -> None:
    rng = np.random.default_rng(0)
    planted = TRAINING[:8].astype(np.float64)
    planted[1] = 0.6 * planted[1] + 40  # brightness and contrast
    planted[2] = 1.2 * planted[2] - 10  # clipped at black
    planted[3] = planted[3, :, ::-1]
    planted[4] += 8 * rng.standard_normal(planted[4].shape)
    planted[5] = 0.7 * planted[5, :, ::-1] + 20 + 5 * rng.standard_normal(planted[5].shape)
    planted[6] = np.roll(planted[6], 1, axis=1)
    unrelated = scenes(12, seed=3)[:, ::-1]
    images = np.concatenate([unrelated, planted.round().clip(0, 255).astype(np.uint8)])
    audit = audited(images)
    for row, found in enumerate(audit.images[12:]):
        assert found.nearest_pixels == f"training {row}", row
        assert found.closer_than_real and found.ratio < 0.9
        assert found.flipped == (row in (3, 5))
    for row in (0, 2, 4, 7):  # This extractor does not forgive an offset.
        assert audit.images[12 + row].nearest_features == f"training {row}"
    for row in (0, 7):
        assert audit.images[12 + row].distance_pixels == audit.images[12 + row].distance_features == 0
    assert audit.images[13].distance_pixels < 0.02 and audit.images[15].distance_pixels < 1e-12
    assert not any(found.closer_than_real for found in audit.images[:12])
    assert audit.share_closer == pytest.approx(100 * 8 / 20)
    assert set(audit.worst[:8]) == set(range(12, 20))
    ratios = [audit.images[row].ratio for row in audit.worst]
    assert ratios == sorted(ratios) and len(ratios) == 16
    assert (audit.num_synthetic, audit.num_training, audit.num_heldout, audit.num_heldout_patients) == (
        20,
        200,
        100,
        100,
    )
    assert audit.share_by_chance == pytest.approx(300 / 101)
    assert audit.notes == [] and audit.extractor == "random projections"


def test_a_copy_by_features_alone_is_flagged() -> None:
    synthetic = image_set(scenes(3, seed=3), "synthetic")
    training = image_set(TRAINING, "training")
    synthetic.features[1] = 2 * training.features[17]
    audit = audit_copies(synthetic, training, image_set(HELDOUT, "heldout"), extractor="")
    found = audit.images[1]
    assert (found.nearest_features, found.closer_than_real) == ("training 17", True)
    assert found.distance_features == pytest.approx(0, abs=1e-7) and audit.worst[0] == 1
    assert found.distance_pixels > audit.pixels.minimum


def test_new_draws_of_the_same_distribution_are_flagged_as_rarely_as_chance_has_it() -> None:
    """Each distance is the least of 41 in one draw of 41; the three go together, so between one and three of 41."""
    shares, below = [], []
    for repeat in range(30):
        sides = [
            image_set(scenes(num, seed=100 + 3 * repeat + i, side=32), str(i)) for i, num in enumerate((60, 80, 40))
        ]
        audit = audit_copies(*sides, extractor="")
        shares.append(audit.share_closer)
        below.append(audit.share_below_percentile)
        assert audit.share_by_chance == pytest.approx(300 / 41)
    error = np.std(shares) / math.sqrt(30)
    assert 100 / 41 - 3 * error < np.mean(shares) < 300 / 41 + 3 * error
    assert np.mean(shares) <= np.mean(below) < 12


@pytest.mark.parametrize("block", [1, 7, 512])
def test_blocks_give_what_all_differences_give(block: int) -> None:
    images = np.concatenate([scenes(9, seed=3), TRAINING[5:7, :, ::-1]])
    audit = audited(images, block=block)

    def normalised(images: np.ndarray) -> np.ndarray:
        small = images.reshape(-1, 32, 2, 32, 2).mean((2, 4))
        return (small - small.mean((1, 2), keepdims=True)) / small.std((1, 2), keepdims=True)

    own, theirs = normalised(images), normalised(TRAINING)
    upright = np.sqrt(((own[:, None] - theirs) ** 2).mean((2, 3)))
    mirrored = np.sqrt(((own[:, None] - theirs[:, :, ::-1]) ** 2).mean((2, 3)))
    both = np.minimum(upright, mirrored)
    rows = [
        feature / np.linalg.norm(feature, axis=1, keepdims=True) for feature in map(features_of, (images, TRAINING))
    ]
    by_features = np.linalg.norm(rows[0][:, None] - rows[1], axis=2)
    for row, found in enumerate(audit.images):
        assert found.distance_pixels == pytest.approx(both[row].min(), abs=1e-7)
        assert found.nearest_pixels == f"training {both[row].argmin()}"
        assert found.flipped == (mirrored[row].min() < upright[row].min())
        assert found.distance_features == pytest.approx(by_features[row].min(), abs=1e-5)
        assert found.nearest_features == f"training {by_features[row].argmin()}"
    real = np.minimum(
        *(np.sqrt(((normalised(HELDOUT)[:, None] - t) ** 2).mean((2, 3))) for t in (theirs, theirs[..., ::-1]))
    )
    assert audit.pixels.minimum == pytest.approx(real.min())
    assert audit.pixels.first_percentile == pytest.approx(np.percentile(real.min(1), 1))


@pytest.mark.parametrize("empty", [None, image_set(HELDOUT[:0], "heldout")])
def test_without_heldout_images_nothing_is_said_of_too_close(empty: FeatureSet | None) -> None:
    images = np.concatenate([scenes(5, seed=3), TRAINING[9:10]])
    training = dataclasses.replace(image_set(TRAINING, "training"), patient_ids=())
    audit = audit_copies(image_set(images, "synthetic"), training, empty, extractor="", num_worst=2)
    assert (audit.share_closer, audit.share_by_chance, audit.share_below_percentile) == (None, None, None)
    assert (audit.pixels, audit.features, audit.num_heldout, audit.num_heldout_patients) == (None, None, 0, 0)
    assert all(found.closer_than_real is None and found.ratio is None for found in audit.images)
    assert audit.images[5].nearest_pixels == "training 9" and audit.images[5].distance_pixels == 0
    assert audit.worst[0] == 5 and len(audit.worst) == 2
    assert "no held-out real images" in audit.notes[0]


def test_a_heldout_image_that_is_a_training_image_does_not_blind_the_audit() -> None:
    heldout = image_set(np.concatenate([TRAINING[3:4], HELDOUT]), "heldout")
    sides = image_set(TRAINING[:2], "synthetic"), image_set(TRAINING, "training")
    audit = audit_copies(*sides, heldout, extractor="")
    assert audit.num_heldout_repeats == 1 and audit.num_heldout == audit.num_heldout_patients == 100
    assert audit.share_closer == 100 and "1 held-out images are left out" in audit.notes[0]
    only = audit_copies(*sides, image_set(TRAINING[3:5], "heldout"), extractor="")
    assert (only.pixels, only.share_closer, only.num_heldout_repeats) == (None, None, 2) and len(only.notes) == 2


def test_a_patient_who_shares_an_image_with_a_training_patient_is_no_other_patient() -> None:
    """The published African set files women under two numbers: frames of one sweep would set the least distance."""
    frame = np.roll(TRAINING[3], 1, axis=1)  # the next frame of a training image's sweep
    heldout = image_set(np.concatenate([TRAINING[3:4], frame[None], HELDOUT]), "heldout")
    owners = ["one woman", "one woman", *(f"patient {row}" for row in range(len(HELDOUT)))]
    heldout = dataclasses.replace(heldout, patient_ids=owners)
    sides = image_set(TRAINING[:2], "synthetic"), image_set(TRAINING, "training")
    audit = audit_copies(*sides, heldout, extractor="")
    assert (audit.num_heldout_repeats, audit.num_heldout) == (2, 100)
    plain = audit_copies(*sides, image_set(HELDOUT, "heldout"), extractor="")
    assert audit.aligned == plain.aligned and audit.share_closer == 100


def test_colour_sizes_and_images_without_contrast() -> None:
    grey, wide = TRAINING[:3], scenes(3, seed=1, side=96)
    in_colour = np.repeat(grey[..., None], 3, axis=3)
    assert thumbnails.grey_thumbnails(in_colour, 2) == pytest.approx(thumbnails.grey_thumbnails(grey, 2))
    for side in (20, 33, 64, 250):
        assert thumbnails.area_weights(side).sum(1) == pytest.approx(np.ones(32))
    synthetic = image_set(
        np.concatenate([np.repeat(TRAINING[4:5, ..., None], 3, axis=3), np.full((1, 64, 64, 3), 9)]).astype(np.uint8),
        "synthetic",
    )
    audit = audit_copies(synthetic, image_set(TRAINING, "training"), image_set(HELDOUT, "heldout"), extractor="")
    assert audit.images[0].nearest_pixels == "training 4" and audit.images[0].distance_pixels == 0
    assert audit.images[1].distance_pixels == pytest.approx(math.sqrt(2))
    assert audit.aligned_images[0].nearest == "training 4"
    assert audit.aligned_images[0].distance == pytest.approx(0, abs=1e-5)
    assert audit.aligned_images[1].distance == pytest.approx(math.sqrt(2), rel=1e-6)
    assert thumbnails.grey_thumbnails(wide, 64).shape == (3, 32, 32)
    zeros, axes = (thumbnails.unit_rows(rows) for rows in (np.zeros((1, 4)), np.eye(4)))
    assert thumbnails.nearest_rows(zeros, axes, 8)[1] == pytest.approx(math.sqrt(2))
    assert thumbnails.nearest_rows(zeros, thumbnails.unit_rows(np.zeros((2, 4))), 8)[1] == pytest.approx(0)


def test_faults_name_field_value_rule_and_remedy() -> None:
    synthetic, training = image_set(scenes(3, seed=3), "synthetic"), image_set(TRAINING[:5], "training")
    heldout = image_set(HELDOUT[:5], "heldout")
    same = dataclasses.replace(heldout, patient_ids=["a", "training patient 2", "b", "c", "d"])
    with pytest.raises(InputError) as error:
        audit_copies(synthetic, training, same, extractor="")
    assert error.value.faults == (
        "heldout.patient_ids: 'training patient 2' must not hold patients of the training images (1 are). "
        "Leave the images of these patients out",
    )
    nan = dataclasses.replace(training, features=np.full((5, 40), np.nan))
    replace = dataclasses.replace
    for sides, words in (
        ((synthetic, nan, heldout), "training.features: 5 of 5 rows"),
        ((synthetic, replace(training, patient_ids=()), heldout), "training.patient_ids: 0 must be as many"),
        ((synthetic, replace(training, features=np.ones((5, 3))), heldout), "features: .* of one width"),
        ((synthetic, replace(training, features=np.ones(5)), heldout), r"training.features: \(5,\) must be"),
        ((replace(synthetic, image_ids=["a"]), training, heldout), r"synthetic: \(3, 3, 1\) must be equally many"),
        ((replace(synthetic, pixels=np.ones((3, 8, 8))), training, heldout), "synthetic.pixels: 'float64 .* uint8"),
        ((image_set(HELDOUT[:0], "synthetic"), training, heldout), "synthetic: 0 must be at least 1"),
    ):
        with pytest.raises(InputError, match=words):
            audit_copies(*sides, extractor="")
    with pytest.raises(InputError, match="block: 0 must be at least 1"):
        audit_copies(synthetic, training, heldout, extractor="", block=0)
