"""LoRA begins at the base, follows equation (2), leaves the base alone, and its files load elsewhere."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from fulora.diffusion.adapter import TEXT_TARGETS, add_lora, check_fit, lora_weights, merge, target_modules
from fulora.diffusion.base import Base, load_base, pipeline
from fulora.diffusion.formats import (
    KOHYA_FILE,
    AdapterWeights,
    read_adapter,
    save_diffusers,
    save_kohya,
)
from fulora.errors import InputError

QUERY = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


def predict(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 77, 32, generator=generator)
    with torch.no_grad():
        return unet(x, torch.tensor([10, 900]), text, return_dict=False)[0]


def words(text_encoder: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return text_encoder(torch.arange(1, 78)[None]).last_hidden_state


def weight(base: Base, name: str) -> torch.Tensor:
    return base.unet.get_submodule(name.removeprefix("unet.")).weight


def with_random_lora(
    small_base: Path,
    *,
    rank: int = 4,
    alpha: float = 4.0,
    targets: str = "cross_attention",
    text: bool = False,
):
    """Return a base with a LoRA whose B is not zero, and its matrices."""
    base = load_base(str(small_base))
    parts = [(base.unet, targets), *([(base.text_encoder, TEXT_TARGETS)] if text else [])]
    generator = torch.Generator().manual_seed(5)
    for module, wanted in parts:
        add_lora(module, rank=rank, alpha=alpha, targets=wanted, seed=3)
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return base, lora_weights(base.unet, base.text_encoder)


@pytest.mark.parametrize("init", ["gaussian", "kaiming"])
@pytest.mark.parametrize("targets", ["all_attention", "transformer"])
def test_at_the_start_the_adapted_base_is_the_base(small_base: Path, targets: str, init: str) -> None:
    base = load_base(str(small_base))
    before, said = predict(base.unet), words(base.text_encoder)
    add_lora(base.unet, rank=8, alpha=8.0, targets=targets, seed=0, init=init)
    add_lora(base.text_encoder, rank=8, alpha=8.0, targets=TEXT_TARGETS, seed=0, init=init)
    assert torch.equal(predict(base.unet), before)
    assert torch.equal(words(base.text_encoder), said)


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


def test_a_of_the_released_code_is_uniform_within_one_over_root_of_inputs(small_base: Path) -> None:
    base = load_base(str(small_base))
    add_lora(base.unet, rank=16, alpha=16.0, targets="transformer", seed=0, init="kaiming")
    for name, value in lora_weights(base.unet).down.items():
        bound = 1 / math.sqrt(value[0].numel())
        assert 0.9 * bound < value.abs().max().item() <= bound, name


def test_targets_that_match_nothing_are_refused_with_what_there_is(small_base: Path) -> None:
    base = load_base(str(small_base))
    with pytest.raises(InputError, match=r"matches no layer.*down_blocks\.N\.attentions\.N.*\.attn1\.to_k"):
        add_lora(base.unet, rank=2, alpha=2.0, targets=r"nothing\..*", seed=0)
    names = add_lora(base.unet, rank=2, alpha=2.0, targets=r".*\.attn2\.to_k", seed=0)
    assert len(names) == 2 * 4, "A and B in four transformer blocks"


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("targets", ["cross_attention", "transformer"])
@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (4, 1.0), (2, 5.0)])
def test_equation_2_and_merged_equals_unmerged(
    small_base: Path, tmp_path: Path, rank: int, alpha: float, targets: str, text: bool
) -> None:
    trained, weights = with_random_lora(small_base, rank=rank, alpha=alpha, targets=targets, text=text)
    unmerged, said = predict(trained.unet), words(trained.text_encoder)
    save_diffusers(weights, tmp_path)

    base = load_base(str(small_base))
    original, plain, plainly = weight(base, QUERY).clone(), predict(base.unet), words(base.text_encoder)
    merge(base, read_adapter(tmp_path, base))
    expected = original + alpha / rank * weights.up[QUERY] @ weights.down[QUERY]
    torch.testing.assert_close(weight(base, QUERY), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(predict(base.unet), unmerged, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(words(base.text_encoder), said, rtol=1e-4, atol=1e-5)
    assert (plain - unmerged).abs().max() > 1e-3
    assert ("text_encoder" in {name.split(".")[0] for name in weights.down}) is text
    assert torch.equal(plainly, said) is not text


@pytest.mark.parametrize("alpha", [4.0, 1.0])
@pytest.mark.parametrize("targets", ["all_attention", "transformer"])
@pytest.mark.parametrize("format_name", ["diffusers", "kohya"])
def test_plain_diffusers_loads_both_files_and_predicts_the_same(
    small_base: Path, tmp_path: Path, format_name: str, targets: str, alpha: float
) -> None:
    from diffusers import StableDiffusionPipeline

    trained, weights = with_random_lora(small_base, alpha=alpha, targets=targets)
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


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("targets", ["cross_attention", "transformer"])
def test_both_files_read_back_exactly_and_write_the_same_bytes(
    small_base: Path, tmp_path: Path, targets: str, text: bool
) -> None:
    _, weights = with_random_lora(small_base, alpha=2.5, targets=targets, text=text)
    kohya = save_kohya(weights, tmp_path / "one" / KOHYA_FILE, {"ss_note": "x"})
    diffusers = save_diffusers(weights, tmp_path / "one")
    plain = load_base(str(small_base))
    for path in (kohya, diffusers, diffusers.parent):
        assert_same(read_adapter(path, plain), weights)
    again = save_kohya(read_adapter(kohya, plain), tmp_path / "two" / KOHYA_FILE, {"ss_note": "x"})
    assert again.read_bytes() == kohya.read_bytes()
    read = read_adapter(diffusers.parent, plain)
    assert save_diffusers(read, tmp_path / "two").read_bytes() == diffusers.read_bytes()


def test_files_spell_the_text_encoder_as_published(small_base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    _, weights = with_random_lora(small_base, text=True)
    with safe_open(save_kohya(weights, tmp_path / KOHYA_FILE), framework="pt") as file:
        assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in file.keys()  # noqa: SIM118
    with safe_open(save_diffusers(weights, tmp_path), framework="pt") as file:
        assert "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight" in file.keys()  # noqa: SIM118


def test_the_kohya_file_says_rank_and_alpha_as_web_uis_read_them(small_base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    _, weights = with_random_lora(small_base, rank=4, alpha=2.0)
    with safe_open(save_kohya(weights, tmp_path / KOHYA_FILE), framework="pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
        assert float(file.get_tensor(f"lora_{QUERY.replace('.', '_')}.alpha")) == 2.0
    assert metadata["ss_network_dim"] == "4" and float(metadata["ss_network_alpha"]) == 2.0
    assert f"lora_{QUERY.replace('.', '_')}.lora_down.weight" in keys
    assert len(keys) == 3 * len(weights.down)


def test_an_adapter_that_does_not_fit_is_refused_with_what_does_not(small_base: Path, tmp_path: Path) -> None:
    _, weights = with_random_lora(small_base)
    plain = load_base(str(small_base))
    wide = {**weights.down, QUERY: torch.zeros(4, 99)}
    for name, changed, rule in (
        ("wide", AdapterWeights(rank=4, alpha=4.0, down=wide, up=weights.up), "to_q is .* and .*99.* in the adapter"),
        ("other", renamed(weights, "unet.down_blocks.0", "unet.down_blocks.7"), "no module unet.down_blocks.7"),
    ):
        save_diffusers(changed, tmp_path / name)
        with pytest.raises(InputError, match=rule):
            merge(plain, read_adapter(tmp_path / name, plain))
        with pytest.raises(InputError, match=rule):
            check_fit(plain, changed, "x")
    foreign = save_kohya(renamed(weights, "unet.down_blocks.0", "unet.input_blocks.1"), tmp_path / "k" / KOHYA_FILE)
    with pytest.raises(InputError, match=r"lora_unet_input_blocks_1.* and \d+ more"):
        read_adapter(foreign, plain)
    whole = save_kohya(weights, tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "torn.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_bytes(b"not safetensors")
    for name, rule in (("torn", "not a valid"), ("text", "not a valid"), ("absent", "does not exist")):
        with pytest.raises(InputError, match=rule):
            read_adapter(tmp_path / f"{name}.safetensors", plain)
    lone = {name: value for name, value in weights.up.items() if name != QUERY}
    half = AdapterWeights(rank=4, alpha=4.0, down=weights.down, up={**lone, "unet.conv_in": torch.zeros(4, 4)})
    with pytest.raises(KeyError):
        save_diffusers(half, tmp_path / "half")


def renamed(weights: AdapterWeights, old: str, new: str) -> AdapterWeights:
    down, up = ({name.replace(old, new): value for name, value in side.items()} for side in (weights.down, weights.up))
    return AdapterWeights(rank=weights.rank, alpha=weights.alpha, down=down, up=up)


@pytest.mark.parametrize(
    ("targets", "modules", "millions"),
    [("cross_attention", 64, 12.7), ("all_attention", 128, 25.5), ("transformer", 192, 54.3)],
)
def test_trainable_numbers_at_rank_128_of_stable_diffusion_15(targets: str, modules: int, millions: float) -> None:
    """REFERENCE section 2; counted on the published U-Net's shape, without its weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    count = counted(unet, target_modules(targets))
    assert count[0] == modules and count[1] / 1e6 == pytest.approx(millions, abs=0.06)


def test_trainable_numbers_at_rank_128_of_its_text_encoder() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
            )
        )
    count = counted(encoder, TEXT_TARGETS)
    assert count[0] == 72 and count[1] / 1e6 == pytest.approx(21.2, abs=0.06)


def counted(module: torch.nn.Module, pattern: str) -> tuple[int, int]:
    """Return how many layers match, and how many numbers matrices of rank 128 beside them have."""
    chosen = [part.weight for name, part in module.named_modules() if re.fullmatch(pattern, name)]
    return len(chosen), sum(128 * (weight.shape[0] + weight.shape[1]) for weight in chosen)
