"""Fine-tuning learns, repeats to the byte, trains the adapter alone, and says what is wrong with its input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fulora.diffusion.base import load_base
from fulora.diffusion.finetune import FinetuneResult, LoraConfig, finetune
from fulora.diffusion.formats import DIFFUSERS_FILE, KOHYA_FILE, read_diffusers
from fulora.diffusion.training import _draw_schedule
from fulora.errors import InputError

CONFIG = LoraConfig(rank=8, num_steps=12, learning_rate=1e-3, resolution_px=32, log_every=5)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
CAPTIONS = ["a photo of fetal brain", "a photo of fetal femur"] * 3


def run(base: Path, out: Path, config: LoraConfig = CONFIG, *, seed: int = 0, on_log=None) -> FinetuneResult:
    return finetune(
        base=str(base),
        pixels=PIXELS,
        captions=CAPTIONS,
        config=config,
        seed=seed,
        out=out,
        device="cpu",
        on_log=on_log,
    )


@pytest.mark.parametrize("optimizer", ["adamw8bit", "adam8bit", "adamw"])
def test_twice_the_same_seed_gives_the_same_bytes(small_base: Path, tmp_path: Path, optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer, caption_dropout=0.2)
    one = run(small_base, tmp_path / "one", config)
    torch.manual_seed(99)  # the global generator has no say
    two = run(small_base, tmp_path / "two", config)
    for name in (DIFFUSERS_FILE, KOHYA_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one.adapter_sha256 == two.adapter_sha256
    assert [row["loss"] for row in one.losses] == [row["loss"] for row in two.losses]
    assert run(small_base, tmp_path / "three", config, seed=1).adapter_sha256 != one.adapter_sha256


def test_the_reports_and_the_result_say_what_ran(small_base: Path, tmp_path: Path) -> None:
    logged: list[dict] = []
    result = run(small_base, tmp_path / "out", on_log=logged.append)
    assert [row["step"] for row in result.losses] == [5, 10, 12] == [row["step"] for row in logged]
    assert [row["loss"] for row in result.losses] == [row["loss"] for row in logged]
    assert all(row["learning_rate"] == 1e-3 and row["steps_per_second"] > 0 for row in logged)
    weights = read_diffusers(tmp_path / "out")
    matrices = [*weights.down.values(), *weights.up.values()]
    assert result.num_trainable == sum(matrix.numel() for matrix in matrices)
    assert (weights.rank, weights.alpha) == (8, 8.0)
    assert all(matrix.any() for matrix in weights.up.values()), "B has left zero everywhere"
    assert result.base_name == load_base(str(small_base)).name
    assert result.peak_memory_bytes > 2**20 and "cpu" in result.device
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "no scratch folder is left"


def test_the_base_is_frozen_bit_for_bit(small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fulora.diffusion import finetune as module

    loaded = []

    def keep(*args, **kwargs):
        loaded.append(load_base(*args, **kwargs))
        return loaded[-1]

    monkeypatch.setattr(module, "load_base", keep)
    run(small_base, tmp_path / "out")
    plain = load_base(str(small_base)).unet.state_dict()
    trained = {name.replace(".base_layer", ""): value for name, value in loaded[0].unet.state_dict().items()}
    assert plain.keys() <= trained.keys()
    assert all(torch.equal(value, trained[name]) for name, value in plain.items())


def test_the_loss_falls_on_one_image(small_base: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, rank=16, num_steps=120, learning_rate=1e-2, log_every=40, targets="all_attention")
    losses = [row["loss"] for row in run(small_base, tmp_path / "out", config).losses]
    assert losses[-1] < 0.97 * losses[0]


def test_a_new_run_replaces_the_folder_whole(small_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "stale.txt").write_text("from before")
    run(small_base, out)
    assert sorted(path.name for path in out.iterdir()) == sorted([DIFFUSERS_FILE, KOHYA_FILE])


def test_bfloat16_trains_float32_matrices(small_base: Path, tmp_path: Path) -> None:
    result = run(small_base, tmp_path / "half", replace(CONFIG, precision="bf16"))
    full = run(small_base, tmp_path / "full")
    assert all(matrix.dtype == torch.float32 for matrix in read_diffusers(tmp_path / "half").up.values())
    assert result.losses[0]["loss"] == pytest.approx(full.losses[0]["loss"], rel=0.02)
    assert result.adapter_sha256 != full.adapter_sha256


def test_a_loss_that_is_not_finite_stops_with_its_step(small_base: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"at step \d+"):
        run(small_base, tmp_path / "out", replace(CONFIG, learning_rate=1e30, optimizer="adamw"))
    assert not (tmp_path / "out").exists()


def test_every_fault_is_reported_at_once_and_before_the_base_is_looked_for(tmp_path: Path) -> None:
    config = LoraConfig(rank=0, num_steps=0, learning_rate=-1.0, optimizer="sgd", alpha=0.0, caption_dropout=2.0)
    with pytest.raises(InputError) as caught:
        finetune(base="nowhere", pixels=PIXELS, captions=CAPTIONS[:2], config=config, seed=0, out=tmp_path / "out")
    text = str(caught.value)
    for field in ("rank", "num_steps", "learning_rate", "optimizer", "alpha", "caption_dropout", "pixels", "captions"):
        assert f"{field}: " in text
    assert LoraConfig().faults() == []


def test_the_schedule_shows_every_image_equally_often_with_its_caption() -> None:
    config = LoraConfig(num_steps=50, batch_size=2)
    images, texts, times = _draw_schedule(10, [3, 4] * 5, 0, 1000, config, 0)
    assert torch.bincount(images.flatten()).tolist() == [10] * 10
    assert torch.equal(texts, torch.where(images % 2 == 0, 3, 4))
    assert times.min() >= 0 and times.max() < 1000
    dropped = _draw_schedule(10, [3, 4] * 5, 0, 1000, replace(config, caption_dropout=1.0), 0)[1]
    assert not dropped.any()
