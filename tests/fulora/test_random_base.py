"""Stable Diffusion 1.5's architecture offline: its size, files of its shape, and a real step of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fulora.diffusion.adapter import TEXT_TARGETS, add_lora, check_fit, lora_weights, target_modules
from fulora.diffusion.base import load_base
from fulora.diffusion.base_files import RANDOM, check_base, fingerprint
from fulora.diffusion.formats import KOHYA_FILE, AdapterWeights, read_adapter, save_kohya
from fulora.diffusion.random_base import TEXT_ENCODER, UNET, VAE
from fulora.errors import InputError


@pytest.fixture(scope="module")
def shapes() -> SimpleNamespace:
    """Return the parts an adapter can change, without memory for their weights."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return SimpleNamespace(
            unet=UNet2DConditionModel(**UNET), text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
        )


def size(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_its_parts_have_the_published_sizes(shapes: SimpleNamespace) -> None:
    """REFERENCE section 7: 859.5 and 83.65 million; the text encoder of CLIP ViT-L/14: 123.1 million."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**VAE)
    assert size(shapes.unet) / 1e6 == pytest.approx(859.5, abs=0.05)
    assert size(vae) / 1e6 == pytest.approx(83.65, abs=0.01)
    assert size(shapes.text_encoder) / 1e6 == pytest.approx(123.1, abs=0.05)


def test_its_name_says_that_the_weights_are_random_and_nothing_is_looked_for() -> None:
    check_base(RANDOM)
    assert fingerprint(RANDOM) == fingerprint(RANDOM) and len(fingerprint(RANDOM)) == 16
    with pytest.raises(InputError, match="random:sd21"):
        check_base("random:sd21")


def released(rank: int, shapes: SimpleNamespace) -> AdapterWeights:
    """Return an adapter of the released FU-LoRA's shape: 192 modules of the U-Net and 72 of the text encoder."""
    import re

    down, up = {}, {}
    parts = (("unet", shapes.unet, target_modules("transformer")), ("text_encoder", shapes.text_encoder, TEXT_TARGETS))
    generator = torch.Generator().manual_seed(0)
    for part, module, pattern in parts:
        for name, layer in module.named_modules():
            if re.fullmatch(pattern, name):
                out, inside, *kernel = layer.weight.shape
                down[f"{part}.{name}"] = torch.randn(rank, inside, *kernel, generator=generator).half()
                up[f"{part}.{name}"] = torch.randn(out, rank, *kernel, generator=generator).half()
    return AdapterWeights(rank=rank, alpha=float(rank), down=down, up=up)


def test_a_kohya_file_of_the_released_shape_fits(shapes: SimpleNamespace, tmp_path: Path) -> None:
    weights = released(4, shapes)
    assert len(weights.down) == 192 + 72
    read = read_adapter(save_kohya(weights, tmp_path / KOHYA_FILE), shapes)
    check_fit(shapes, read, "released")
    assert "text_encoder" in {name.split(".")[0] for name in read.down} and read.rank == 4
    assert all(torch.equal(read.up[name], weights.up[name]) for name in weights.up)


@pytest.mark.slow
def test_one_real_step_at_512_pixels_and_the_released_file_at_rank_128(tmp_path: Path) -> None:
    """Three quarters of a minute on two cores."""
    from fulora.diffusion.finetune import finetune
    from fulora.diffusion.lora_config import LoraConfig

    config = LoraConfig(num_steps=1, batch_size=1)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 512, 512, 3), dtype=np.uint8)
    result = finetune(
        base=RANDOM, pixels=pixels, captions=["a photo of fetal brain"], config=config, seed=0, out=tmp_path / "out",
        device="cpu",
    )  # fmt: skip
    assert result.base_name.startswith("random:sd15 (random weights")
    assert result.num_trainable / 1e6 == pytest.approx(12.7, abs=0.06)
    base = load_base(RANDOM)
    trained = read_adapter(tmp_path / "out", base)
    assert all(matrix.any() for matrix in trained.up.values())
    read = read_adapter(save_kohya(released(128, base), tmp_path / KOHYA_FILE), base)
    assert sum(m.numel() for side in (read.down, read.up) for m in side.values()) / 1e6 == pytest.approx(75.5, abs=0.06)
    check_fit(base, read, "released")
    numbers = add_lora(base.text_encoder, rank=128, alpha=128.0, targets=TEXT_TARGETS, seed=0)
    assert sum(parameter.numel() for parameter in numbers) / 1e6 == pytest.approx(21.2, abs=0.06)
    trained = lora_weights(base.unet, base.text_encoder)
    assert "text_encoder" in {name.split(".")[0] for name in trained.down}
