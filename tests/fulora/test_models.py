"""The five architectures build, run, and take weights of timm and of torchvision, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import (
    MODELS,
    PAPER_MODELS,
    ModelSpec,
    build_model,
    new_model,
    weights_faults,
    weights_identity,
)
from fulora.classify.training import predict, train_classifier
from fulora.errors import InputError
from fulora.experiment import Grid

TORCHVISION = {
    "DenseNet169": torchvision.models.densenet169,
    "MobileNet v2": torchvision.models.mobilenet_v2,
    "EfficientNet b0": torchvision.models.efficientnet_b0,
    "ResNet18": torchvision.models.resnet18,
    "ViT b16": torchvision.models.vit_b_16,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_runs_at_64_px_with_five_outputs_and_is_seeded(name: str) -> None:
    model = new_model(name, resolution_px=64, seed=3).eval()
    with torch.inference_mode():
        out = model(torch.zeros(2, 3, 64, 64))
    assert out.shape == (2, 5) and out.isfinite().all()
    again, other = (new_model(name, resolution_px=64, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    assert any(not torch.equal(value, other[key]) for key, value in again.items())


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    new_model("MobileNet v2", resolution_px=64, seed=9)
    assert torch.equal(torch.rand(1), expected)


def test_vit_starts_as_timm_starts_it() -> None:
    import timm

    ours = new_model("ViT b16", resolution_px=64, seed=0).state_dict()
    theirs = timm.create_model("vit_base_patch16_224", num_classes=5, img_size=64).state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        if value.numel() > 10_000:
            assert ours[key].std() == pytest.approx(float(value.std()), rel=0.03), key
        elif value.numel() > 1:
            assert ours[key].std() == pytest.approx(float(value.std()), rel=0.3, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER_MODELS)
def test_runs_at_512_px(name: str) -> None:
    with torch.inference_mode():
        assert new_model(name, resolution_px=512, seed=0).eval()(torch.zeros(1, 3, 512, 512)).shape == (1, 5)


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_torchvision_file_gives_torchvision_features(name: str, tmp_path) -> None:
    """The mapping of names is right if timm's model then computes what torchvision's does."""
    torch.manual_seed(0)
    theirs = TORCHVISION[name](weights=None).eval()
    file = torchvision.models.get_model_weights(TORCHVISION[name]).IMAGENET1K_V1.url.rpartition("/")[2]
    torch.save(theirs.state_dict(), tmp_path / file)
    resolution = 224 if name == "ViT b16" else 64
    ours, label = build_model(name, weights=tmp_path, resolution_px=resolution, seed=0)
    assert label == f"{file} (folder)"
    for part in ("classifier", "fc", "heads"):
        if hasattr(theirs, part):
            setattr(theirs, part, torch.nn.Identity())
    ours.reset_classifier(0)
    image = torch.rand(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(image), theirs(image), rtol=1e-3, atol=1e-4)


@pytest.fixture
def vit_weights(tmp_path):
    """Return a folder with ViT weights of 224 px, whose position embedding grows from the left to the right."""
    big = new_model("ViT b16", resolution_px=224, seed=1)
    with torch.no_grad():
        big.pos_embed[:, 1:] = torch.linspace(0, 1, 14).repeat(14)[None, :, None]
    save_file(big.state_dict(), tmp_path / f"{MODELS['ViT b16'].tag}.safetensors")
    return tmp_path


@pytest.mark.parametrize("resolution_px", [64, 512])
def test_vit_weights_of_224_px_fit_other_sizes(vit_weights, resolution_px: int) -> None:
    big = new_model("ViT b16", resolution_px=224, seed=1)
    fitted, label = build_model("ViT b16", weights=vit_weights, resolution_px=resolution_px, seed=2)
    assert label == "vit_base_patch16_224.augreg_in1k (folder)"
    side = resolution_px // 16
    assert fitted.pos_embed.shape == (1, side**2 + 1, 768)
    grid = fitted.pos_embed[0, 1:, 0].reshape(side, side)
    assert torch.allclose(grid, grid[:1].expand(side, side), atol=1e-5), "what did not change from row to row does not"
    assert (grid.diff(dim=1)[:, 1:-1] > 0).all() and grid[0, 0] < 0.15 and grid[0, -1] > 0.85
    assert torch.equal(fitted.pos_embed[0, 0], big.pos_embed[0, 0])
    assert torch.equal(fitted.blocks[3].attn.qkv.weight, big.blocks[3].attn.qkv.weight)
    assert not torch.equal(fitted.head.weight, big.head.weight)


@pytest.mark.slow
def test_vit_trains_at_512_px_from_weights_of_224_px(vit_weights) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 512, 512, 3), dtype=np.uint8)
    config = ClassifierConfig(model="ViT b16", epochs=1, resolution_px=512, weights=vit_weights, pretrained="local")
    trained = train_classifier(pixels=images, labels=np.array([0, 3]), config=config, seed=0, device="cpu")
    assert trained.weights_name == "vit_base_patch16_224.augreg_in1k (folder)"
    assert 0.1 < trained.history[0]["loss"] < 5
    assert predict(trained.model, images, device="cpu").shape == (2, 5)


def test_file_of_another_architecture_is_named(tmp_path) -> None:
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet18-bad00bad.pth")
    with pytest.raises(InputError, match=r"does not fit ResNet18.*layer1\.2\.conv1\.weight is unexpected"):
        build_model("ResNet18", weights=tmp_path, resolution_px=64, seed=0)
    (tmp_path / "resnet18-bad00bad.pth").rename(tmp_path / "mobilenet_v2-bad00bad.pth")
    with pytest.raises(InputError, match=r"conv_stem\.weight is missing"):
        build_model("MobileNet v2", weights=tmp_path, resolution_px=64, seed=0)


def test_files_that_are_not_weights(tmp_path) -> None:
    bad = tmp_path / "resnet18.tv_in1k.safetensors"
    bad.write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot be read safely"):
        build_model("ResNet18", weights=tmp_path, resolution_px=64, seed=0)
    bad.unlink()
    torch.save(np.zeros(3), tmp_path / "resnet18.pth")  # needs the unsafe loader
    with pytest.raises(InputError, match="cannot be read safely"):
        build_model("ResNet18", weights=tmp_path, resolution_px=64, seed=0)
    torch.save({"epoch": 3}, tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match="is not a state dict of tensors"):
        build_model("ResNet18", weights=tmp_path, resolution_px=64, seed=0)
    torch.save({}, tmp_path / "resnet18-00.pth")
    with pytest.raises(InputError, match="several files"):
        build_model("ResNet18", weights=tmp_path, resolution_px=64, seed=0)
    with pytest.raises(InputError, match="is not a directory"):
        build_model("ResNet18", weights=tmp_path / "absent", resolution_px=64, seed=0)


def test_without_weights_it_says_from_scratch(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert build_model("ResNet18", weights=tmp_path, resolution_px=64, seed=0, pretrained="local")[1] == "from scratch"
    assert build_model("ResNet18", resolution_px=64, seed=0, pretrained="none")[1] == "from scratch"


@pytest.mark.parametrize("pretrained", ["auto", "hub"])
def test_what_asks_for_weights_never_starts_without_them(tmp_path, monkeypatch, pretrained) -> None:
    """Its identity names the hub's weights, so a training from scratch would count as done when the hub answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert weights_identity("ResNet18", weights=tmp_path, pretrained=pretrained) == "hub:resnet18.tv_in1k"
    (found,) = weights_faults("ResNet18", weights=tmp_path, pretrained=pretrained)
    assert "resnet18.tv_in1k" in found and "--grid.pretrained none" in found
    with pytest.raises(InputError, match="finds no weights resnet18"):
        build_model("ResNet18", weights=tmp_path, resolution_px=64, seed=0, pretrained=pretrained)
    assert weights_faults("ResNet18", weights=tmp_path, pretrained="local") == []


def test_weights_in_the_hubs_cache_are_found_without_a_network(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--resnet18.tv_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    state = new_model("ResNet18", resolution_px=64, seed=5).state_dict()
    save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    assert weights_faults("ResNet18", weights=None, pretrained="auto") == []
    model, label = build_model("ResNet18", resolution_px=64, seed=0)
    assert label == "resnet18.tv_in1k (hub)" and torch.equal(model.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(("name", "resolution", "words"), [("ResNet19", 64, "'ViT b16'"), ("ViT b16", 70, "multiple")])
def test_bad_model_or_resolution(name: str, resolution: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        new_model(name, resolution_px=resolution, seed=0)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("ResNet34", ModelSpec(
            tag="resnet34.tv_in1k", torchvision_stem="resnet34", channels_last=True)),
        ("ViT tiny", ModelSpec(
            tag="vit_tiny_patch16_224.augreg_in21k_ft_in1k", torchvision_stem="none",
            channels_last=False, patch_px=16)),
    ],
)  # fmt: skip
def test_another_architecture_is_one_entry(monkeypatch: pytest.MonkeyPatch, name: str, spec: ModelSpec) -> None:
    monkeypatch.setitem(MODELS, name, spec)
    grid = Grid(models=(name,), regimes=("ES",), table2_regimes=(), resolution_px=48, pretrained="none", epochs=1)
    assert grid.validate() == []
    ((_, _, config),) = grid.trials()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 48, 48, 3), dtype=np.uint8)
    trained = train_classifier(pixels=pixels, labels=np.arange(6) % 5, config=config, seed=0, device="cpu")
    assert predict(trained.model, pixels, device="cpu").shape == (6, 5)
    wrong = replace(grid, resolution_px=50).validate()
    assert (len(wrong) == 1 and "a multiple of 16 for ViT tiny" in wrong[0]) if spec.patch_px else not wrong
