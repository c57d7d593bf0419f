"""The sampler draws what diffusers' own pipeline draws, and an image does not depend on its neighbours."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, UniPCMultistepScheduler

from fulora.diffusion import sampler as module
from fulora.diffusion.base import load_base, pipeline
from fulora.diffusion.finetune import LoraConfig, finetune
from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig, plan_samples
from fulora.errors import InputError

CONFIG = SamplingConfig(images_per_plane=2, num_steps=4, batch_size=4)


@pytest.fixture(scope="module")
def adapter(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter whose effect is large enough to see."""
    out = tmp_path_factory.mktemp("adapters") / "rank-008"
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    config = LoraConfig(rank=8, num_steps=15, learning_rate=3e-2, resolution_px=32)
    captions = ["a photo of fetal brain"] * 4
    finetune(base=str(small_base), pixels=pixels, captions=captions, config=config, seed=0, out=out, device="cpu")
    return out


def make(small_base: Path, adapter: Path | None, config: SamplingConfig = CONFIG) -> Sampler:
    return Sampler(base=str(small_base), adapter=adapter, config=config, resolution_px=32, device="cpu")


def rows_of(sampler: str, count: int) -> list[SampleRow]:
    prompts = ["a photo of fetal brain", "a photo of fetal femur", "a photo of fetal ultrasound"]
    return [SampleRow(f"r{i}", "brain", prompts[i % 3], sampler, 100 + i) for i in range(count)]


@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize("name", ["euler", "unipc", "unipc bh1"])
def test_images_are_those_of_diffusers_own_pipeline(
    small_base: Path, adapter: Path, name: str, guidance: float
) -> None:
    """Tolerance: one grey level of 255, since a fused weight rounds elsewhere than an adapter beside it."""
    config = replace(CONFIG, guidance=guidance, num_steps=6)
    if name == "unipc bh1":
        name, config = "unipc", replace(config, unipc_solver="bh1", unipc_order=3)
    rows = rows_of(name, 4)
    ours = make(small_base, adapter, config).sample(rows)

    pipe = pipeline(load_base(str(small_base)))
    pipe.load_lora_weights(adapter)
    classes = {"euler": EulerDiscreteScheduler, "unipc": UniPCMultistepScheduler}
    changed = (
        {"solver_type": "bh1", "solver_order": 3, "final_sigmas_type": "sigma_min"} if config.unipc_order == 3 else {}
    )
    pipe.scheduler = classes[name].from_config(pipe.scheduler.config, **changed)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        [row.prompt for row in rows],
        height=32,
        width=32,
        num_inference_steps=6,
        guidance_scale=guidance,
        generator=[torch.Generator("cpu").manual_seed(row.seed) for row in rows],
        output_type="np",
    ).images
    difference = np.abs(ours.astype(int) - (theirs * 255).round().astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01
    assert ours.std() > 5, "the images are not flat"


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_an_image_does_not_depend_on_the_rows_beside_it(small_base: Path, adapter: Path, name: str) -> None:
    sampler = make(small_base, adapter)
    rows = rows_of(name, 7)
    together = sampler.sample(rows)
    assert together.shape == (7, 32, 32, 3) and together.dtype == np.uint8
    alone = np.concatenate([sampler.sample([row]) for row in rows])
    assert np.array_equal(together, alone), "whatever the place in the batch"
    backwards = sampler.sample(rows[::-1])[::-1]
    assert np.array_equal(together, backwards)
    assert np.array_equal(together, make(small_base, adapter).sample(rows)), "nor on the worker"
    assert len({image.tobytes() for image in together}) == 7


@pytest.mark.parametrize("name", ["euler", "unipc"])
def test_another_batch_shape_changes_an_image_by_rounding_alone(small_base: Path, adapter: Path, name: str) -> None:
    """Sums of another shape run in another order: at most 1 of 255, in few pixels; so the batch size is in the id."""
    rows = rows_of(name, 6)
    four, one, three = (make(small_base, adapter, replace(CONFIG, batch_size=n)).sample(rows) for n in (4, 1, 3))
    for other in (one, three):
        apart = np.abs(four.astype(int) - other.astype(int))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.01


def test_a_prompt_goes_through_the_text_encoder_once(small_base: Path, adapter: Path) -> None:
    sampler = make(small_base, adapter)
    calls: list[int] = []
    sampler.base.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    sampler.sample(rows_of("euler", 6))
    sampler.sample(rows_of("unipc", 6))
    assert len(calls) == 4, "three prompts and the empty one, whatever the number of batches"


def test_samplers_mixed_in_one_call_come_back_in_the_order_of_the_rows(small_base: Path, adapter: Path) -> None:
    sampler = make(small_base, adapter)
    euler, unipc = rows_of("euler", 3), rows_of("unipc", 3)
    mixed = [row for pair in zip(euler, unipc, strict=True) for row in pair]
    images = sampler.sample(mixed)
    assert np.array_equal(images[0::2], sampler.sample(euler))
    assert np.array_equal(images[1::2], sampler.sample(unipc))
    assert not np.array_equal(images[0], images[1])
    assert sampler.sample([]).shape == (0, 32, 32, 3)


def test_adapter_prompt_seed_and_guidance_each_change_the_image(small_base: Path, adapter: Path) -> None:
    row = SampleRow("r", "brain", "a photo of fetal brain", "euler", 5)
    image = make(small_base, adapter).sample([row])
    assert not np.array_equal(image, make(small_base, None).sample([row]))
    assert not np.array_equal(image, make(small_base, adapter, replace(CONFIG, guidance=2.0)).sample([row]))
    assert not np.array_equal(image, make(small_base, adapter, replace(CONFIG, negative_prompt="x")).sample([row]))
    sampler = make(small_base, adapter)
    assert not np.array_equal(image, sampler.sample([replace(row, seed=6)]))
    assert not np.array_equal(image, sampler.sample([replace(row, prompt="a photo of fetal femur")]))


def test_the_plan_has_every_plane_and_sampler_and_grows_without_changing(small_base: Path) -> None:
    rows = list(plan_samples(CONFIG, seed=0))
    assert len(rows) == 5 * 2 * 2
    assert len({row.image_id for row in rows}) == len({row.seed for row in rows}) == 20
    assert rows[0].image_id == f"other-euler-00000-{rows[0].seed}"
    assert {(row.plane, row.sampler) for row in rows} == {
        (plane, sampler) for plane in ("other", "abdomen", "brain", "femur", "thorax") for sampler in ("euler", "unipc")
    }
    wider = set(plan_samples(replace(CONFIG, images_per_plane=5), seed=0))
    assert set(rows) < wider
    assert not set(rows) & set(plan_samples(CONFIG, seed=1))
    assert len(list(islice(plan_samples(SamplingConfig(), seed=0), 6000))) == 5000


def test_faults_of_the_sampling_are_reported_together(small_base: Path) -> None:
    config = SamplingConfig(samplers=("euler", "ddim"), num_steps=0, guidance=-1.0, batch_size=0)
    text = "\n".join(config.validate())
    for field in ("samplers: 'ddim'", "num_steps", "guidance", "batch_size"):
        assert field in text
    with pytest.raises(InputError, match="euler, unipc"):
        make(small_base, None, config)
    with pytest.raises(InputError, match="resolution_px"):
        Sampler(base=str(small_base), adapter=None, config=CONFIG, resolution_px=30, device="cpu")
    assert SamplingConfig().validate() == []


def test_half_precision_draws_nearly_the_same_image(small_base: Path, adapter: Path) -> None:
    rows = rows_of("euler", 4)
    full = make(small_base, adapter).sample(rows).astype(float)
    half = Sampler(
        base=str(small_base), adapter=adapter, config=CONFIG, resolution_px=32, device="cpu", precision="bf16"
    )
    assert np.abs(half.sample(rows) - full).mean() < 4


def test_a_decoder_that_overflows_is_an_error_too(small_base: Path, adapter: Path) -> None:
    sampler = make(small_base, adapter)
    sampler.base.vae.decoder.conv_out.bias.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="images of r0 and its batch are not finite: the decoder overflows in"):
        sampler.sample(rows_of("euler", 4))


@pytest.mark.parametrize(("most", "parts"), [(1, 4), (2 * 32 * 32 * 16, 2), (2**29, 1)])
def test_no_tensor_of_the_decoder_is_above_its_bound(
    small_base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, most: int, parts: int
) -> None:
    whole = make(small_base, adapter).sample(rows_of("euler", 4))
    monkeypatch.setattr(module, "MOST_DECODED", most)
    sampler, decoded = make(small_base, adapter), []
    decode = sampler.base.vae.decode
    monkeypatch.setattr(sampler.base.vae, "decode", lambda z, **kw: decoded.append(len(z)) or decode(z, **kw))
    widest = []
    for layer in sampler.base.vae.decoder.modules():
        layer.register_forward_hook(lambda _, __, out: widest.append(out.numel()))
    images = sampler.sample(rows_of("euler", 4))
    assert decoded == [4 // parts] * parts
    assert max(widest) <= max(most, 32 * 32 * 16)
    assert np.abs(images.astype(int) - whole).max() <= 1


def test_images_that_are_not_finite_are_an_error_and_never_a_black_picture(small_base: Path, adapter: Path) -> None:
    sampler = make(small_base, adapter)
    sampler.base.unet.conv_out.weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"r0 and its batch are not finite \(euler, guidance 7.5, 4 steps\)"):
        sampler.sample(rows_of("euler", 4))
