"""Fine-tuning learns, repeats to the byte, trains the adapter alone, and says what is wrong with its input."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.config as dynamo

from fulora.diffusion.base import load_base
from fulora.diffusion.finetune import FinetuneResult, LoraConfig, finetune, prepare
from fulora.diffusion.formats import DIFFUSERS_FILE, KOHYA_FILE, read_adapter
from fulora.diffusion.latent_dataset import LatentDataset
from fulora.diffusion.training import Schedule
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
    weights = read_adapter(tmp_path / "out", load_base(str(small_base)))
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
    base = load_base(str(small_base))
    result = run(small_base, tmp_path / "half", replace(CONFIG, precision="bf16"))
    full = run(small_base, tmp_path / "full")
    assert all(matrix.dtype == torch.float32 for matrix in read_adapter(tmp_path / "half", base).up.values())
    assert result.losses[0]["loss"] == pytest.approx(full.losses[0]["loss"], rel=0.02)
    assert result.adapter_sha256 != full.adapter_sha256


def test_a_loss_that_is_not_finite_stops_with_its_step(small_base: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"at step \d+, on image \d, image \d: lower learning_rate"):
        run(small_base, tmp_path / "out", replace(CONFIG, learning_rate=1e30, optimizer="adamw"))
    assert not (tmp_path / "out").exists()


def test_every_fault_is_reported_at_once_and_before_the_base_is_looked_for(tmp_path: Path) -> None:
    config = LoraConfig(rank=0, num_steps=0, learning_rate=-1.0, optimizer="sgd", alpha=0.0, caption_dropout=2.0)
    with pytest.raises(InputError) as caught:
        finetune(base="nowhere", pixels=PIXELS, captions=CAPTIONS[:2], config=config, seed=0, out=tmp_path / "out")
    text = str(caught.value)
    for field in ("rank", "num_steps", "learning_rate", "optimizer", "alpha", "caption_dropout", "pixels", "captions"):
        assert text.startswith(field) or f"\n{field}" in text
    assert LoraConfig().validate() == []


def test_the_schedule_shows_every_image_equally_often_with_its_caption() -> None:
    config = LoraConfig(num_steps=50, batch_size=2)
    data = latent_dataset([10])
    drawn = Schedule(data, 1000, config, 0)
    assert torch.bincount(drawn.images.flatten()).tolist() == [10] * 10
    assert torch.equal(drawn.texts, torch.where(drawn.images % 2 == 0, 3, 4))
    assert drawn.times.min() >= 0 and drawn.times.max() < 1000
    assert not Schedule(data, 1000, replace(config, caption_dropout=1.0), 0).texts.any()


def test_a_step_takes_images_of_one_size_and_sizes_as_often_as_they_have_images() -> None:
    data = latent_dataset([6, 2, 2])
    drawn = Schedule(data, 1000, LoraConfig(num_steps=100, batch_size=2), 0)
    assert torch.bincount(drawn.groups).tolist() == [60, 20, 20]
    for group, images in zip(drawn.groups.tolist(), drawn.images.tolist(), strict=True):
        assert set(images) <= set(data.images[group])
    assert torch.bincount(drawn.images.flatten()).tolist() == [20] * 10


def latent_dataset(sizes: list[int]) -> LatentDataset:
    latents = [(torch.zeros(size, 4, 8, 8), torch.zeros(size, 4, 8, 8)) for size in sizes]
    ends = np.cumsum(sizes).tolist()
    images = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    names = [f"image {index}" for index in range(ends[-1])]
    return LatentDataset(groups=latents, images=images, texts=[3, 4] * (ends[-1] // 2), empty_text=0, names=names)


def test_the_released_protocol_trains_blocks_and_text_encoder_on_buckets(small_base: Path, tmp_path: Path) -> None:
    config = replace(
        CONFIG, targets="transformer", init="kaiming", text_encoder_rate=5e-4, bucket_step_px=8, batch_size=1,
        clip_skip=1, resolution_px=48,
    )  # fmt: skip
    sizes = [(32, 48), (48, 32), (64, 64), (40, 56)]
    images = [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i, size in enumerate(sizes)]
    result = finetune(
        base=str(small_base), pixels=images, captions=["fetal brain", "fetal femur"] * 2, config=config, seed=0,
        out=tmp_path / "out", device="cpu",
    )  # fmt: skip
    base = load_base(str(small_base))
    weights = read_adapter(tmp_path / "out", base)
    # Clip skip leaves the last layer of the text encoder out, so its B stays zero.
    moved = {name for name, matrix in weights.up.items() if matrix.any()}
    assert {name.split(".")[0] for name in weights.down} == {"unet", "text_encoder"}
    assert weights.up.keys() - moved == {name for name in weights.up if ".layers.1." in name}
    assert result.num_trainable == sum(m.numel() for side in (weights.down, weights.up) for m in side.values())
    with pytest.raises(InputError, match="below bucket_step_px"):
        small = [*images[:3], images[3][:4]]
        finetune(
            base=str(small_base), pixels=small, captions=["fetal brain"] * 4, config=config, seed=0,
            out=tmp_path / "no", device="cpu",
        )  # fmt: skip


def test_the_heldout_loss_is_reported_repeats_and_changes_nothing(small_base: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, heldout_every=4, optimizer="adamw", learning_rate=1e-2)
    heldout = (PIXELS[:3], ["a photo of fetal thorax"] * 3)
    kwargs = {"base": str(small_base), "pixels": PIXELS, "captions": CAPTIONS, "config": config, "seed": 0}
    one = finetune(**kwargs, out=tmp_path / "one", device="cpu", heldout=heldout)
    two = finetune(**kwargs, out=tmp_path / "two", device="cpu")
    assert one.adapter_sha256 == two.adapter_sha256
    watched = {row["step"]: row["heldout_loss"] for row in one.losses if "heldout_loss" in row}
    assert sorted(watched) == [4, 8, 12] and len(set(watched.values())) == 3
    assert all(0.3 < value < 3 for value in watched.values())
    assert not any("heldout_loss" in row for row in two.losses)
    again = finetune(**kwargs, out=tmp_path / "three", device="cpu", heldout=heldout)
    assert [row.get("heldout_loss") for row in again.losses] == [row.get("heldout_loss") for row in one.losses]


def test_noisy_steps_count_alike_unless_their_ratio_is_capped(small_base: Path, tmp_path: Path) -> None:
    """Hang et al. 2023: weight min(gamma / snr, 1); what is reported stays equation (1)."""
    plain = run(small_base, tmp_path / "plain", replace(CONFIG, num_steps=1))
    capped = run(small_base, tmp_path / "capped", replace(CONFIG, num_steps=1, snr_gamma=1e-9))
    high = run(small_base, tmp_path / "high", replace(CONFIG, num_steps=12, snr_gamma=1e9))
    assert plain.losses[0]["loss"] == capped.losses[0]["loss"], "the first step has moved nothing yet"
    assert high.adapter_sha256 == run(small_base, tmp_path / "again").adapter_sha256, "a cap above all ratios is none"
    five = run(small_base, tmp_path / "five", replace(CONFIG, num_steps=12, snr_gamma=5.0))
    assert five.adapter_sha256 != high.adapter_sha256


def test_the_kohya_file_says_what_it_was_trained_on(small_base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    run(small_base, tmp_path / "out")
    with safe_open(tmp_path / "out" / KOHYA_FILE, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_new_sd_model_hash"] == load_base(str(small_base)).sha256
    wanted = {"ss_num_train_images": "6", "ss_resolution": "(32, 32)", "ss_max_train_steps": "12"}
    assert wanted.items() <= metadata.items()


def test_a_module_moved_under_a_training_stops_it_at_the_first_report(small_base: Path) -> None:
    """`benchmarks/finetune.py` once did so: 1 x 1 convolutions in channels-last memory stopped training silently."""
    config = replace(CONFIG, targets="transformer", log_every=2)
    training = prepare(load_base(str(small_base)), PIXELS, CAPTIONS, config, 0, None, ())
    training.unet.to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="moved out of the optimizer's memory"):
        training.run()
    assert training.steps_done == 2


@pytest.mark.slow
def test_more_sizes_than_dynamos_limit_are_all_compiled(small_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainings in one process, two sizes each, at a limit of one version of a piece of code (dynamo's own: 8)."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # dynamo is what counts here
    monkeypatch.setattr(dynamo, "fail_on_recompile_limit_hit", True)
    monkeypatch.setattr(dynamo, "recompile_limit", 1)
    config = replace(CONFIG, compile=True, bucket_step_px=8, batch_size=1, num_steps=4)
    images = [np.full((16, 16 + 8 * i, 3), 9 * i, dtype=np.uint8) for i in range(2)]
    for _ in range(2):
        base = load_base(str(small_base))
        training = prepare(base, images, ["fetal brain"] * 2, config, 0, None, ())
        assert len(training.data.groups) == 2
        training.run()


def test_too_little_memory_says_what_to_lower(small_base: Path, tmp_path: Path, monkeypatch) -> None:
    from fulora.diffusion.training import LoraTraining

    def fails(self) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LoraTraining, "step", fails)  # the one thing that cannot be had here for real
    with pytest.raises(MemoryError, match="batch_size 2, resolution_px 32, rank 8: lower"):
        run(small_base, tmp_path / "out")
