"""Load, check and freeze the diffusion base model.

In: `tiny`, `random:sd15`, a local diffusers directory, a single .safetensors file (or, where unpickling is
allowed, .ckpt), or the id of a repository on the Hugging Face hub.
Out: a `Base`, the parts of a Stable Diffusion pipeline on a device, with the hash of the weights that ran.
Source: Rombach et al. 2022 (latent diffusion); the layout is diffusers' StableDiffusionPipeline.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulora.diffusion import random_base
from fulora.diffusion.base_files import (
    PARTS,
    RANDOM,
    REMEDY,
    TINY,
    check_base,
    check_folder,
    fingerprint,
    hash_files,
    tiny_folder,
    weight_files,
)
from fulora.errors import InputError, fault, one_line

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline


@dataclass(kw_only=True, slots=True)
class Base:
    """A loaded base. Every weight is frozen and every part in evaluation mode."""

    name: str
    """Name for tables and reports: the spec and the short hash."""
    sha256: str
    """First 16 hexadecimal digits of the hash over the weight files, in the order of their names."""
    vae: Any
    """AutoencoderKL."""
    unet: Any
    """UNet2DConditionModel."""
    text_encoder: Any
    """CLIPTextModel."""
    tokenizer: Any
    """CLIPTokenizer."""
    scheduler: Any
    """The base's own scheduler; others are made from its configuration."""
    device: str
    """torch device of the parts."""
    dtype: torch.dtype
    """dtype of the weights."""

    @property
    def pixels_per_latent(self) -> int:
        """Return the autoencoder's spatial factor: 8 for Stable Diffusion 1.5."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def to(self, device: str, dtype: torch.dtype) -> Base:
        """Move every part to a device and type, in place; returns the same base."""
        from torch.nn import Module

        for part in PARTS:
            # torch's own `to`: diffusers' warns of parts kept in float32 even where a model has none.
            Module.to(getattr(self, part), device=device, dtype=dtype)
        self.device, self.dtype = device, dtype
        return self


def load_base(spec: str, *, device: str = "cpu", dtype: torch.dtype | None = None, allow_pickle: bool = False) -> Base:
    """Return the base of `spec` on a device, frozen; `dtype` None is float32.

    Weights are read from safetensors; `allow_pickle` also lets diffusers read .bin and .ckpt files, which can run code.
    Raises InputError if the base does not exist, the hub cannot be reached, or it is not an epsilon-predicting
    text-to-image model.
    """
    import torch

    check_base(spec, allow_pickle=allow_pickle)
    dtype = dtype or torch.float32
    if spec == RANDOM:
        with _quiet_loading():
            pipe = random_base.build_random(dtype)
        return _frozen(pipe, fingerprint(spec), f"{RANDOM} (random weights", device, dtype)
    path = tiny_folder() if spec == TINY else Path(spec).expanduser()
    options: dict[str, Any] = {"dtype": dtype, "safety_checker": None, "requires_safety_checker": False}
    with _quiet_loading():
        from diffusers import StableDiffusionPipeline

        if path.is_file():
            pipe = _from_single_file(path, spec, options)
            weights = [path]
        else:
            folder = path if path.is_dir() else _download(spec, allow_pickle=allow_pickle)
            check_folder(folder, spec)
            try:
                pipe = StableDiffusionPipeline.from_pretrained(
                    folder, use_safetensors=None if allow_pickle else True, local_files_only=True, **options
                )
            except (OSError, ValueError, AttributeError, TypeError, RuntimeError) as error:
                raise InputError(fault("base", spec, f"cannot be loaded ({one_line(error)})", REMEDY)) from error
            weights = weight_files(folder)
    _check_parts(pipe, spec)
    label = f"{TINY} (bundled" if spec == TINY else f"{spec} (weights"
    return _frozen(pipe, hash_files(weights), label, device, dtype)


def _frozen(pipe: Any, sha256: str, label: str, device: str, dtype: torch.dtype) -> Base:
    """Return a pipeline's parts as a frozen base on a device."""
    for part in PARTS:
        getattr(pipe, part).requires_grad_(False).eval()
    base = Base(
        name=f"{label}, sha256 {sha256[:8]})",
        sha256=sha256,
        vae=pipe.vae,
        unet=pipe.unet,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        scheduler=pipe.scheduler,
        device=device,
        dtype=dtype,
    )
    return base.to(device, dtype)


def pipeline(base: Base) -> StableDiffusionPipeline:
    """Return diffusers' own pipeline over the same parts, without a safety checker."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=base.vae,
        unet=base.unet,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        scheduler=base.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _check_parts(pipe: Any, spec: str) -> None:
    prediction = pipe.scheduler.config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise InputError(fault("base", spec, f"predicts {prediction}; only epsilon is supported", REMEDY))
    channels = (pipe.unet.config.in_channels, pipe.vae.config.latent_channels)
    if channels[0] != channels[1]:
        rule = f"has a U-Net of {channels[0]} channels over {channels[1]} latent channels: not a text-to-image model"
        raise InputError(fault("base", spec, rule, REMEDY))
    widths = (pipe.text_encoder.config.hidden_size, pipe.unet.config.cross_attention_dim)
    if widths[0] != widths[1]:
        rule = f"has a text encoder of width {widths[0]} and cross-attention of width {widths[1]}"
        raise InputError(fault("base", spec, rule, REMEDY))


def _from_single_file(path: Path, spec: str, options: dict[str, Any]) -> Any:
    from diffusers import StableDiffusionPipeline

    # A single file has no configuration: it is read from a directory of the same name, else from the hub.
    folder = path.with_suffix("")
    remark = (
        f"Its configuration comes from the hub; offline, put a diffusers directory with the configurations at {folder}"
    )
    if (folder / "model_index.json").is_file():
        options = {**options, "config": str(folder), "local_files_only": True}
        remark = f"Its configuration comes from {folder}"
    cause: Exception | None = None
    try:
        pipe = StableDiffusionPipeline.from_single_file(str(path), **options)
        reason = _lacking([getattr(pipe, part) for part in PARTS])
    except Exception as error:  # diffusers raises its own, the hub's and its transport's errors here
        reason, cause = _lacking(_left_unfilled(error)) or one_line(error), error
    if reason:
        raise InputError(
            fault("base", spec, f"cannot be loaded as a single file ({reason}). {remark}", REMEDY)
        ) from cause
    return pipe


def _lacking(parts: list[Any], shown: int = 3) -> str:
    """Return the weights missing from the file, or ''; diffusers leaves them on torch's meta device."""
    faults = []
    for part in parts:
        names = [name for name, weight in part.state_dict().items() if weight.is_meta]
        if names:
            more = [f"{len(names) - shown} more"] if len(names) > shown else []
            faults.append(f"the file lacks weights of {type(part).__name__}: {', '.join([*names[:shown], *more])}")
    return "; ".join(faults)


def _left_unfilled(error: Exception) -> list[Any]:
    """Return the part that torch cannot move because its weights have no data, if that is the cause of `error`."""
    from torch.nn import Module

    if isinstance(error, NotImplementedError):
        # The refusal names no weight; the outermost frame that holds a module is diffusers' loader of the part.
        for frame, _ in traceback.walk_tb(error.__traceback__):
            models = [value for value in frame.f_locals.values() if isinstance(value, Module)]
            if models:
                return models
    return []


def _download(spec: str, *, allow_pickle: bool) -> Path:
    from diffusers import StableDiffusionPipeline

    try:
        return Path(StableDiffusionPipeline.download(spec, use_safetensors=None if allow_pickle else True))
    except Exception as error:  # the hub's client raises OSError, its own and its transport's errors
        rule = f"is not a local path and cannot be downloaded from the Hugging Face hub ({one_line(error)})"
        raise InputError(fault("base", spec, rule, REMEDY)) from error


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Suppress progress bars and a warning about an optional 4-bit kernel while a base is loaded."""
    # bitsandbytes, which diffusers imports, warns on CPUs with AVX-512 of a kernel that nothing here uses.
    remark = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = remark.level
    remark.setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    both = (diffusers_logging, transformers_logging)
    shown = [library.is_progress_bar_enabled() for library in both]
    for library in both:
        library.disable_progress_bar()
    try:
        yield
    finally:
        remark.setLevel(level)
        for library, was in zip(both, shown, strict=True):
            if was:
                library.enable_progress_bar()
