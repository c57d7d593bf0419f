"""LoRA files in two formats: diffusers' (peft names) and kohya's (web UIs).

In: the adapter's matrices, its rank and alpha. Out: `pytorch_lora_weights.safetensors` or `kohya.safetensors`, the same
bytes for the same adapter; and the adapter read from either.
Source: diffusers' `save_lora_weights`; kohya-ss/sd-scripts `networks/lora.py` (names and `ss_` metadata).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulora.diffusion.tensorfile import read_tensors, write_tensors
from fulora.errors import InputError, fault

if TYPE_CHECKING:
    import torch

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""File name that diffusers' `load_lora_weights(folder)` expects."""
KOHYA_FILE = "kohya.safetensors"
"""Name of the kohya file."""

UNET, TEXT_ENCODER = "unet", "text_encoder"
"""The parts of a base that an adapter can change; the first word of a module's name in `AdapterWeights`."""

_METADATA_KEY = "lora_adapter_metadata"
_TEXT_MODEL = "text_model."
"""Files name the text encoder's modules as transformers 4 did; since 5 this level is gone from the module itself."""
_KOHYA_PARTS = {"lora_unet_": UNET, "lora_te_": TEXT_ENCODER}
_REMEDY = "Use an adapter directory written by this project, or a LoRA of Stable Diffusion 1.x in one rank"


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterWeights:
    """The matrices of one adapter. Equation (2): W = W0 + alpha / rank * up @ down."""

    rank: int
    """Inner dimension r."""
    alpha: float
    """Scale alpha; the product is multiplied by alpha / rank."""
    down: dict[str, torch.Tensor]
    """A of equation (2) by part and module path (`unet.down_blocks.0...attn2.to_q`), float [rank, in] (or + [1, 1])."""
    up: dict[str, torch.Tensor]
    """B of equation (2) by part and module path, float [out, rank] (or + [1, 1])."""


def save_diffusers(weights: AdapterWeights, folder: Path) -> Path:
    """Write `pytorch_lora_weights.safetensors` for `StableDiffusionPipeline.load_lora_weights(folder)`; returns it."""
    tensors: dict[str, torch.Tensor] = {}
    modules: dict[str, list[str]] = {}
    for name in weights.down:
        written = _in_files(name)
        tensors[f"{written}.lora_A.weight"] = weights.down[name]
        tensors[f"{written}.lora_B.weight"] = weights.up[name]
        modules.setdefault(name.partition(".")[0], []).append(written.partition(".")[2])
    # Only what describes the adapter: a full peft configuration ties the file to one peft version.
    settings: dict[str, Any] = {}
    for part, names in modules.items():
        own = {"r": weights.rank, "lora_alpha": weights.alpha, "target_modules": sorted(names)}
        settings |= {f"{part}.{key}": value for key, value in own.items()}
    metadata = {"format": "pt", _METADATA_KEY: json.dumps(settings, sort_keys=True)}
    return write_tensors(folder / DIFFUSERS_FILE, tensors, metadata)


def save_kohya(weights: AdapterWeights, file: Path, metadata: Mapping[str, object] | None = None) -> Path:
    """Write a kohya file (`lora_unet_*.lora_down.weight`, `.lora_up.weight`, `.alpha`); returns it.

    `metadata` is added to the file's own `ss_*` entries, which carry rank and alpha.
    """
    import torch

    prefixes = {part: prefix for prefix, part in _KOHYA_PARTS.items()}
    tensors = {}
    for module in weights.down:
        part, _, path = _in_files(module).partition(".")
        name = prefixes[part] + path.replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = weights.down[module]
        tensors[f"{name}.lora_up.weight"] = weights.up[module]
        tensors[f"{name}.alpha"] = torch.tensor(weights.alpha)
    own: dict[str, object] = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": weights.rank,
        "ss_network_alpha": weights.alpha,
        "ss_base_model_version": "sd_v1",
        "ss_v2": False,
    }
    texts = {key: str(value) for key, value in {**own, **(metadata or {})}.items()}
    return write_tensors(file, tensors, {"format": "pt", **texts})


def read_adapter(path: Path, base: Any) -> AdapterWeights:
    """Return the adapter of a folder with a diffusers file, or of a single file in either format.

    `base` has the parts the names are looked up in, because kohya writes `_` for every dot. Raises InputError if
    there is no adapter, if the file is damaged, or naming the keys that match no module of the base.
    """
    file = path / DIFFUSERS_FILE if path.is_dir() or path.suffix != ".safetensors" else path
    if not file.is_file():
        raise InputError(fault("adapter", str(file), "does not exist", _REMEDY))
    try:
        tensors, metadata = read_tensors(file)
    except (ValueError, OSError) as error:
        raise InputError(fault("adapter", str(file), f"is not a valid safetensors file ({error})", _REMEDY)) from error
    read = _read_kohya if any(key.startswith(tuple(_KOHYA_PARTS)) for key in tensors) else _read_diffusers
    return read(file, tensors, metadata, base)


def _read_diffusers(
    file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], base: Any
) -> AdapterWeights:
    down: dict[str, torch.Tensor] = {}
    up: dict[str, torch.Tensor] = {}
    foreign = []
    for key in sorted(tensors):
        name, _, matrix = key.removesuffix(".weight").rpartition(".")
        if name.partition(".")[0] not in (UNET, TEXT_ENCODER) or matrix not in {"lora_A", "lora_B"}:
            foreign.append(key)
            continue
        (down if matrix == "lora_A" else up)[_in_memory(name, base)] = tensors[key]
    _refuse(file, foreign)
    rank = _single_rank(down, up, file)
    settings = json.loads(metadata.get(_METADATA_KEY, "{}"))
    alphas = [value for key, value in settings.items() if key.endswith(".lora_alpha")]
    return AdapterWeights(rank=rank, alpha=float(alphas[0] if alphas else rank), down=down, up=up)


def _read_kohya(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], base: Any) -> AdapterWeights:
    known = {}
    for prefix, part in _KOHYA_PARTS.items():
        for name, _ in getattr(base, part).named_modules():
            path = _in_files(f"{part}.{name}").partition(".")[2]
            known[prefix + path.replace(".", "_")] = f"{part}.{name}"
    down: dict[str, torch.Tensor] = {}
    up: dict[str, torch.Tensor] = {}
    alphas, foreign = set(), []
    for key in sorted(tensors):
        name, _, kind = key.partition(".")
        if name not in known or kind not in {"alpha", "lora_down.weight", "lora_up.weight"}:
            foreign.append(key)
        elif kind == "alpha":
            alphas.add(float(tensors[key]))
        else:
            (down if kind == "lora_down.weight" else up)[known[name]] = tensors[key]
    _refuse(file, foreign)
    rank = _single_rank(down, up, file)
    if len(alphas) > 1:
        raise InputError(fault("adapter", str(file), f"holds {len(alphas)} different alphas", _REMEDY))
    return AdapterWeights(rank=rank, alpha=alphas.pop() if alphas else float(rank), down=down, up=up)


def _refuse(file: Path, foreign: list[str]) -> None:
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        rule = f"holds {', '.join(foreign[:3])}{more}: no LoRA matrix of a module the base has"
        raise InputError(fault("adapter", str(file), rule, _REMEDY))


def _single_rank(down: dict[str, torch.Tensor], up: dict[str, torch.Tensor], file: Path) -> int:
    ranks = {value.shape[0] for value in down.values()} | {value.shape[1] for value in up.values()}
    lone = sorted(down.keys() ^ up.keys())
    if lone:
        rule = f"holds one of two matrices for {', '.join(lone[:3])}{' and more' if len(lone) > 3 else ''}"
        raise InputError(fault("adapter", str(file), rule, _REMEDY))
    if len(ranks) != 1:
        raise InputError(fault("adapter", str(file), f"holds matrices of ranks {sorted(ranks)}", _REMEDY))
    return int(ranks.pop())


def _in_files(name: str) -> str:
    """Return a module's name as files spell it: the text encoder's below `text_model`."""
    part, _, path = name.partition(".")
    return f"{part}.{_TEXT_MODEL}{path.removeprefix(_TEXT_MODEL)}" if part == TEXT_ENCODER else name


def _in_memory(name: str, base: Any) -> str:
    """Return a module's name as the loaded text encoder has it."""
    part, _, path = name.partition(".")
    if part == TEXT_ENCODER and not hasattr(base.text_encoder, "text_model"):
        return f"{part}.{path.removeprefix(_TEXT_MODEL)}"
    return name
