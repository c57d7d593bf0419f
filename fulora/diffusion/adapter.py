"""LoRA on the attention of a base: added for training, merged for sampling.

In: a base's U-Net or text encoder. Out: the same with trainable matrices A and B beside frozen weights, or with
weights W0 + alpha / rank * B A.
Source: FU-LoRA equation (2); Hu et al. 2021. B is initialised to zero, so training starts at the base.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal

from fulora.diffusion.formats import TEXT_ENCODER, UNET, AdapterWeights
from fulora.errors import InputError, fault

if TYPE_CHECKING:
    import torch

    from fulora.diffusion.base import Base

Initialisation = Literal["gaussian", "kaiming"]
"""Initialisation of A. `gaussian`: standard deviation 1 / rank (the paper's, as in peft). `kaiming`: uniform within
1 / sqrt(inputs) (the released code's)."""

_PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)"
TARGETS: dict[str, str] = {
    "cross_attention": rf".*\.attn2\.{_PROJECTIONS}",
    "all_attention": rf".*\.attn[12]\.{_PROJECTIONS}",
    "transformer": rf".*\.(attn[12]\.{_PROJECTIONS}|ff\.net\.(0\.proj|2)|proj_in|proj_out)",
}
"""Which layers of the U-Net are adapted, by name: the paper's; self-attention too; and every linear layer and 1 x 1
convolution of the transformer blocks, as the released code does."""

TEXT_TARGETS = r".*\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
"""The text encoder's linear layers, as the released code adapts them."""


def target_modules(targets: str) -> str:
    """Return the regular expression of module paths for one of TARGETS; any other text is itself the pattern."""
    return TARGETS.get(targets, targets)


def add_lora(
    module: Any, *, rank: int, alpha: float, targets: str, seed: int, init: Initialisation = "gaussian"
) -> list[Any]:
    """Add a LoRA to a U-Net or text encoder in place and return its trainable parameters, float32.

    A is drawn on the CPU in the order of the names, so it depends on the seed but not on the device or torch's global
    generator; B is zero. Raises InputError listing the layers if none matches the targets.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    pattern = target_modules(targets)
    check_targets(module, pattern, targets)
    module.requires_grad_(False)
    # peft's hint says int; it divides alpha by rank and takes any number.
    settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha}
    with torch.random.fork_rng(devices=[]):  # peft draws too; its draws are replaced below
        inject_adapter_in_model(LoraConfig(target_modules=pattern, **settings), module)
    generator = torch.Generator("cpu").manual_seed(seed)
    trainable = []
    for name, parameter in module.named_parameters():
        if ".lora_" not in name:
            if parameter.requires_grad:
                raise RuntimeError(f"{name} belongs to the base and would be trained")
            continue
        if not parameter.requires_grad:
            raise RuntimeError(f"{name} belongs to the adapter and is frozen")
        drawn = ".lora_A." in name
        values = initial_matrix(parameter.shape, init, rank, generator) if drawn else torch.zeros(parameter.shape)
        parameter.data = values.to(device=parameter.device)
        trainable.append(parameter)
    return trainable


def initial_matrix(shape: Any, init: Initialisation, rank: int, generator: torch.Generator) -> torch.Tensor:
    """Return A at the start, float32 of the shape [rank, inputs, ...], drawn on the CPU."""
    import torch

    if init == "gaussian":
        return torch.randn(shape, generator=generator) / rank
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(math.prod(shape[1:]))


def lora_weights(unet: Any, text_encoder: Any = None) -> AdapterWeights:
    """Return copies of the matrices added to a U-Net and, if it has any, to a text encoder, on the CPU."""
    down: dict[str, Any] = {}
    up: dict[str, Any] = {}
    settings = None
    for part, module in ((UNET, unet), (TEXT_ENCODER, text_encoder)):
        for name, parameter in module.named_parameters() if module is not None else ():
            path, found, rest = name.partition(".lora_")
            if found:
                side = {"A": down, "B": up}[rest[0]]
                side[f"{part}.{path}"] = parameter.detach().to("cpu", copy=True).contiguous()
                settings = settings or module.peft_config["default"]
    if settings is None:
        raise ValueError("neither part has a LoRA")
    return AdapterWeights(rank=int(settings.r), alpha=float(settings.lora_alpha), down=down, up=up)


def merge(base: Base, weights: AdapterWeights, origin: str = "adapter") -> None:
    """Replace each adapted weight of a base by W0 + alpha / rank * B A, in place.

    Merge in float32 and lower the precision afterwards: half precision rounds small changes away.
    Raises InputError naming the first modules that do not fit the base.
    """
    import torch

    check_fit(base, weights, origin)
    with torch.no_grad():
        for name, down in weights.down.items():
            weight = _submodule(base, name).weight
            change = weights.up[name].flatten(1).float() @ down.flatten(1).float()
            change *= weights.alpha / weights.rank
            weight += change.reshape(weight.shape).to(weight.device, weight.dtype)


def check_fit(base: Base, weights: AdapterWeights, origin: str) -> None:
    """Raise InputError unless the base has a module of matching size for every matrix."""
    faults = []
    for name, down in weights.down.items():
        have = getattr(_submodule(base, name), "weight", None)
        want = (weights.up[name].shape[0], down.shape[1])
        if have is None:
            faults.append(f"the base has no module {name}")
        elif tuple(have.shape[:2]) != want:
            faults.append(f"{name} is {tuple(have.shape[:2])} in the base and {want} in the adapter")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        rule = f"does not fit the base: {'; '.join(faults[:3])}{more}"
        raise InputError(fault("adapter", origin, rule, "Use the base the adapter was trained on"))


def _submodule(base: Base, name: str) -> Any:
    part, _, path = name.partition(".")
    try:
        return getattr(base, part).get_submodule(path)
    except AttributeError:
        return None


def check_targets(module: Any, pattern: str, targets: str) -> None:
    """Raise InputError listing the layers of a module if none matches the pattern that `targets` stands for."""
    from torch import nn

    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    if any(re.fullmatch(pattern, name) for name in names):
        return
    kinds = sorted({re.sub(r"(?<=\.)\d+", "N", name) for name in names})
    listed = ", ".join(kinds[:12]) + (f" and {len(kinds) - 12} more kinds" if len(kinds) > 12 else "")
    remedy = f"Use {', '.join(TARGETS)}, or a pattern of the base's layers (N a number): {listed}"
    raise InputError(fault("targets", targets, "matches no layer of the base", remedy))
