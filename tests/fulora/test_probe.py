"""Linear probes of frozen encoders: files of DINOv2, DINOv3 and open_clip in their layouts, made small here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from fulora.classify import training
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import MODELS, PAPER_MODELS, build_model, weights_faults
from fulora.classify.training import predict, train_classifier
from fulora.classify.weights import load_backbone
from fulora.errors import InputError
from fulora.experiment import Grid
from fulora.seeds import derive_seed

CLIP = "FetalCLIP l14, head"
SIDE, WIDTH, DEPTH, HEADS = 28, 64, 2, 4
"""Of a ViT in CLIP's layout: patches of 14 px, so 4 of them."""


def open_clip_state(width: int = WIDTH, depth: int = DEPTH, tokens: int = 5) -> dict[str, torch.Tensor]:
    """Return tensors under the names of an open_clip file: image encoder `visual.`, text encoder beside it."""
    torch.manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape)

    state = {
        "visual.class_embedding": tensor(width), "visual.positional_embedding": tensor(tokens, width),
        "visual.conv1.weight": tensor(width, 3, 14, 14), "visual.proj": tensor(width, 32),
        "logit_scale": torch.ones(()), "text_projection": tensor(32, 32), "positional_embedding": tensor(77, 32),
        "token_embedding.weight": tensor(10, 32), "transformer.resblocks.0.ln_1.weight": tensor(32),
    }  # fmt: skip
    for name in ("ln_pre", "ln_post"):
        state |= {f"visual.{name}.weight": 1 + tensor(width), f"visual.{name}.bias": tensor(width)}
    for k in range(depth):
        block = f"visual.transformer.resblocks.{k}"
        for name in ("ln_1", "ln_2"):
            state |= {f"{block}.{name}.weight": 1 + tensor(width), f"{block}.{name}.bias": tensor(width)}
        sides = {"attn.in_proj_": (3, 1), "attn.out_proj.": (1, 1), "mlp.c_fc.": (4, 1), "mlp.c_proj.": (1, 4)}
        for name, (out, into) in sides.items():
            state[f"{block}.{name}weight"] = tensor(out * width, into * width)
            state[f"{block}.{name}bias"] = tensor(out * width)
    return state


def reference(state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Return CLIP's image features before the projection, written down from its definition."""
    from torch.nn import functional

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-5)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, state[f"{name}weight"], state[f"{name}bias"])

    x = functional.conv2d(images, state["visual.conv1.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = norm("visual.ln_pre", x)
    for k in range(DEPTH):
        block = f"visual.transformer.resblocks.{k}"
        y = norm(f"{block}.ln_1", x)
        each = linear(f"{block}.attn.in_proj_", y).chunk(3, -1)
        heads = [t.view(len(x), -1, HEADS, WIDTH // HEADS).transpose(1, 2) for t in each]
        y = functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(len(x), -1, WIDTH)
        x = x + linear(f"{block}.attn.out_proj.", y)
        y = linear(f"{block}.mlp.c_fc.", norm(f"{block}.ln_2", x))
        x = x + linear(f"{block}.mlp.c_proj.", functional.gelu(y))
    return norm("visual.ln_post", x)[:, 0]


@register_model
def vit_small_test_clip_28(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """CLIP's layout in a size that a test can train."""
    kept = {name: value for name, value in settings.items() if name in ("num_classes", "img_size")}
    return VisionTransformer(
        patch_size=14,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        pre_norm=True,
        norm_layer=torch.nn.LayerNorm,
        **kept,
    )


@pytest.fixture
def small_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make FetalCLIP's entry small, and write a file of its layout; everything else is the entry's own."""
    spec = replace(MODELS[CLIP], tag="vit_small_test_clip_28.fetalclip", input_px=SIDE)
    monkeypatch.setitem(MODELS, CLIP, spec)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.save(open_clip_state(), tmp_path / "FetalCLIP_weights.pt")
    return tmp_path


def bars(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images, uint8 [N, 64, 64, 3], whose plane is the place of a bright bar."""
    rng = np.random.default_rng(seed)
    labels, images = np.arange(num) % 5, rng.integers(0, 60, (num, 64, 64, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 + 12 * label : 12 + 12 * label, 8:56] += 150
    return images, labels


def test_an_open_clip_file_gives_clips_features(small_clip: Path) -> None:
    model, label = build_model(CLIP, weights=small_clip, resolution_px=64, seed=0)
    assert label == "FetalCLIP_weights.pt (folder)"
    images = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    model.eval()
    with torch.inference_mode():
        ours = model.forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(ours, reference(open_clip_state(), images), rtol=1e-4, atol=1e-4)


def test_the_entrys_own_architecture_takes_a_file_of_its_layout() -> None:
    """ViT-L/14 as open_clip names it, without numbers: every tensor finds its place, and one too few is named."""
    with torch.device("meta"):
        model = timm.create_model(MODELS[CLIP].architecture, num_classes=5, img_size=MODELS[CLIP].input_px)
        state = open_clip_state(width=1024, depth=24, tokens=257)
    load_backbone(model, state, architecture=CLIP, origin="here")
    del state["visual.transformer.resblocks.23.mlp.c_fc.bias"]
    with pytest.raises(InputError, match=r"blocks\.23\.mlp\.fc1\.bias is missing"):
        load_backbone(model, state, architecture=CLIP, origin="here")


def test_a_probe_trains_its_head_alone_on_features_computed_once(small_clip: Path, monkeypatch) -> None:
    calls: list[int] = []
    embed = training.embed

    def counted(model: Any, pixels: Any, *args: Any, **keys: Any) -> torch.Tensor:
        calls.append(len(pixels))
        return embed(model, pixels, *args, **keys)

    monkeypatch.setattr(training, "embed", counted)
    pixels, labels = bars(60, 0)
    config = ClassifierConfig(
        model=CLIP, epochs=20, resolution_px=64, weights=small_clip, optimizer="adamw", learning_rate=0.01, keep="best"
    )
    assert config.validate() == []
    trained = train_classifier(
        pixels=pixels, labels=labels, config=config, seed=0, device="cpu", validation=bars(20, 1)
    )
    assert calls == [60, 20], "training images once, validation images once"
    start, _ = build_model(CLIP, weights=small_clip, resolution_px=64, seed=derive_seed(0, "classifier", "init"))
    before, after = start.state_dict(), trained.model.state_dict()
    assert {key for key in after if not torch.equal(before[key], after[key])} == {"head.weight", "head.bias"}
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] / 2
    found = predict(trained.model, bars(20, 1)[0], device="cpu").argmax(1)
    kept = trained.history[trained.epoch - 1]["validation_accuracy"]
    assert 100 * (found == bars(20, 1)[1]).mean() == pytest.approx(kept) and kept > 60
    moving = replace(config, augment=True, epochs=1, keep="last")
    augmented = train_classifier(pixels=pixels, labels=labels, config=moving, seed=0, device="cpu")
    assert len(calls) == 2 and augmented.history[0]["steps"] == 3, "augmented images have no features to keep"


@pytest.mark.parametrize(("name", "small"), [("DINOv2 b14, head", "vit_small_patch14_dinov2.lvd142m"),
                                             ("DINOv3 b16, head", "vit_small_patch16_dinov3.lvd1689m")])  # fmt: skip
def test_timms_files_of_dino_fit_at_another_size(tmp_path: Path, monkeypatch, name: str, small: str) -> None:
    spec = replace(MODELS[name], tag=small, input_px=MODELS[name].patch_px * 2)
    monkeypatch.setitem(MODELS, name, spec)
    torch.manual_seed(0)
    theirs = timm.create_model(spec.architecture, pretrained=False, num_classes=0, img_size=spec.patch_px * 4)
    save_file(theirs.state_dict(), tmp_path / f"{small}.safetensors")
    config = ClassifierConfig(model=name, epochs=2, resolution_px=64, weights=tmp_path, pretrained="local")
    pixels, labels = bars(10, 0)
    trained = train_classifier(pixels=pixels, labels=labels, config=config, seed=0, device="cpu")
    assert trained.weights_name == f"{small} (folder)"
    block = "blocks.0.attn.qkv.weight"
    assert torch.equal(trained.model.state_dict()[block], theirs.state_dict()[block])
    assert predict(trained.model, pixels, device="cpu").shape == (10, 5)


def test_encoders_of_today_are_no_part_of_the_default_grid_and_need_their_weights(tmp_path: Path) -> None:
    assert Grid().models == PAPER_MODELS and set(PAPER_MODELS) < set(MODELS)
    encoders = {name for name, model in MODELS.items() if model.trained == "head"}
    assert set(MODELS) - set(PAPER_MODELS) - encoders == {"MobileViT xxs"}, "the demo's"
    assert CLIP in encoders and len(encoders) >= 3
    for name in encoders:
        assert MODELS[name].licence
        assert Grid(models=(name,), table2_regimes=(), resolution_px=512).validate() == []
        assert "finds no weights" in weights_faults(name, weights=tmp_path, pretrained="local")[0]
    assert "FetalCLIP" in weights_faults(CLIP, weights=None, pretrained="auto")[0], "the hub is not asked for it"
