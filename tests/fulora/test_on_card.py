"""Sampling, classifiers and features on a pretended card: no devices mixed, the CPU's numbers, how often it waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulora.classify import augment
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import PAPER_MODELS, new_model
from fulora.classify.training import predict, train_classifier
from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig
from fulora.evaluate.copies import FeatureSet, audit_copies
from fulora.evaluate.features import features_from_classifier

from .pretended_card import pretended_card

torch.set_num_threads(1)

CAPTIONS = ["a photo of fetal brain", "a photo of fetal femur"] * 3


@pytest.mark.parametrize("sampler", ["euler", "unipc", "unipc bh1"])
@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_a_batch_of_images_waits_four_times_whatever_its_steps(small_base: Path, sampler: str, guidance: float) -> None:
    """Time steps and noise there, whether all is finite and the images back; and the images are the CPU's."""
    config = SamplingConfig(num_steps=5, batch_size=2, guidance=guidance)
    if sampler == "unipc bh1":
        config = replace(config, unipc_solver="bh1", unipc_order=3)
    rows = [SampleRow(f"r{i}", "brain", CAPTIONS[i], sampler.split()[0], i) for i in range(2)]

    def make(device: str, config: SamplingConfig, precision: str = "fp32") -> Sampler:
        settings = {"base": str(small_base), "adapter": None, "resolution_px": 32, "device": device}
        return Sampler(**settings, config=config, precision=precision)

    def waits(num_steps: int) -> tuple[list[str], np.ndarray]:
        with pretended_card() as card:
            drawing = make("cuda", replace(config, num_steps=num_steps))
            drawing.sample(rows)  # encodes the prompts
            card.waits.clear()
            return card.waits, drawing.sample(rows)

    found, images = waits(5)
    assert len(found) == 4 or (sampler == "euler" and len(found) == 6), found
    assert len(waits(8)[0]) == len(found)
    assert np.array_equal(images, make("cpu", config).sample(rows))
    for half in ("bf16", "fp16"):
        with pretended_card():
            drawn = make("cuda", config, half).sample(rows)
        assert np.abs(drawn.astype(int) - images).mean() < 8


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_an_epoch_of_a_classifier_waits_three_times(name: str) -> None:
    """Labels there, losses and hits back; BatchNorm's refit and augmentation add none. In float32 the CPU's loss."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8), np.arange(12) % 5
    config = ClassifierConfig(
        model=name, epochs=1, batch_size=4, resolution_px=64, pretrained="none", augment=True, refit_batchnorm=True,
        precision="fp32", augmentation=augment.AugmentConfig(least_crop=0.5),
    )  # fmt: skip

    def epoch(config: ClassifierConfig) -> tuple[list[str], Any, np.ndarray]:
        with pretended_card() as card:
            run = train_classifier(pixels=pixels, labels=labels, config=config, seed=0, device="cuda")
            waits = [wait for wait in card.waits if "epochs.py" in wait and not wait.startswith("a copy to cuda")]
            card.waits.clear()
            found = predict(run.model, pixels, batch_size=4, device="cuda", precision=config.precision)
            assert len(card.waits) == 1, card.waits
        return waits, run, found

    waits, there, probabilities = epoch(config)
    assert len(waits) == 2, waits
    here = train_classifier(pixels=pixels, labels=labels, config=config, seed=0, device="cpu")
    assert there.history[0]["loss"] == pytest.approx(here.history[0]["loss"], rel=1e-4)
    np.testing.assert_allclose(probabilities, predict(here.model, pixels, device="cpu"), atol=1e-4)
    if name == "ResNet18":
        _, half, rounded = epoch(replace(config, precision="auto"))
        assert half.history != there.history and rounded.dtype == np.float32
        np.testing.assert_allclose(rounded.sum(1), 1, atol=1e-6)


def test_prediction_in_bfloat16_keeps_the_fineness_of_float32() -> None:
    """The head computes in float32: in bfloat16 alone, most of these probabilities would coincide."""
    model = new_model("ResNet18", resolution_px=32, seed=0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    half, full = (predict(model, pixels, device="cpu", precision=p) for p in ("bf16", "fp32"))
    assert not np.array_equal(half, full) and np.abs(half - full).max() < 0.02
    assert len(np.unique(half[:, 0])) > 60


def test_features_wait_once_and_the_audit_takes_them(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)

    def features(device: str) -> np.ndarray:
        extractor = features_from_classifier(new_model("ResNet18", resolution_px=32, seed=0), "judge", device=device)
        return extractor(pixels)

    with pretended_card() as card:
        model = new_model("ResNet18", resolution_px=32, seed=0)
        there = features_from_classifier(model, "judge", device="cuda")(pixels)
        assert len([wait for wait in card.waits if "features.py" in wait and "cpu" in wait]) == 1, card.waits
        ids = [str(i) for i in range(6)]
        found = audit_copies(
            FeatureSet(pixels=pixels[:3], features=there[:3], image_ids=ids[:3], patient_ids=ids[:3]),
            FeatureSet(pixels=pixels, features=there, image_ids=ids, patient_ids=ids),
            extractor="judge",
        )
    np.testing.assert_allclose(there, features("cpu"), rtol=1e-5, atol=1e-6)
    assert [image.nearest_features for image in found.images] == ids[:3]
