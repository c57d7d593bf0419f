"""What an epoch trains on: whole sets, equal steps, synthetic images before real ones; losses balanced by plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.epochs import TrainingImages, epoch_batches
from fulora.classify.objective import new_loss
from fulora.classify.training import train_classifier
from fulora.errors import InputError

CONFIG = ClassifierConfig(
    model="MobileNet v2", epochs=4, batch_size=8, resolution_px=32, pretrained="none", optimizer="adamw"
)
CPU = torch.device("cpu")


def noise(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, 32, 32, 3] and planes."""
    return np.random.default_rng(0).integers(0, 256, (num, 32, 32, 3), dtype=np.uint8), np.arange(num) % 5


def test_equal_steps_for_sets_of_any_size() -> None:
    for num in (9, 20, 200):
        config = replace(CONFIG, num_steps=30)
        rng, rows = np.random.default_rng(0), np.arange(num)
        epochs = [epoch_batches(rng, rows, config, epoch) for epoch in (1, 2, 3, 4)]
        assert [len(batches) for batches in epochs] == [7, 8, 7, 8]
        assert min(len(rows) for batches in epochs for rows in batches) >= 2
        counts = np.bincount(np.concatenate([r for batches in epochs for r in batches]), minlength=num)
        assert num == 200 or counts.min() >= 240 // num - 5, "every image is gone through"
    (whole,) = (epoch_batches(np.random.default_rng(0), np.arange(20), CONFIG, 1),)
    assert sorted(np.concatenate(whole)) == list(range(20)) and len(whole) == 3


def test_a_training_takes_the_steps_it_is_given() -> None:
    pixels, labels = noise(20)
    config = replace(CONFIG, num_steps=9, epochs=2)
    trained = train_classifier(pixels=pixels, labels=labels, config=config, seed=0, device="cpu")
    assert [row["steps"] for row in trained.history] == [4, 5]
    plain = train_classifier(pixels=pixels, labels=labels, config=replace(config, num_steps=None), seed=0, device="cpu")
    assert [row["steps"] for row in plain.history] == [3, 3]
    with pytest.raises(InputError, match="at least 1 for each of the 2 epochs"):
        train_classifier(pixels=pixels, labels=labels, config=replace(config, num_steps=1), seed=0, device="cpu")


def test_synthetic_images_come_first_and_only_the_second_half_may_be_kept() -> None:
    pixels, labels = noise(20)
    first = np.arange(20) < 12
    images = TrainingImages(pixels=pixels, labels=labels, first=first)
    assert [images.rows(epoch, 5).tolist() for epoch in (1, 2)] == [list(range(12))] * 2
    assert [images.rows(epoch, 5).tolist() for epoch in (3, 5)] == [list(range(12, 20))] * 2
    assert [images.may_keep(epoch, 4) for epoch in (1, 2, 3, 4)] == [False, False, True, True]
    config = replace(CONFIG, keep="best")
    trained = train_classifier(
        pixels=pixels, labels=labels, config=config, seed=0, device="cpu", first=first, validation=noise(10)
    )
    assert [row["steps"] for row in trained.history] == [2, 2, 1, 1] and trained.epoch in (3, 4)
    with pytest.raises(InputError, match="before and after"):
        train_classifier(pixels=pixels, labels=labels, config=CONFIG, seed=0, device="cpu", first=first | True)


def test_class_weights_make_rare_planes_count_as_much_as_frequent_ones() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [3])
    loss = new_loss(labels, "class_weights", CPU)
    logits = torch.zeros(10, 5)
    logits[labels == 3, 3] = 2.0
    each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()
    expected = np.mean([each[labels == plane].mean() for plane in (0, 1, 3)])
    assert float(loss(logits, torch.from_numpy(labels))) == pytest.approx(expected)


def test_logit_adjustment_learns_what_is_left_beside_the_planes_shares() -> None:
    """Images that tell nothing: plain training predicts the frequent plane, adjusted training none."""
    labels = torch.tensor([0] * 42 + [1] * 28 + [2] * 20 + [3] * 10)
    shares = np.array([0.42, 0.28, 0.20, 0.10])
    for balance, expected in (("none", shares), ("logit_adjustment", np.full(4, 0.25))):
        logits = torch.zeros(5, requires_grad=True)
        loss = new_loss(labels.numpy(), balance, CPU)
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(500):
            optimizer.zero_grad()
            loss(logits.expand(100, 5), labels).backward()
            optimizer.step()
        found = torch.softmax(logits.detach()[:4], 0).numpy()
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_an_unknown_balance_is_refused() -> None:
    assert any("class_weights" in text for text in replace(CONFIG, balance="undo").validate())  # type: ignore[arg-type]
