"""LoRA begins at the base, follows equation (2), leaves the base alone, and its files load elsewhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fulora.diffusion.adapter import add_lora, fuse, load_adapter, target_modules
from fulora.diffusion.base import load_base, pipeline
from fulora.diffusion.formats import (
    KOHYA_FILE,
    AdapterWeights,
    lora_weights,
    read_diffusers,
    read_kohya,
    save_diffusers,
    save_kohya,
)
from fulora.errors import InputError

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


def predict(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        return unet(x, torch.tensor([10, 900]), text, return_dict=False)[0]


def with_random_lora(small_base: Path, *, rank: int = 4, alpha: float = 4.0, targets: str = "cross_attention"):
    """Return a base with a LoRA whose B is not zero, and its matrices."""
    base = load_base(str(small_base))
    add_lora(base.unet, rank=rank, alpha=alpha, targets=targets, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in base.unet.named_parameters():
        if ".lora_B." in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return base, lora_weights(base.unet)


def test_at_the_start_the_adapted_unet_is_the_base(small_base: Path) -> None:
    base = load_base(str(small_base))
    before = predict(base.unet)
    add_lora(base.unet, rank=8, alpha=8.0, targets="all_attention", seed=0)
    assert torch.equal(predict(base.unet), before)


def test_only_the_asked_layers_are_adapted_and_only_they_train(small_base: Path) -> None:
    counts = {}
    for targets in ("cross_attention", "all_attention"):
        base = load_base(str(small_base))
        trainable = add_lora(base.unet, rank=2, alpha=2.0, targets=targets, seed=0)
        names = {name for name, parameter in base.unet.named_parameters() if parameter.requires_grad}
        assert all(".lora_A." in name or ".lora_B." in name for name in names)
        assert len(names) == len(trainable)
        counts[targets] = {name.split(".lora_")[0] for name in names}
    # Three transformer blocks (down, middle, up twice), four projections each; self-attention doubles them.
    assert all(".attn2." in name for name in counts["cross_attention"])
    assert len(counts["all_attention"]) == 2 * len(counts["cross_attention"]) > 0
    assert counts["cross_attention"] < counts["all_attention"]


def test_a_is_gaussian_of_deviation_one_over_rank_from_its_own_seed(small_base: Path) -> None:
    drawn = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 9)):
        torch.manual_seed(global_seed)
        base = load_base(str(small_base))
        add_lora(base.unet, rank=16, alpha=16.0, targets="all_attention", seed=seed)
        drawn.append(lora_weights(base.unet))
    values = torch.cat([value.flatten() for value in drawn[0].down.values()])
    assert values.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert abs(values.mean().item()) < 4 / 16 / math.sqrt(len(values))
    assert all(not value.any() for value in drawn[0].up.values())
    assert torch.equal(drawn[0].down[QUERY], drawn[1].down[QUERY])
    assert not torch.equal(drawn[0].down[QUERY], drawn[2].down[QUERY])


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (4, 1.0), (2, 5.0)])
def test_equation_2_and_fused_equals_unfused(small_base: Path, tmp_path: Path, rank: int, alpha: float) -> None:
    trained, weights = with_random_lora(small_base, rank=rank, alpha=alpha)
    unfused = predict(trained.unet)
    save_diffusers(weights, tmp_path)

    base = load_base(str(small_base))
    original = base.unet.get_submodule(QUERY).weight.clone()
    load_adapter(base, tmp_path)
    torch.testing.assert_close(predict(base.unet), unfused, rtol=0, atol=0)
    fuse(base)
    expected = original + alpha / rank * weights.up[QUERY] @ weights.down[QUERY]
    torch.testing.assert_close(base.unet.get_submodule(QUERY).weight, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(predict(base.unet), unfused, rtol=1e-4, atol=1e-5)
    assert type(base.unet.get_submodule(QUERY)) is torch.nn.Linear
    plain = predict(load_base(str(small_base)).unet)
    assert (plain - unfused).abs().max() > 1e-3


@pytest.mark.parametrize("alpha", [4.0, 1.0])
@pytest.mark.parametrize("format_name", ["diffusers", "kohya"])
def test_plain_diffusers_loads_both_files_and_predicts_the_same(
    small_base: Path, tmp_path: Path, format_name: str, alpha: float
) -> None:
    from diffusers import StableDiffusionPipeline

    trained, weights = with_random_lora(small_base, alpha=alpha, targets="all_attention")
    pipe = StableDiffusionPipeline.from_pretrained(small_base)
    if format_name == "diffusers":
        save_diffusers(weights, tmp_path)
        pipe.load_lora_weights(tmp_path)
    else:
        save_kohya(weights, tmp_path / KOHYA_FILE)
        pipe.load_lora_weights(tmp_path, weight_name=KOHYA_FILE)
    torch.testing.assert_close(predict(pipe.unet), predict(trained.unet), rtol=1e-5, atol=1e-6)
    assert pipeline(trained).unet is trained.unet


def assert_same(one: AdapterWeights, other: AdapterWeights) -> None:
    assert (one.rank, one.alpha) == (other.rank, other.alpha)
    assert one.down.keys() == other.down.keys() and one.up.keys() == other.up.keys()
    assert all(torch.equal(one.down[name], other.down[name]) for name in one.down)
    assert all(torch.equal(one.up[name], other.up[name]) for name in one.up)


def test_both_files_read_back_exactly_and_write_the_same_bytes(small_base: Path, tmp_path: Path) -> None:
    base, weights = with_random_lora(small_base, alpha=2.5)
    kohya = save_kohya(weights, tmp_path / "one" / KOHYA_FILE, {"ss_note": "x"})
    diffusers = save_diffusers(weights, tmp_path / "one")
    plain = load_base(str(small_base))
    names = [name for name, _ in plain.unet.named_modules()]
    assert_same(read_kohya(kohya, names), weights)
    assert_same(read_diffusers(diffusers.parent), weights)
    again = save_kohya(read_kohya(kohya, names), tmp_path / "two" / KOHYA_FILE, {"ss_note": "x"})
    assert again.read_bytes() == kohya.read_bytes()
    assert save_diffusers(read_diffusers(diffusers.parent), tmp_path / "two").read_bytes() == diffusers.read_bytes()
    assert base.unet is not plain.unet


def test_the_kohya_file_says_rank_and_alpha_as_web_uis_read_them(small_base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    _, weights = with_random_lora(small_base, rank=4, alpha=2.0)
    with safe_open(save_kohya(weights, tmp_path / KOHYA_FILE), framework="pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
        assert float(file.get_tensor(f"lora_unet_{QUERY.replace('.', '_')}.alpha")) == 2.0
    assert metadata["ss_network_dim"] == "4" and float(metadata["ss_network_alpha"]) == 2.0
    assert f"lora_unet_{QUERY.replace('.', '_')}.lora_down.weight" in keys
    assert len(keys) == 3 * len(weights.down)


def test_an_adapter_that_does_not_fit_is_refused(small_base: Path, tmp_path: Path) -> None:
    base, weights = with_random_lora(small_base)
    wide = {**weights.down, QUERY: torch.zeros(4, 99)}
    save_diffusers(AdapterWeights(rank=4, alpha=4.0, down=wide, up=weights.up), tmp_path / "wide")
    other = {f"mid_block.{name}": value for name, value in weights.down.items()}
    other_up = {f"mid_block.{name}": value for name, value in weights.up.items()}
    save_diffusers(AdapterWeights(rank=4, alpha=4.0, down=other, up=other_up), tmp_path / "other")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pytorch_lora_weights.safetensors").write_bytes(b"not safetensors")
    rules = {"wide": "99", "other": "no module", "broken": "no readable", "absent": "not there"}
    plain = load_base(str(small_base))
    for name, rule in rules.items():
        with pytest.raises(InputError, match=rule):
            load_adapter(plain, tmp_path / name)
    with pytest.raises(InputError, match="does not have"):
        read_kohya(save_kohya(weights, tmp_path / "k" / KOHYA_FILE), ["conv_in"])
    assert base.device == "cpu"


@pytest.mark.parametrize(("targets", "millions"), [("cross_attention", 12.7), ("all_attention", 25.5)])
def test_trainable_numbers_at_rank_128_of_stable_diffusion_15(targets: str, millions: float) -> None:
    """REFERENCE section 2; counted on the published U-Net's shape, without its weights."""
    import re

    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    modules = [module for name, module in unet.named_modules() if re.fullmatch(target_modules(targets), name)]
    count = sum(128 * (module.in_features + module.out_features) for module in modules)
    assert count / 1e6 == pytest.approx(millions, abs=0.06)
