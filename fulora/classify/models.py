"""The paper's five classifier architectures and encoders of today, with pretrained weights where available.

In: a model's name, a directory of weight files (optional), a resolution, a seed. Out: a torch module with a new 5-way
head, and the name of its initial weights.
Source: paper section 3, "Downstream Classification" (five architectures, ImageNet weights, new final layer, all weights
trained). Pixels are in [-1, 1], as in the paper, whatever normalisation the weights were trained with; a frozen encoder
takes them as it was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fulora.errors import InputError, fault
from fulora.planes import PLANES

if TYPE_CHECKING:
    from torch import nn

Pretrained = Literal["auto", "local", "hub", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One architecture of the paper and where its ImageNet weights come from."""

    tag: str
    """timm's architecture and pinned weights, as timm's default weights change between versions."""
    torchvision_stem: str
    """Name of torchvision's weight file of this architecture before the dash and hash, as a regular expression."""
    channels_last: bool
    """Whether channels-last memory trains faster on a CPU; measured at 64 and 224 px, batch 24, one thread."""
    patch_px: int | None = None
    """Patch size of a vision transformer: the resolution must be a multiple of it."""
    relative_cost: float = 2.0
    """Seconds per image relative to the lightest, measured at 64 px; used only to order
    trials."""
    trained: Literal["all", "head"] = "all"
    """All weights (the paper's way), or the new head alone on a frozen encoder (linear probe)."""
    input_px: int | None = None
    """Side that the model resizes its input to; None: it takes the grid's resolution."""
    on_hub: bool = True
    """Whether timm's hub has the weights; else they are given as a file, or the model is refused."""
    normalised_as: str | None = None
    """timm's name of weights whose pixel mean and deviation these have; None: the tag's own."""
    licence: str = "see the source of the weights"
    """Licence of the weights, recorded with every training."""

    @property
    def range_tag(self) -> str:
        """timm's name of the weights whose pixel range the model was trained with."""
        return self.normalised_as or self.tag

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
        torchvision_stem="efficientnet_b0(?:_rwightman)?",
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
    # Transformer blocks among convolutions: learns from some hundred images of 64 px, as ViT b16 does not. Source:
    # Mehta and Rastegari, "MobileViT", arXiv 2110.02178.
    "MobileViT xxs": ModelSpec(
        tag="mobilevit_xxs.cvnets_in1k",
        torchvision_stem="mobilevit_xxs",
        channels_last=True,
        relative_cost=1.0,
    ),
    "DINOv2 b14, head": ModelSpec(
        tag="vit_base_patch14_dinov2.lvd142m",
        torchvision_stem="dinov2_vitb14",
        channels_last=False,
        patch_px=14,
        relative_cost=3.0,
        trained="head",
        input_px=224,
        licence="Apache-2.0",
    ),
    "DINOv3 b16, head": ModelSpec(
        tag="vit_base_patch16_dinov3.lvd1689m",
        torchvision_stem="dinov3_vitb16",
        channels_last=False,
        patch_px=16,
        relative_cost=3.0,
        trained="head",
        input_px=256,
        licence="DINOv3 License",
    ),
    # An open_clip file released by its authors (arXiv 2502.14807); its images are normalised as CLIP's.
    "FetalCLIP l14, head": ModelSpec(
        tag="vit_large_patch14_clip_224.fetalclip",
        torchvision_stem="FetalCLIP_weights",
        channels_last=False,
        patch_px=14,
        relative_cost=8.0,
        trained="head",
        input_px=224,
        on_hub=False,
        normalised_as="vit_large_patch14_clip_224.openai",
        licence="of its authors: see where the file is from",
    ),
}
"""Architectures by name: the paper's five in its row order, the demo's, then encoders of today. timm has no copy of
torchvision's weights of MobileNet v2, EfficientNet b0 and ViT b16, so its own are pinned; ViT b16: the tag trained on
ImageNet-1k alone. To add an architecture of timm, add an entry here."""

PAPER_MODELS = ("DenseNet169", "MobileNet v2", "EfficientNet b0", "ResNet18", "ViT b16")
"""The paper's five, in its row order; the default grid. The others are trained where `--grid.models` names them."""


def model_faults(name: str) -> list[str]:
    """Return the faults of a model's name: none, or one naming the choices."""
    if name in MODELS:
        return []
    return [fault("model", name, f"is unknown; it must be one of {', '.join(map(repr, MODELS))}", "Choose one of them")]


def resolution_faults(name: str, resolution_px: int) -> list[str]:
    """Return the faults of an input's side for a known model: none, or one naming the rule."""
    patch = MODELS[name].patch_px or 1 if MODELS[name].input_px is None else 1
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
    with torch.random.fork_rng(devices=[]):  # timm initialises from the global generator: restore it
        torch.manual_seed(seed)
        spec, shared = MODELS[name], dict[str, Any](pretrained=False, num_classes=len(PLANES))
        if spec.patch_px is None:
            return timm.create_model(architecture, **shared)
        side = spec.input_px or resolution_px
        if spec.trained == "head":  # a probe of random weights is of no use, however they are drawn
            return timm.create_model(architecture, img_size=side, **shared)
        vit = timm.create_model(architecture, img_size=side, weight_init="skip", **shared)
        _initialise_vit(vit)
        return vit


def _initialise_vit(model: nn.Module) -> None:
    """Initialise a ViT as timm does, in place, in one second instead of four.

    timm truncates the normal distribution of standard deviation 0.02 at +-2, a hundred deviations, so a plain normal is
    equivalent; the patch convolution is initialised by its constructor.
    """
    from torch import nn

    nn.init.normal_(model.cls_token, std=1e-6)  # type: ignore[arg-type]
    nn.init.normal_(model.pos_embed, std=0.02)  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)


def weights_identity(name: str, *, weights: Path | None, pretrained: Pretrained) -> str:
    """Return the identity of a model's initial weights: a file's SHA-256, the hub's tag, or `from scratch`.

    Does not contact the hub. It is what `build_model` starts from, which raises where it cannot: no training of the
    hub's identity started from scratch.
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
    """Return the model on the CPU, and the name of its initial weights.

    The name is `resnet18.tv_in1k (folder)`, `resnet18.tv_in1k (hub)` or `from scratch`; for a torchvision file it is
    the file's name. `auto` looks in `weights`, then on the hub; `hub` on the hub alone; both raise InputError where
    there are none. `local` looks in `weights`, else starts from scratch; `none` is from scratch. The head is new.
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
    state = files.hub_state(spec.tag) if spec.on_hub else None
    if state is not None:
        files.load_backbone(model, state, architecture=name, origin=f"hub:timm/{spec.tag}")
        return model, f"{spec.tag} (hub)"
    raise InputError(_absent(name, pretrained))


def weights_faults(name: str, *, weights: Path | None, pretrained: Pretrained) -> list[str]:
    """Return the faults of a model's initial weights, before any training: none, or that they are nowhere to be found.

    Contacts the hub where they are neither in `weights` nor in the hub's cache.
    """
    from fulora.classify import weights as files

    identity = weights_identity(name, weights=weights, pretrained=pretrained)
    if identity == "from scratch" and MODELS[name].trained == "head":
        return [_absent(name, pretrained)]  # a frozen encoder of random weights says nothing
    if not identity.startswith("hub:") or (MODELS[name].on_hub and files.hub_has(MODELS[name].tag)):
        return []
    return [_absent(name, pretrained)]


def _absent(name: str, pretrained: Pretrained) -> str:
    rule = f"finds no weights {MODELS[name].tag} of {name}: not in the directory given as weights, nor on the hub"
    remedy = "Connect to a network, give --weights DIR with the file, or --grid.pretrained none to start from scratch"
    return fault("pretrained", pretrained, rule, remedy)
