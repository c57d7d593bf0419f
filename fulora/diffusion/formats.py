"""LoRA files in the two formats others read: diffusers' (peft names) and kohya's (web UIs).

In: the adapter's matrices, its rank and alpha. Out: `pytorch_lora_weights.safetensors` or `kohya.safetensors`, the same
bytes for the same adapter. Source: diffusers' `save_lora_weights`; kohya-ss/sd-scripts `networks/lora.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulora.errors import InputError, fault

if TYPE_CHECKING:
    import torch

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The name diffusers' `load_lora_weights(folder)` looks for."""
KOHYA_FILE = "kohya.safetensors"
"""Our name for the kohya file."""

_METADATA_KEY = "lora_adapter_metadata"
_KOHYA_PREFIX = "lora_unet_"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterWeights:
    """The matrices of one adapter on the U-Net. Equation (2): W = W0 + alpha / rank * up @ down."""

    rank: int
    """Inner dimension r."""
    alpha: float
    """Scale alpha; the product is multiplied by alpha / rank."""
    down: dict[str, torch.Tensor]
    """A of equation (2) by module path (`down_blocks.0...attn2.to_q`), float [rank, in]."""
    up: dict[str, torch.Tensor]
    """B of equation (2) by module path, float [out, rank]."""


def lora_weights(unet: Any) -> AdapterWeights:
    """Return the matrices of the one adapter on a U-Net, on the CPU."""
    from peft.utils import get_peft_model_state_dict

    (adapter_name,) = unet.peft_config
    settings = unet.peft_config[adapter_name]
    state = get_peft_model_state_dict(unet, adapter_name=adapter_name)
    down: dict[str, torch.Tensor] = {}
    up: dict[str, torch.Tensor] = {}
    for key, value in sorted(state.items()):
        module, matrix, _ = key.rsplit(".", 2)
        side = {"lora_A": down, "lora_B": up}[matrix]
        side[module] = value.detach().to("cpu", copy=True).contiguous()
    return AdapterWeights(rank=int(settings.r), alpha=float(settings.lora_alpha), down=down, up=up)


def save_diffusers(weights: AdapterWeights, folder: Path) -> Path:
    """Write `pytorch_lora_weights.safetensors` for `StableDiffusionPipeline.load_lora_weights(folder)`; returns it."""
    tensors = {}
    for module in weights.down:
        tensors[f"unet.{module}.lora_A.weight"] = weights.down[module]
        tensors[f"unet.{module}.lora_B.weight"] = weights.up[module]
    # Only what describes the adapter: a full peft configuration ties the file to one peft version.
    settings = {
        "unet.r": weights.rank,
        "unet.lora_alpha": weights.alpha,
        "unet.target_modules": sorted(weights.down),
    }
    metadata = {"format": "pt", _METADATA_KEY: json.dumps(settings, sort_keys=True)}
    return _write(folder / DIFFUSERS_FILE, tensors, metadata)


def save_kohya(weights: AdapterWeights, file: Path, metadata: dict[str, str] | None = None) -> Path:
    """Write a kohya file (`lora_unet_*.lora_down.weight`, `.lora_up.weight`, `.alpha`); returns it.

    `metadata` is added to the file's own `ss_*` entries, which carry rank and alpha.
    """
    import torch

    tensors = {}
    for module in weights.down:
        name = _KOHYA_PREFIX + module.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = weights.down[module]
        tensors[f"{name}.lora_up.weight"] = weights.up[module]
        tensors[f"{name}.alpha"] = torch.tensor(weights.alpha)
    own = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(weights.rank),
        "ss_network_alpha": str(weights.alpha),
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
    }
    return _write(file, tensors, {"format": "pt", **own, **(metadata or {})})


def read_diffusers(folder: Path) -> AdapterWeights:
    """Return the adapter of a folder with a diffusers LoRA file. Raises InputError where there is none."""
    file = folder / DIFFUSERS_FILE
    tensors, metadata = _read(file)
    down: dict[str, torch.Tensor] = {}
    up: dict[str, torch.Tensor] = {}
    for key in sorted(tensors):
        parts = key.split(".")
        if parts[0] != "unet" or parts[-2] not in {"lora_A", "lora_B"}:
            raise InputError(fault("adapter", str(file), f"holds {key}, not a U-Net LoRA matrix", _REMEDY))
        (down if parts[-2] == "lora_A" else up)[".".join(parts[1:-2])] = tensors[key]
    rank = _single_rank(down, up, file)
    settings = json.loads(metadata.get(_METADATA_KEY, "{}"))
    return AdapterWeights(rank=rank, alpha=float(settings.get("unet.lora_alpha", rank)), down=down, up=up)


def read_kohya(file: Path, module_names: Iterable[str]) -> AdapterWeights:
    """Return the adapter of a kohya file; `module_names` are the U-Net's, since kohya writes `_` for every dot.

    Raises InputError where the file is none or names a module the U-Net does not have.
    """
    tensors, _ = _read(file)
    known = {_KOHYA_PREFIX + name.replace(".", "_"): name for name in module_names}
    down: dict[str, torch.Tensor] = {}
    up: dict[str, torch.Tensor] = {}
    alphas = set()
    for key in sorted(tensors):
        name, _, kind = key.partition(".")
        if name not in known:
            raise InputError(fault("adapter", str(file), f"holds {key}, which the base's U-Net does not have", _REMEDY))
        if kind == "alpha":
            alphas.add(float(tensors[key]))
        elif kind in {"lora_down.weight", "lora_up.weight"}:
            (down if kind == "lora_down.weight" else up)[known[name]] = tensors[key]
        else:
            raise InputError(fault("adapter", str(file), f"holds {key}, not a LoRA matrix", _REMEDY))
    rank = _single_rank(down, up, file)
    if len(alphas) > 1:
        raise InputError(fault("adapter", str(file), f"holds {len(alphas)} different alphas", _REMEDY))
    return AdapterWeights(rank=rank, alpha=alphas.pop() if alphas else float(rank), down=down, up=up)


_REMEDY = "Use an adapter folder written by this project, or a LoRA of one rank on the U-Net's attention"


def _single_rank(down: dict[str, torch.Tensor], up: dict[str, torch.Tensor], file: Path) -> int:
    ranks = {value.shape[0] for value in down.values()} | {value.shape[1] for value in up.values()}
    if len(ranks) != 1 or down.keys() != up.keys():
        raise InputError(fault("adapter", str(file), f"holds ranks {sorted(ranks)} in unpaired matrices", _REMEDY))
    return int(ranks.pop())


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise InputError(fault("adapter", str(file), "is not there", _REMEDY))
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(fault("adapter", str(file), f"is no readable safetensors file ({error})", _REMEDY)) from error


def _write(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Path:
    """Write a safetensors file with a sorted header: the library's own order of metadata changes from run to run."""
    from safetensors.torch import save

    content = save(tensors)
    length = int.from_bytes(content[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(content[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(file.name + ".part")
    with scratch.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.write(memoryview(content)[8 + length :])
    os.replace(scratch, file)
    return file
