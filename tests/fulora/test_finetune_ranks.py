"""Ranks trained in one pass are those trained apart, within rounding, and each is independent of the others.

Tolerance on a CPU in float32: losses 1e-5 of their value, matrices in the root mean square 1 % of the way that Adam can
go (rate times steps): sums are ordered otherwise in a larger batch, and Adam's first steps are as long for a tiny
gradient as for any.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulora.diffusion.base import load_base
from fulora.diffusion.finetune import finetune
from fulora.diffusion.finetune_ranks import finetune_ranks, prepare_ranks
from fulora.diffusion.formats import DIFFUSERS_FILE, AdapterWeights, read_adapter
from fulora.diffusion.joint_training import JointTraining
from fulora.diffusion.lora_config import LoraConfig
from fulora.errors import InputError

torch.set_num_threads(1)

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
CAPTIONS = ["a photo of fetal brain", "a photo of fetal femur"] * 3
PAPER = LoraConfig(num_steps=6, learning_rate=1e-3, resolution_px=32, log_every=4, heldout_every=3)
RELEASED = replace(
    PAPER, targets="transformer", init="kaiming", text_encoder_rate=5e-4, clip_skip=1, batch_size=1,
    optimizer="adam8bit", caption_dropout=0.5, snr_gamma=5.0,
)  # fmt: skip
RANKS, SEEDS = (2, 4, 16), (5, 6, 7)


def together(base: Path, out: Path, config: LoraConfig, **changed: Any) -> list[Any]:
    settings = {
        "base": str(base), "pixels": PIXELS, "captions": CAPTIONS, "seeds": SEEDS, "device": "cpu",
        "configs": [replace(config, rank=rank) for rank in RANKS], "outs": [out / f"{rank}" for rank in RANKS],
        "heldout": (PIXELS[:2], CAPTIONS[:2]),
    }  # fmt: skip
    return finetune_ranks(**{**settings, **changed})


def matrices(weights: AdapterWeights) -> torch.Tensor:
    return torch.cat([value.flatten() for value in (*weights.down.values(), *weights.up.values())])


@pytest.mark.parametrize("config", [PAPER, replace(RELEASED, alpha=3.0)])
def test_three_ranks_in_one_pass_are_three_trainings(small_base: Path, tmp_path: Path, config: LoraConfig) -> None:
    found = together(small_base, tmp_path / "one pass", config)
    base = load_base(str(small_base))
    for rank, seed, joint in zip(RANKS, SEEDS, found, strict=True):
        settings = {"pixels": PIXELS, "captions": CAPTIONS, "seed": seed, "heldout": (PIXELS[:2], CAPTIONS[:2])}
        own, apart = replace(config, rank=rank), tmp_path / "apart" / f"{rank}"
        alone = finetune(base=str(small_base), **settings, config=own, out=apart, device="cpu")
        assert joint.num_trainable == alone.num_trainable and joint.base_name == alone.base_name
        assert len(joint.losses) == len(alone.losses) == 3
        for one, other in zip(joint.losses, alone.losses, strict=True):
            assert one.keys() == other.keys()
            for key in one.keys() - {"seconds"}:
                assert one[key] == pytest.approx(other[key], rel=1e-5), key
        first, second = (read_adapter(folder, base) for folder in (tmp_path / "one pass" / f"{rank}", apart))
        assert (first.rank, first.alpha) == (second.rank, second.alpha)
        assert {name: value.shape for name, value in first.up.items()} == {n: v.shape for n, v in second.up.items()}
        apart_by = (matrices(first) - matrices(second)).square().mean().sqrt()
        assert apart_by < 0.01 * config.learning_rate * config.num_steps


def test_a_rank_does_not_depend_on_the_others(small_base: Path, tmp_path: Path) -> None:
    """To the bit: another seed and another rank beside it change nothing."""
    together(small_base, tmp_path / "one", PAPER)
    others = [replace(PAPER, rank=2), replace(PAPER, rank=8), replace(PAPER, rank=16)]
    together(small_base, tmp_path / "two", PAPER, configs=others, seeds=(5, 99, 7))
    for rank, same in ((2, True), (4, False), (16, True)):
        one, two = ((tmp_path / run / f"{rank}" / DIFFUSERS_FILE).read_bytes() for run in ("one", "two"))
        assert (one == two) == same, rank


@pytest.mark.parametrize("config", [PAPER, RELEASED])
def test_a_pass_that_is_stopped_goes_on_to_the_same_bytes(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: LoraConfig
) -> None:
    whole = together(small_base, tmp_path / "whole", config)
    step = JointTraining.step

    def stops(self: JointTraining) -> None:
        if self.steps_done == 4:
            raise KeyboardInterrupt
        step(self)

    kept = {"checkpoints": tmp_path / "kept", "checkpoint_seconds": 0.0}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(JointTraining, "step", stops)
        together(small_base, tmp_path / "again", config, **kept)
    again = together(small_base, tmp_path / "again", config, **kept)
    assert [one.resumed_from for one in again] == [4, 4, 4]
    assert [one.adapter_sha256 for one in again] == [one.adapter_sha256 for one in whole]
    for one, other in zip(again, whole, strict=True):
        assert [{**row, "seconds": 0} for row in one.losses] == [{**row, "seconds": 0} for row in other.losses]
    assert not (tmp_path / "kept").exists()
    other_seeds = together(small_base, tmp_path / "other", config, seeds=(5, 6, 8), **kept)
    assert other_seeds[0].resumed_from == 0


def test_reports_say_which_rank(small_base: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    logs = [lambda row, rank=rank: seen.append((rank, row["step"])) for rank in RANKS]
    together(small_base, tmp_path, PAPER, on_logs=logs)
    assert seen == [(rank, step) for step in (3, 4, 6) for rank in RANKS]


def test_a_loss_that_is_not_finite_names_its_rank_and_reaches_no_other(small_base: Path) -> None:
    configs = [replace(PAPER, rank=rank) for rank in RANKS]
    joint = prepare_ranks(load_base(str(small_base)), PIXELS, CAPTIONS, configs, SEEDS, None, ())
    joint.members[1].parameters[0].data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"rank 4: the loss is nan at step 1, on image .*the other ranks"):
        joint.run(on_logs=[None] * 3)
    assert all(0.3 < loss < 3 for one in (joint.members[0], joint.members[2]) for loss in one.check_finite(0))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"configs": [replace(PAPER, rank=2), replace(PAPER, rank=4, batch_size=1)], "seeds": (1, 2)},
            "rank and alpha",
        ),
        ({"configs": [replace(PAPER, rank=rank, bucket_step_px=8) for rank in RANKS]}, "bucket_step_px"),
        ({"configs": []}, "at least one"),
    ],
)
def test_what_makes_no_one_batch_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        together(Path("nowhere"), tmp_path, PAPER, **changed)
