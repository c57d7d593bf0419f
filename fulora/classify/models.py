"""The paper's five classifier architectures, with ImageNet weights where there are any.

In: a model's name, a folder of weight files (optional), a resolution, a seed. Out: a torch module with a new 5-way
head, and the name of the weights it starts from.
Source: paper section 3, "Downstream Classification" (five architectures, ImageNet weights, new final layer, all weights
trained). Pixels come in [-1, 1], as in the paper, whatever normalisation the weights were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fulora.errors import InputError, fault
from fulora.planes import PLANES

if TYPE_CHECKING:
    from torch import nn

Pretrained = Literal["auto", "local", "hub", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One architecture of the paper and where its ImageNet weights come from."""

    tag: str
    """timm's architecture and weights, pinned, because timm's default weights change between versions."""
    torchvision_stem: str
    """How torchvision names its weight file of this architecture: the part before the dash and hash."""
    channels_last: bool
    """Whether channels-last memory trains faster on a CPU; measured at 64 and 224 px, batch 24, one thread."""
    patch_px: int | None = None
    """Side of a vision transformer's patches: images must be a multiple, and the model is built for their size."""
    relative_cost: float = 2.0
    """Seconds per image relative to the lightest, measured at 64 px; only the order in which trials start depends on
    it."""

    @property
    def architecture(self) -> str:
        """timm's architecture name, the tag without its weights."""
        return self.tag.split(".")[0]


MODELS: dict[str, ModelSpec] = {
    "DenseNet169": ModelSpec(
        tag="densenet169.tv_in1k",
        torchvision_stem="densenet169",
        channels_last=True,
        relative_cost=3.0,
    ),
    "MobileNet v2": ModelSpec(
        tag="mobilenetv2_100.ra_in1k",
        torchvision_stem="mobilenet_v2",
        channels_last=True,
        relative_cost=1.0,
    ),
    "EfficientNet b0": ModelSpec(
        tag="efficientnet_b0.ra_in1k",
        torchvision_stem="efficientnet_b0",
        channels_last=True,
        relative_cost=1.5,
    ),
    "ResNet18": ModelSpec(
        tag="resnet18.tv_in1k",
        torchvision_stem="resnet18",
        channels_last=True,
        relative_cost=1.2,
    ),
    "ViT b16": ModelSpec(
        tag="vit_base_patch16_224.augreg_in1k",
        torchvision_stem="vit_b_16",
        channels_last=False,
        patch_px=16,
        relative_cost=8.0,
    ),
}
"""The five architectures by the paper's names, in its row order. timm has no copy of torchvision's weights of
MobileNet v2, EfficientNet b0 and ViT b16, so its own are pinned; ViT b16: the tag trained on ImageNet-1k alone. Another
architecture of timm is another entry here, and nothing else."""


def model_faults(name: str) -> list[str]:
    """Return the faults of a model's name: none, or one naming the choices."""
    if name in MODELS:
        return []
    return [fault("model", name, f"is unknown; it must be one of {', '.join(map(repr, MODELS))}", "Choose one of them")]


def resolution_faults(name: str, resolution_px: int) -> list[str]:
    """Return the faults of an input's side for a known model: none, or one naming the rule."""
    patch = MODELS[name].patch_px or 1
    if resolution_px >= 32 and resolution_px % patch == 0:
        return []
    rule = "must be at least 32" + (f", and a multiple of {patch} for {name}" if patch > 1 else "")
    return [fault("resolution_px", resolution_px, rule, "Choose 64, 224 or 512")]


def new_model(name: str, *, resolution_px: int, seed: int) -> nn.Module:
    """Return the architecture with random weights, a 5-way head and `resolution_px` input; the same for the same seed.

    Raises InputError for an unknown name or a resolution the architecture cannot take.
    """
    import timm
    import torch

    if faults := model_faults(name) or resolution_faults(name, resolution_px):
        raise InputError(faults)
    architecture = MODELS[name].architecture
    with torch.random.fork_rng(devices=[]):  # timm initialises from the global generator; leave it as it was
        torch.manual_seed(seed)
        if MODELS[name].patch_px is None:
            return timm.create_model(architecture, pretrained=False, num_classes=len(PLANES))
        vit = timm.create_model(
            architecture, pretrained=False, num_classes=len(PLANES), img_size=resolution_px, weight_init="skip"
        )
        _initialise_vit(vit)
        return vit


def _initialise_vit(model: nn.Module) -> None:
    """Draw timm's initial weights of a ViT, in place, in a second instead of four.

    timm cuts the normal distribution of standard deviation 0.02 at +-2, a hundred deviations, so a plain normal is the
    same; the patch convolution is initialised by its constructor.
    """
    from torch import nn

    nn.init.normal_(model.cls_token, std=1e-6)  # type: ignore[arg-type]
    nn.init.normal_(model.pos_embed, std=0.02)  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def weights_identity(name: str, *, weights: Path | None, pretrained: Pretrained) -> str:
    """Return what a model starts from, wherever it lies: a file's SHA-256, the hub's tag, or `from scratch`.

    What `auto` finds on the hub shows when it is asked; the name `build_model` returns says it.
    """
    from fulora.classify import weights as files

    spec = MODELS[name]
    if pretrained in ("auto", "local") and weights is not None:
        file = files.find_file(weights, spec.tag, spec.torchvision_stem)
        if file is not None:
            return files.sha256_of(file)
    return "from scratch" if pretrained in ("none", "local") else f"hub:{spec.tag}"


def build_model(
    name: str,
    *,
    weights: Path | None = None,
    resolution_px: int,
    seed: int,
    pretrained: Pretrained = "auto",
) -> tuple[nn.Module, str]:
    """Return the model on the CPU, and the name of its starting weights.

    The name is `resnet18.tv_in1k (folder)`, `resnet18.tv_in1k (hub)` or `from scratch`; for a torchvision file it is
    the file's name. `auto` looks in `weights`, then on the hub, and starts from scratch where neither has any; `local`
    does not ask the hub; `hub` raises InputError where the hub has none; `none` is from scratch. The head is new.
    """
    from fulora.classify import weights as files

    model = new_model(name, resolution_px=resolution_px, seed=seed)
    spec = MODELS[name]
    if pretrained == "none":
        return model, "from scratch"
    if pretrained in ("auto", "local") and weights is not None:
        file = files.find_file(weights, spec.tag, spec.torchvision_stem)
        if file is not None:
            files.load_backbone(model, files.read_state(file), architecture=name, origin=str(file))
            label = spec.tag if file.stem == spec.tag else file.name
            return model, f"{label} (folder)"
    if pretrained == "local":
        return model, "from scratch"
    state = files.hub_state(spec.tag)
    if state is not None:
        files.load_backbone(model, state, architecture=name, origin=f"hub:timm/{spec.tag}")
        return model, f"{spec.tag} (hub)"
    if pretrained == "hub":
        remedy = "Connect this machine, or put the file into a folder given as weights, or choose pretrained='none'"
        raise InputError(fault("pretrained", "hub", f"finds no weights {spec.tag} on the Hugging Face hub", remedy))
    return model, "from scratch"
