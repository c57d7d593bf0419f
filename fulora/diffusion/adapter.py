"""LoRA on the U-Net's attention: added for training, loaded and fused for sampling.

In: a base's U-Net. Out: the same U-Net with trainable matrices A and B beside frozen weights, or with
W0 + alpha / rank * B A in their place.
Source: FU-LoRA equation (2); Hu et al. 2021. A Gaussian, B zero, so training starts at the base.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fulora.diffusion.formats import AdapterWeights, read_diffusers
from fulora.errors import InputError, fault

if TYPE_CHECKING:
    from fulora.diffusion.base import Base

AdapterTargets = Literal["cross_attention", "all_attention"]
"""Which projections are adapted. `cross_attention` is the paper's; `all_attention` adds self-attention."""

_LAYERS: dict[str, str] = {"cross_attention": "attn2", "all_attention": "attn[12]"}


def target_modules(targets: AdapterTargets) -> str:
    """Return peft's pattern of the adapted modules: the query, key, value and output projections."""
    return rf".*\.{_LAYERS[targets]}\.(to_q|to_k|to_v|to_out\.0)"


def add_lora(unet: Any, *, rank: int, alpha: float, targets: AdapterTargets, seed: int) -> list[Any]:
    """Add a LoRA to a U-Net in place and return its trainable parameters, float32.

    A is Gaussian of deviation 1 / rank (peft's `gaussian`), drawn on the CPU in the order of the names, so it depends
    on the seed and neither on the device nor on torch's global generator. B is zero.
    """
    import torch
    from peft import LoraConfig

    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws too; its draws are replaced below
        # peft's hint says int; it divides alpha by rank and takes any number.
        settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "init_lora_weights": "gaussian"}
        unet.add_adapter(LoraConfig(target_modules=target_modules(targets), **settings))
    generator = torch.Generator("cpu").manual_seed(seed)
    trainable = []
    for name, parameter in unet.named_parameters():
        if ".lora_" not in name:
            if parameter.requires_grad:
                raise RuntimeError(f"{name} belongs to the base and would be trained")
            continue
        if not parameter.requires_grad:
            raise RuntimeError(f"{name} belongs to the adapter and is frozen")
        values = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            values = torch.randn(parameter.shape, generator=generator) / rank
        parameter.data = values.to(device=parameter.device)
        trainable.append(parameter)
    return trainable


def load_adapter(base: Base, folder: Path) -> AdapterWeights:
    """Load the diffusers adapter of a folder onto a base's U-Net, unfused, and return its matrices.

    Raises InputError naming the first modules that do not fit the base.
    """
    weights = read_diffusers(Path(folder))
    check_fit(base.unet, weights, str(folder))
    state = {f"unet.{name}.lora_A.weight": value for name, value in weights.down.items()}
    state |= {f"unet.{name}.lora_B.weight": value for name, value in weights.up.items()}
    settings = {"r": weights.rank, "lora_alpha": weights.alpha, "target_modules": sorted(weights.down)}
    base.unet.load_lora_adapter(
        state, prefix="unet", metadata={f"unet.{key}": value for key, value in settings.items()}
    )
    base.unet.requires_grad_(False)
    return weights


def fuse(base: Base) -> None:
    """Put W0 + alpha / rank * B A in the place of each adapted weight and take the adapter off, in place.

    Fuse in float32 and lower the precision afterwards: a small change is lost on a half-precision weight.
    """
    base.unet.fuse_lora()
    base.unet.unload_lora()


def check_fit(unet: Any, weights: AdapterWeights, origin: str) -> None:
    """Raise InputError unless every matrix has a module of its size in the U-Net."""
    modules = dict(unet.named_modules())
    faults = []
    for name, down in weights.down.items():
        have = getattr(modules.get(name), "weight", None)
        want = (weights.up[name].shape[0], down.shape[1])
        if have is None:
            faults.append(f"the base has no module {name}")
        elif tuple(have.shape[:2]) != want:
            faults.append(f"{name} is {tuple(have.shape)} in the base and {want} in the adapter")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        rule = f"does not fit the base: {'; '.join(faults[:3])}{more}"
        raise InputError(fault("adapter", origin, rule, "Use the base the adapter was trained on"))
