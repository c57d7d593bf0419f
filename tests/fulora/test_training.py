"""Training learns, repeats exactly, augments as told, and refuses what it cannot train on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fulora.classify.augment import AugmentConfig, augment_batch
from fulora.classify.batches import split_batches, to_input
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.input_range import black, set_input_range
from fulora.classify.models import MODELS, PAPER_MODELS, new_model
from fulora.classify.training import predict, train_classifier
from fulora.errors import InputError

torch.set_num_threads(1)


def shapes(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images whose plane is the place of a bright bar."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 5
    images = rng.integers(0, 60, (num, 64, 64, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 + 12 * label : 12 + 12 * label, 8:56] += 150
    return images, labels


def config(**changes) -> ClassifierConfig:
    small = {"model": "MobileNet v2", "epochs": 2, "resolution_px": 64, "pretrained": "none", "optimizer": "adamw"}
    return ClassifierConfig(**{**small, **changes})


def test_learns_and_reports() -> None:
    pixels, labels = shapes(100, 0)
    seen: list[dict[str, float]] = []
    trained = train_classifier(
        pixels=pixels,
        labels=labels,
        config=config(model="ResNet18", epochs=3, refit_batchnorm=True),
        seed=0,
        device="cpu",
        on_epoch=seen.append,
        validation=shapes(25, 1),
    )
    assert trained.history == seen and [row["epoch"] for row in seen] == [1, 2, 3]
    assert seen[-1]["loss"] < seen[0]["loss"] / 2
    assert seen[-1]["validation_accuracy"] >= 80
    assert trained.weights_name == "from scratch" and trained.device == "cpu"
    assert trained.peak_memory_bytes > 50e6 and trained.seconds > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_same_seed_same_weights_and_last_batch_of_one(optimizer: str) -> None:
    pixels, labels = shapes(25, 0)  # 24 + 1
    pixels.setflags(write=False)  # as a memory-mapped store gives them
    runs = [
        train_classifier(
            pixels=pixels, labels=labels, config=config(optimizer=optimizer, augment=True), seed=seed, device="cpu"
        )
        for seed in (0, 0, 1)
    ]
    first, again, other = (predict(run.model, pixels, device="cpu") for run in runs)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert runs[0].history[0]["loss"] == runs[1].history[0]["loss"]


def test_predictions_are_probabilities_and_independent_of_the_batch() -> None:
    pixels, labels = shapes(24, 0)
    model = train_classifier(pixels=pixels, labels=labels, config=config(epochs=1), seed=0, device="cpu").model
    together, single = predict(model, pixels, device="cpu"), predict(model, pixels, batch_size=1, device="cpu")
    assert together.dtype == np.float32 and together.shape == (24, 5)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(together, single, atol=1e-4)
    assert predict(model, pixels[:0], device="cpu").shape == (0, 5)


def test_pixels_come_in_minus_one_to_one() -> None:
    images = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    images[0, 0, 1] = (255, 51, 0)
    batch = to_input(images, torch.nn.Linear(1, 1), torch.device("cpu"))
    assert batch.shape == (1, 3, 64, 64)
    assert batch[0, :, 0, 1].tolist() == pytest.approx([1.0, -0.6, -1.0]) and batch[0, 0, 5, 5] == -1


def test_a_model_takes_the_range_it_is_given_and_black_stays_black() -> None:
    images = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    images[0, 0, 1] = (255, 51, 0)
    unit, pretrained = (torch.nn.Linear(1, 1) for _ in range(2))
    set_input_range(unit, "unit", MODELS["ResNet18"].tag)
    set_input_range(pretrained, "pretrained", MODELS["ResNet18"].tag)
    assert set(unit.state_dict()) == {"weight", "bias"}, "a range is no weight"
    assert to_input(images, unit, torch.device("cpu"))[0, :, 0, 1].tolist() == pytest.approx([1.0, 0.2, 0.0])
    batch = to_input(images, pretrained, torch.device("cpu"))
    assert batch[0, :, 0, 1].tolist() == pytest.approx([(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225])
    turned = augment_batch(
        batch, AugmentConfig(rotation_degrees=45), torch.Generator().manual_seed(1), black(pretrained)
    )
    torch.testing.assert_close(turned[0, :, -1, 0], batch[0, :, -1, -1])


def test_the_released_codes_range_changes_what_is_trained() -> None:
    pixels, labels = shapes(20, 0)
    signed, unit = (
        train_classifier(pixels=pixels, labels=labels, config=config(epochs=1, pixels=p), seed=0, device="cpu")
        for p in ("signed", "unit")
    )
    assert signed.history[0]["loss"] != unit.history[0]["loss"]
    assert predict(unit.model, pixels, device="cpu").sum(1) == pytest.approx(1)


@pytest.mark.parametrize(("num", "sizes"), [(2, [2]), (24, [24]), (25, [25]), (26, [24, 2]), (49, [24, 25])])
def test_no_batch_of_one(num: int, sizes: list[int]) -> None:
    batches = split_batches(np.arange(num), 24)
    assert [len(batch) for batch in batches] == sizes
    assert np.array_equal(np.concatenate(batches), np.arange(num))


def test_non_finite_loss_names_its_step() -> None:
    pixels, labels = shapes(96, 0)
    with pytest.raises(FloatingPointError, match=r"not finite at step \d+"):
        train_classifier(
            pixels=pixels, labels=labels, seed=0, device="cpu", config=config(optimizer="sgd", learning_rate=1e25)
        )


def test_all_faults_at_once() -> None:
    bad = config(model="LeNet", epochs=0, learning_rate=-1.0, augmentation=AugmentConfig(horizontal_flip=2.0))
    assert [fault.split(":")[0] for fault in bad.validate()] == ["model", "epochs", "learning_rate", "horizontal_flip"]
    assert config().validate() == []
    pixels, labels = shapes(10, 0)
    with pytest.raises(InputError, match="must be uint8"):
        train_classifier(pixels=pixels[:, :32], labels=labels, config=config(), seed=0)
    with pytest.raises(InputError, match="at least 2"):
        train_classifier(pixels=pixels[:1], labels=labels[:1], config=config(), seed=0)
    with pytest.raises(InputError, match="plane indices"):
        train_classifier(pixels=pixels, labels=labels + 1, config=config(), seed=0)


def test_flips_are_exact_and_as_frequent_as_told() -> None:
    batch = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    still = AugmentConfig(rotation_degrees=0, horizontal_flip=0, vertical_flip=0)
    for settings, expected in (
        (still, batch),
        (AugmentConfig(rotation_degrees=0, horizontal_flip=1, vertical_flip=0), batch.flip(3)),
        (AugmentConfig(rotation_degrees=0, horizontal_flip=0, vertical_flip=1), batch.flip(2)),
    ):
        out = augment_batch(batch, settings, torch.Generator().manual_seed(1))
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
    out = augment_batch(batch, AugmentConfig(rotation_degrees=0), torch.Generator().manual_seed(1))
    across = (out - batch.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    both = (out - batch.flip(2, 3)).abs().amax((1, 2, 3)) < 1e-5
    down = (out - batch.flip(2)).abs().amax((1, 2, 3)) < 1e-5
    assert 0.4 < float((across | both).float().mean()) < 0.6
    assert 0.05 < float((down | both).float().mean()) < 0.16


def test_rotation_turns_by_at_most_its_angle_and_pads_black() -> None:
    batch = torch.full((64, 3, 65, 65), -1.0)
    batch[:, :, 31:34, 56:59] = 1.0  # a dot to the right of the centre
    out = augment_batch(batch, AugmentConfig(horizontal_flip=0, vertical_flip=0), torch.Generator().manual_seed(0))
    bright = out[:, 0] + 1
    y, x = torch.meshgrid(torch.arange(65.0) - 32, torch.arange(65.0) - 32, indexing="ij")
    mass = bright.sum((1, 2))
    angles = torch.rad2deg(torch.atan2((bright * y).sum((1, 2)) / mass, (bright * x).sum((1, 2)) / mass))
    assert angles.abs().max() <= 25.5 and angles.min() < -15 and angles.max() > 15
    white = augment_batch(torch.ones(8, 3, 16, 16), AugmentConfig(), torch.Generator().manual_seed(3))
    assert white.min() == pytest.approx(-1, abs=1e-5)


def test_the_best_epoch_on_the_validation_images_is_kept() -> None:
    pixels, labels = shapes(60, 0)
    validation = shapes(25, 1)
    # So high a rate that the last epoch is not the best.
    settings = config(model="ResNet18", epochs=5, learning_rate=3e-2, keep="best")
    best = train_classifier(pixels=pixels, labels=labels, config=settings, seed=0, device="cpu", validation=validation)
    reached = [row["validation_accuracy"] for row in best.history]
    assert best.epoch == 1 + reached.index(max(reached)) < 5, reached
    guesses = predict(best.model, validation[0], device="cpu").argmax(1)
    assert 100 * (guesses == validation[1]).mean() == max(reached)
    short = train_classifier(
        pixels=pixels, labels=labels, config=replace(settings, epochs=best.epoch, keep="last"), seed=0, device="cpu"
    )
    assert short.epoch == best.epoch
    probabilities = [predict(run.model, validation[0], device="cpu") for run in (best, short)]
    assert np.array_equal(*probabilities), "the weights are those of that epoch"
    with pytest.raises(InputError, match="needs validation images"):
        train_classifier(pixels=pixels, labels=labels, config=settings, seed=0, device="cpu")
    assert "refit_batchnorm" in "".join(config(keep="best", refit_batchnorm=True).validate())


def test_the_refit_is_torchs_plain_average() -> None:
    pixels, labels = shapes(26, 0)
    settings = config(epochs=1, batch_size=10)
    with_refit, without = (
        train_classifier(
            pixels=pixels, labels=labels, config=replace(settings, refit_batchnorm=on), seed=0, device="cpu"
        ).model
        for on in (True, False)
    )
    norms = [module for module in without.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    without.train()
    with torch.no_grad():
        for rows in split_batches(np.random.default_rng(0).permutation(26), 10):
            without(to_input(pixels[rows], without, torch.device("cpu")))
    refitted = [module for module in with_refit.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == len(refitted) > 10
    for one, other in zip(norms, refitted, strict=True):
        assert torch.equal(one.running_mean, other.running_mean) and torch.equal(one.running_var, other.running_var)
        assert other.momentum == 0.1


def test_crops_lie_in_the_image_and_keep_the_area_that_was_asked_for() -> None:
    ramp = torch.linspace(-1, 1, 64)
    batch = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)]).repeat(300, 1, 1, 1)
    still = AugmentConfig(rotation_degrees=0, horizontal_flip=0, vertical_flip=0, least_crop=0.08)
    out = augment_batch(batch, still, torch.Generator().manual_seed(0))
    # The ramps tell where the crop was: their span over a crop is its width and its height.
    width = (out[:, 0, 32, 40] - out[:, 0, 32, 24]) / (ramp[40] - ramp[24])
    height = (out[:, 1, 40, 32] - out[:, 1, 24, 32]) / (ramp[40] - ramp[24])
    area, ratio = width * height, width / height
    assert 0.07 < area.min() < 0.2 and 0.9 < area.max() <= 1.01
    assert 0.74 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.34
    assert out[:, 2].abs().max() < 1e-5, "nothing from outside the image"
    whole = augment_batch(batch, AugmentConfig(least_crop=1.0), torch.Generator().manual_seed(1))
    assert torch.equal(whole, augment_batch(batch, AugmentConfig(), torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_no_model_draws_random_numbers_while_it_trains(name: str) -> None:
    """A checkpoint holds the two streams of the training and no global one: no dropout may be on."""
    model = new_model(name, resolution_px=64, seed=0).train()
    before = torch.get_rng_state()
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
