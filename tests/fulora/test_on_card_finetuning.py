"""Fine-tuning on a pretended card: no devices mixed, the CPU's numbers, and how often it waits for the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulora.diffusion.base import load_base
from fulora.diffusion.checkpoints import State
from fulora.diffusion.finetune import finetune, measure_memory, prepare
from fulora.diffusion.finetune_ranks import prepare_ranks
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.training import LoraTraining

from .pretended_card import on_cpu, pretended_card

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


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_of_all_ranks_in_one_pass_waits_no_more(small_base: Path, precision: str) -> None:
    """Both parts adapted, convolutions too. 8-bit Adam in float16 waits once for each rank."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    configs = [replace(RELEASED, bucket_step_px=0, rank=rank) for rank in (2, 8)]
    with pretended_card() as card:
        loaded = load_base(str(small_base), device="cuda", dtype=types[precision])
        joint = prepare_ranks(loaded, PIXELS, CAPTIONS, configs, (0, 1), (PIXELS[:2], CAPTIONS[:2]), ())
        for _ in range(2):
            joint.step()  # makes the optimizers' state
        card.waits.clear()
        joint.step()
        assert len(card.waits) == (2 if precision == "fp16" else 0), card.waits
        joint.run(on_logs=[None, None])
        losses = [one.losses.tolist() for one in joint.members]
    assert all(0.3 < loss < 3 for row in losses for loss in row)


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
        second.restore(State(state.step, kept, state.facts))
        for _ in range(3):
            second.step()
        assert second.losses.tolist() == whole.losses.tolist()


def test_memory_is_measured_on_the_card(small_base: Path) -> None:
    with pretended_card():
        found = measure_memory(base=str(small_base), pixels=PIXELS, captions=CAPTIONS, config=PAPER, device="cuda")
    assert found.device == "a pretended card"


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
