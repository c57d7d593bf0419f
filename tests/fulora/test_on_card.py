"""Every path that runs on a GPU, on a pretended card: no devices mixed, the CPU's numbers, and how often it waits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulora.classify import augment
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import MODELS, new_model
from fulora.classify.training import predict, train_classifier
from fulora.diffusion.base import load_base
from fulora.diffusion.caching import encode_prompts
from fulora.diffusion.finetune import finetune, measure_memory, prepare
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig
from fulora.diffusion.training import LoraTraining
from fulora.evaluate.copies import FeatureSet, audit_copies
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


@pytest.mark.parametrize("config", [PAPER, RELEASED, replace(PAPER, optimizer="adamw", snr_gamma=5.0)])
def test_a_finetuning_on_the_card_computes_the_cpus_numbers(
    small_base: Path, tmp_path: Path, config: LoraConfig
) -> None:
    """Caching, text encoder, buckets, steps, held-out loss, checkpoints and files, in float32."""
    images = images_of(config)
    settings = {"base": str(small_base), "pixels": images, "captions": CAPTIONS, "config": config, "seed": 0}
    settings |= {"heldout": (images[:2], CAPTIONS[:2]), "checkpoint_seconds": 0.0}
    with pretended_card():
        there = finetune(**settings, out=tmp_path / "card", device="cuda", checkpoints=tmp_path / "kept")
    here = finetune(**settings, out=tmp_path / "cpu", device="cpu")
    assert there.device == "a pretended card"
    for one, other in zip(there.losses, here.losses, strict=True):
        assert one.keys() == other.keys()
        for key in {"loss", "heldout_loss"} & one.keys():
            assert one[key] == pytest.approx(other[key], rel=1e-5)
    if config is PAPER:  # the others take a fused kernel of another rounding
        assert there.adapter_sha256 == here.adapter_sha256


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("config", [PAPER, RELEASED], ids=["paper", "released"])
def test_a_step_waits_for_nothing_and_a_report_a_few_times(
    small_base: Path, config: LoraConfig, precision: str
) -> None:
    """8-bit Adam in float16 waits once a step: whether it is skipped is decided on the host."""
    config = replace(config, num_steps=8, heldout_every=100, log_every=100)
    with pretended_card() as card:
        run = training(small_base, config, precision)
        for _ in range(2):
            run.step()  # makes the optimizer's state
        card.waits.clear()
        for _ in range(3):
            run.step()
        assert len(card.waits) == (3 if precision == "fp16" else 0), card.waits
        card.waits.clear()
        run.check_finite(0)
        assert len(card.waits) == 1, card.waits
        losses = run.losses[:5].tolist()
    assert all(0.3 < loss < 3 for loss in losses)


def test_float16_with_the_fused_optimizer_does_not_even_wait_for_its_scale(small_base: Path) -> None:
    with pretended_card() as card:
        run = training(small_base, replace(PAPER, optimizer="adamw"), "fp16")
        run.step()
        card.waits.clear()
        run.step()
        assert card.waits == []


def test_the_heldout_loss_waits_once_for_any_number_of_batches(small_base: Path) -> None:
    with pretended_card() as card:
        run = training(small_base, replace(PAPER, num_steps=1), "bf16")
        card.waits.clear()
        run.run()
        found = [wait for wait in card.waits if "heldout.py" in wait and "tolist" in wait]
    assert len(found) == 1 and len(card.waits) <= 8, card.waits


def test_a_training_restored_on_the_card_goes_on_to_the_same_numbers(small_base: Path) -> None:
    with pretended_card():
        whole, first, second = (training(small_base, PAPER, "fp16") for _ in range(3))
        for _ in range(6):
            whole.step()
        for _ in range(3):
            first.step()
        state = first.state()
        kept = {name: on_cpu(value).clone() for name, value in state.tensors.items()}
        second.restore(state._replace(tensors=kept))
        for _ in range(3):
            second.step()
        assert second.losses.tolist() == whole.losses.tolist()


def test_memory_is_measured_on_the_card(small_base: Path) -> None:
    with pretended_card():
        found = measure_memory(base=str(small_base), pixels=PIXELS, captions=CAPTIONS, config=PAPER, device="cuda")
    assert found.device == "a pretended card"


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


@pytest.mark.parametrize("name", MODELS)
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
            waits = [wait for wait in card.waits if "training.py" in wait and not wait.startswith("a copy to cuda")]
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


def test_a_checkpoint_in_another_type_is_not_taken_up(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is bfloat16 on one card and float16 on another, whose scaler has no state to go on from."""
    settings = {"base": str(small_base), "pixels": PIXELS, "captions": CAPTIONS, "seed": 0, "device": "cuda"}
    settings |= {"config": replace(PAPER, precision="auto"), "checkpoints": tmp_path / "kept"}
    step = LoraTraining.step

    def stops(self: LoraTraining) -> None:
        if self.steps_done == 4:
            raise KeyboardInterrupt
        step(self)

    def stopped() -> None:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(LoraTraining, "step", stops)
            finetune(**settings, out=tmp_path / "out", checkpoint_seconds=0.0)

    with pretended_card():
        stopped()
        assert finetune(**settings, out=tmp_path / "out").resumed_from == 4
        stopped()
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
        assert finetune(**settings, out=tmp_path / "out").resumed_from == 0
