"""What only a card can show: waits by torch's own count, exact resume, and images whatever their shard.

Run by `make card` or `pytest -m gpu`. Tolerances stand where they are used; everything else is to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import new_model
from fulora.classify.training import predict, train_classifier
from fulora.device import reset_peak_memory
from fulora.diffusion.base import load_base
from fulora.diffusion.finetune import finetune, prepare
from fulora.diffusion.formats import DIFFUSERS_FILE, KOHYA_FILE, read_adapter
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig
from fulora.diffusion.training import LoraTraining
from fulora.evaluate.features import features_from_classifier

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here"),
]

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
CAPTIONS = ["a photo of fetal brain", "a photo of fetal femur"] * 3
CONFIG = LoraConfig(rank=8, num_steps=20, learning_rate=1e-3, resolution_px=32, log_every=5, caption_dropout=0.2)
RELEASED = replace(
    CONFIG, targets="transformer", init="kaiming", text_encoder_rate=5e-4, clip_skip=1, batch_size=1,
    optimizer="adam8bit",
)  # fmt: skip


@contextmanager
def no_waits() -> Iterator[None]:
    """Let torch raise where the program would wait for the card."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trainings(base: Path, config: LoraConfig, dtype: torch.dtype) -> LoraTraining:
    loaded = load_base(str(base), device="cuda", dtype=dtype)
    return prepare(loaded, PIXELS, CAPTIONS, config, 0, (PIXELS[:2], CAPTIONS[:2]), ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [CONFIG, RELEASED, replace(CONFIG, optimizer="adamw")])
def test_a_step_waits_for_nothing(small_base: Path, config: LoraConfig, dtype: torch.dtype) -> None:
    training = trainings(small_base, config, dtype)
    for _ in range(3):
        training.step()
    if dtype == torch.float16 and config.optimizer != "adamw":
        return  # whether a step is skipped is decided on the host
    with no_waits():
        training.step()
    assert all(0.3 < loss < 3 for loss in training.check_finite(0))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw8bit", "adamw"])
def test_a_stopped_training_goes_on_to_the_same_losses(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, optimizer: str
) -> None:
    """Generator, scaler, 8-bit moments and position come back exactly. Tolerance 1e-3 of the losses: attention's
    backward pass adds by atomics in another order each time; the steps before the stop are equal to the bit."""
    config = replace(CONFIG, precision=precision, optimizer=optimizer)
    settings: dict[str, Any] = {
        "base": str(small_base), "pixels": PIXELS, "captions": CAPTIONS, "config": config, "seed": 0, "device": "cuda",
    }  # fmt: skip
    whole = finetune(**settings, out=tmp_path / "whole")
    step = LoraTraining.step

    def stops(self: LoraTraining) -> None:
        if self.steps_done == 13:
            raise KeyboardInterrupt
        step(self)

    kept = {"checkpoints": tmp_path / "kept", "checkpoint_seconds": 0.0}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LoraTraining, "step", stops)
        finetune(**settings, **kept, out=tmp_path / "out")
    resumed = finetune(**settings, **kept, out=tmp_path / "out")
    assert resumed.resumed_from == 13
    for one, other in zip(resumed.losses, whole.losses, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def test_the_released_adapter_at_512_px(tmp_path: Path) -> None:
    """Every tensor of the released file's shape, at Stable Diffusion 1.5's size, in at most 8 GB."""
    config = LoraConfig(rank=128, num_steps=3, resolution_px=512, batch_size=2, log_every=1)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), dtype=np.uint8)
    reset_peak_memory("cuda")
    result = finetune(
        base="random:sd15", pixels=pixels, captions=CAPTIONS[:2], config=config, seed=0, out=tmp_path / "out",
        device="cuda",
    )  # fmt: skip
    assert result.peak_memory_bytes < 8e9
    weights = read_adapter(tmp_path / "out", load_base("random:sd15"))
    assert len(weights.down) == 64, "16 transformer blocks, four projections of attn2 each"
    assert {value.shape[0] for value in weights.down.values()} == {128}
    widths = {(name.rpartition(".")[2], value.shape[1]) for name, value in weights.down.items()}
    assert {("to_k", 768), ("to_v", 768), ("to_q", 320), ("to_q", 640), ("to_q", 1280)} <= widths
    for name in (DIFFUSERS_FILE, KOHYA_FILE):
        assert (tmp_path / "out" / name).stat().st_size > 1e6


@pytest.mark.parametrize("name", ["euler", "unipc"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_image_is_the_same_whatever_its_shard_and_neighbours(small_base: Path, name: str, precision: str) -> None:
    """To the bit on one card with one batch size; to the CPU's within 2 of 255 in float32, and in half within 8 in the
    mean, since its kernels add in another order."""
    config = SamplingConfig(num_steps=6, batch_size=4)
    rows = [SampleRow(f"r{i}", "brain", CAPTIONS[i % 2], name, 100 + i) for i in range(7)]

    def make(device: str, precision: str) -> Sampler:
        settings = {"base": str(small_base), "adapter": None, "config": config, "resolution_px": 32}
        return Sampler(**settings, device=device, precision=precision)

    sampler = make("cuda", precision)
    together = sampler.sample(rows)
    assert np.array_equal(together[2:5], make("cuda", precision).sample(rows[2:5])), "another worker, other neighbours"
    assert np.array_equal(together[6:], sampler.sample(rows[6:])), "alone in a padded batch"
    apart = np.abs(together.astype(int) - make("cpu", "fp32").sample(rows))
    assert apart.max() <= 2 if precision == "fp32" else apart.mean() < 8


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_the_steps_of_a_sampler_wait_for_nothing(small_base: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From the first pass of the U-Net to the last; noise goes there before, images come back after."""
    config = SamplingConfig(num_steps=6, batch_size=2)
    sampler = Sampler(base=str(small_base), adapter=None, config=config, resolution_px=32, device="cuda")
    rows = [SampleRow(f"r{i}", "brain", CAPTIONS[0], name, i) for i in range(2)]
    first = sampler.sample(rows)
    passes = []

    def before(*_: Any) -> None:
        passes.append(1)
        torch.cuda.set_sync_debug_mode("error")

    def after(*_: Any) -> None:
        if len(passes) == config.num_steps:
            torch.cuda.set_sync_debug_mode("default")

    sampler.base.unet.register_forward_pre_hook(before)
    sampler.base.unet.register_forward_hook(after)
    try:
        assert np.array_equal(sampler.sample(rows), first)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(passes) == config.num_steps


def test_a_large_batch_is_decoded_in_parts(small_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fulora.diffusion import sampler as module

    rows = [SampleRow(f"r{i}", "brain", CAPTIONS[0], "euler", i) for i in range(8)]
    settings = {"base": str(small_base), "adapter": None, "resolution_px": 32, "device": "cuda", "precision": "fp32"}
    whole = Sampler(**settings, config=SamplingConfig(num_steps=4, batch_size=8)).sample(rows)
    monkeypatch.setattr(module, "MOST_DECODED", 1)
    parts = Sampler(**settings, config=SamplingConfig(num_steps=4, batch_size=8)).sample(rows)
    assert np.abs(whole.astype(int) - parts).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_a_classifier_learns_predicts_and_goes_on(tmp_path: Path, precision: str) -> None:
    """Pinned batches, the refit and a restart; probabilities within 1e-3 of the whole run's in fp32, 0.05 in bf16,
    for cuDNN's search may take another algorithm."""
    labels = np.arange(40) % 5
    pixels = np.random.default_rng(0).integers(0, 60, (40, 64, 64, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[4 + 12 * label : 12 + 12 * label, 8:56] += 150
    config = ClassifierConfig(
        model="ResNet18", epochs=4, batch_size=10, resolution_px=64, pretrained="none", optimizer="adamw",
        precision=precision, refit_batchnorm=True, augment=True,
    )  # fmt: skip
    settings: dict[str, Any] = {"pixels": pixels, "labels": labels, "config": config, "seed": 0, "device": "cuda"}

    def stops(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    whole = train_classifier(**settings)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(**settings, on_epoch=stops, checkpoint=tmp_path, checkpoint_seconds=0)
    resumed = train_classifier(**settings, checkpoint=tmp_path, checkpoint_seconds=0)
    assert resumed.resumed_from == 2 and whole.history[-1]["loss"] < whole.history[0]["loss"]
    found = [predict(run.model, pixels, device="cuda", precision=config.precision) for run in (whole, resumed)]
    np.testing.assert_allclose(*found, atol=1e-3 if precision == "fp32" else 0.05)
    one = predict(whole.model, pixels, batch_size=7, device="cuda", precision=config.precision)
    np.testing.assert_allclose(one, found[0], atol=1e-3 if precision == "fp32" else 0.05)


def test_features_of_the_card_are_the_cpus() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    found = [
        features_from_classifier(new_model("ResNet18", resolution_px=64, seed=0), "judge", device=device)(pixels)
        for device in ("cuda", "cpu")
    ]
    np.testing.assert_allclose(*found, rtol=1e-2, atol=1e-3)  # TF32 may be on
