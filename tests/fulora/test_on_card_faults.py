"""The tests on a pretended card can fail: a tensor in the wrong place is found in every path, and waits are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulora.classify import augment
from fulora.classify.models import new_model
from fulora.classify.training import predict
from fulora.diffusion.base import load_base
from fulora.diffusion.caching import encode_prompts
from fulora.diffusion.finetune import prepare
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig
from fulora.diffusion.training import LoraTraining
from fulora.evaluate.features import features_from_classifier

from .pretended_card import Card, MixedDevices, on_cpu, pretended_card

torch.set_num_threads(1)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
CAPTIONS = ["a photo of fetal brain", "a photo of fetal femur"] * 3
PAPER = LoraConfig(rank=8, num_steps=6, learning_rate=1e-3, resolution_px=32, log_every=3, precision="fp32")
RELEASED = replace(
    PAPER, targets="transformer", init="kaiming", text_encoder_rate=5e-4, bucket_step_px=8, clip_skip=1, batch_size=1,
    optimizer="adam8bit", caption_dropout=0.5,
)  # fmt: skip
SIZES = [(32, 32), (24, 40), (40, 24), (32, 32), (24, 40), (40, 24)]
SHAPES = [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(SIZES)]


def images_of(config: LoraConfig) -> Any:
    return SHAPES if config.bucket_step_px else PIXELS


def training(base: Path, config: LoraConfig, precision: str) -> LoraTraining:
    """Return a training on the pretended card, held-out images beside it."""
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    loaded = load_base(str(base), device="cuda", dtype=types[precision])
    images = images_of(config)
    return prepare(loaded, images, CAPTIONS, config, 0, (images[:2], CAPTIONS[:2]), ())


FAULTS: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {}


def fault(plant: Callable[[Path, pytest.MonkeyPatch], object]) -> Callable[[Path, pytest.MonkeyPatch], object]:
    FAULTS[plant.__name__] = plant
    return plant


@fault
def noise_schedule_left_on_the_cpu(base: Path, patch: pytest.MonkeyPatch) -> None:
    run = training(base, PAPER, "bf16")
    run.signal = on_cpu(run.signal)
    run.step()


@fault
def captions_left_on_the_cpu(base: Path, patch: pytest.MonkeyPatch) -> None:
    run = training(base, RELEASED, "fp32")
    embed = run.embed
    run.embed = lambda rows: on_cpu(embed(rows))
    run.step()


@fault
def heldout_latents_on_the_cpu(base: Path, patch: pytest.MonkeyPatch) -> None:
    run = training(base, PAPER, "fp32")
    run.heldout = [(on_cpu(latents), rows) for latents, rows in run.heldout]
    run.run()


@fault
def autoencoder_left_behind(base: Path, patch: pytest.MonkeyPatch) -> None:
    loaded = load_base(str(base), device="cuda")
    loaded.vae.to("cpu")
    prepare(loaded, PIXELS, CAPTIONS, PAPER, 0, None, ())


@fault
def prompts_on_the_wrong_device(base: Path, patch: pytest.MonkeyPatch) -> None:
    loaded = load_base(str(base), device="cuda")
    loaded.device = "cpu"
    encode_prompts(loaded, CAPTIONS)


@fault
def decoder_left_behind(base: Path, patch: pytest.MonkeyPatch) -> None:
    config = SamplingConfig(num_steps=2, batch_size=1)
    drawing = Sampler(base=str(base), adapter=None, config=config, resolution_px=32, device="cuda")
    drawing.base.vae.to("cpu")
    drawing.sample([SampleRow("r", "brain", CAPTIONS[0], "unipc", 0)])


@fault
def latents_on_the_cpu(base: Path, patch: pytest.MonkeyPatch) -> None:
    config = SamplingConfig(num_steps=2, batch_size=1)
    drawing = Sampler(base=str(base), adapter=None, config=config, resolution_px=32, device="cuda")
    drawing.base.device = "cpu"
    drawing.sample([SampleRow("r", "brain", CAPTIONS[0], "euler", 0)])


@fault
def augmentation_on_the_cpu(base: Path, patch: pytest.MonkeyPatch) -> None:
    affine = torch.nn.functional.affine_grid
    patch.setattr(torch.nn.functional, "affine_grid", lambda *args, **kwargs: on_cpu(affine(*args, **kwargs)))
    batch = torch.zeros(2, 3, 8, 8, device="cuda")
    augment.augment_batch(batch, augment.AugmentConfig(), torch.Generator().manual_seed(0))


@fault
def classifier_left_behind(base: Path, patch: pytest.MonkeyPatch) -> None:
    model = new_model("ResNet18", resolution_px=32, seed=0)
    patch.setattr(type(model), "to", lambda self, *args, **kwargs: self)
    predict(model, PIXELS, device="cuda")


@fault
def features_left_behind(base: Path, patch: pytest.MonkeyPatch) -> None:
    model = new_model("ResNet18", resolution_px=32, seed=0)
    patch.setattr(type(model), "to", lambda self, *args, **kwargs: self)
    features_from_classifier(model, "judge", device="cuda")(PIXELS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_tensor_left_on_the_cpu_is_found(small_base: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each test above can fail: one tensor in the wrong place, in every path."""
    with pretended_card(), pytest.raises(MixedDevices):
        FAULTS[name](small_base, monkeypatch)


def test_waits_that_were_there_are_counted(small_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts above can fail: bitsandbytes' own step, and diffusers' own UniPC."""
    import bitsandbytes
    from diffusers import UniPCMultistepScheduler

    from fulora.diffusion import unipc

    def waits_of(step: Callable[[], object], card: Card) -> int:
        step()
        card.waits.clear()
        step()
        return len(card.waits)

    with pretended_card() as card:
        run = training(small_base, PAPER, "bf16")
        monkeypatch.setattr(type(run.optimizer), "step", bitsandbytes.optim.AdamW8bit.step)
        assert waits_of(run.step, card) == len(run.optimizer.param_groups) > 0
        monkeypatch.setattr(unipc, "HostUniPC", UniPCMultistepScheduler)
        config = SamplingConfig(num_steps=4, batch_size=1)
        drawing = Sampler(base=str(small_base), adapter=None, config=config, resolution_px=32, device="cuda")
        row = SampleRow("r", "brain", CAPTIONS[0], "unipc", 0)
        assert waits_of(lambda: drawing.sample([row]), card) > 4 * 4
