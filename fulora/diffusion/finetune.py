"""LoRA fine-tuning of a diffusion base on a few captioned images.

In: a base, square images, captions, a `LoraConfig`, a seed. Out: an adapter folder (diffusers' and kohya's file)
and a `FinetuneResult` with the losses.
Source: FU-LoRA section 2, equations (1) (noise prediction, mean squared error) and (2) (LoRA); section 3 (settings).
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fulora.device import (
    device_in_words,
    peak_memory_bytes,
    reset_peak_memory,
    resolve_device,
    resolve_precision,
)
from fulora.diffusion.adapter import add_lora
from fulora.diffusion.base import load_base
from fulora.diffusion.caching import cache_latents, check_resolution, encode_prompts
from fulora.diffusion.formats import KOHYA_FILE, lora_weights, save_diffusers, save_kohya
from fulora.diffusion.training import LoraConfig, train_adapter
from fulora.errors import fault, raise_if_any
from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """What a fine-tuning leaves besides its adapter files."""

    losses: list[dict[str, float]]
    """One row per report: step, loss (mean since the last report), learning_rate, seconds (since the first step)."""
    adapter_sha256: str
    """Of the diffusers file."""
    num_trainable: int
    """Trained numbers, A and B together."""
    peak_memory_bytes: int
    """CUDA: the most torch held. CPU: the most the process held so far."""
    seconds: float
    """Wall time, loading and caching included."""
    steps_per_second: float
    """Over the training steps alone."""
    base_name: str
    """The base that ran, with its hash."""
    device: str
    """The device that ran, in words."""


def finetune(
    *,
    base: str,
    pixels: np.ndarray,
    captions: Sequence[str],
    config: LoraConfig,
    seed: int,
    out: Path,
    device: str = "auto",
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> FinetuneResult:
    """Return the result of fine-tuning a base on images, having written the adapter's files to the folder `out`.

    `pixels` is uint8 [N, R, R, 3], `captions` has N texts. `on_log` gets step, loss, learning_rate and steps_per_second
    at every report. On a CPU the files are the same bytes for the same seed and number of threads.
    Raises InputError for input that cannot be used and FloatingPointError naming the first step of a non-finite loss.
    """
    started = time.monotonic()
    raise_if_any([*config.faults(), *_input_faults(pixels, captions, config)])
    device = resolve_device(device)
    dtype = resolve_precision(config.precision, device)
    reset_peak_memory(device)

    model = load_base(base, device=device, dtype=dtype)
    check_resolution(model, config.resolution_px)
    latents = cache_latents(model, pixels)
    texts = sorted({*captions, ""})
    embeddings = encode_prompts(model, texts, config.clip_skip)
    rows = [texts.index(caption) for caption in captions]
    unet, noise_config, base_name, base_sha256 = model.unet, model.scheduler.config, model.name, model.sha256
    del model  # the autoencoder and the text encoder have said all they have to say
    gc.collect()

    alpha = float(config.rank if config.alpha is None else config.alpha)
    trainable = add_lora(
        unet, rank=config.rank, alpha=alpha, targets=config.targets, seed=derive_seed(seed, "finetune", "init")
    )
    loop_started = time.monotonic()
    losses = train_adapter(
        unet, noise_config, trainable, latents, embeddings, rows, texts.index(""), config, seed, on_log
    )
    loop_seconds = time.monotonic() - loop_started

    scratch = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    weights = lora_weights(unet)
    digest = hashlib.sha256(save_diffusers(weights, scratch).read_bytes()).hexdigest()
    facts = {"ss_base_model_sha256": base_sha256, "ss_learning_rate": str(config.learning_rate)}
    save_kohya(weights, scratch / KOHYA_FILE, {**facts, "ss_max_train_steps": str(config.num_steps)})
    _replace_folder(scratch, out)
    return FinetuneResult(
        losses=losses,
        adapter_sha256=digest,
        num_trainable=sum(parameter.numel() for parameter in trainable),
        peak_memory_bytes=peak_memory_bytes(device),
        seconds=time.monotonic() - started,
        steps_per_second=config.num_steps / max(loop_seconds, 1e-9),
        base_name=base_name,
        device=device_in_words(device),
    )


def _input_faults(pixels: np.ndarray, captions: Sequence[str], config: LoraConfig) -> list[str]:
    side = config.resolution_px
    found = []
    if pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3) or str(pixels.dtype) != "uint8":
        given = f"{pixels.dtype} {list(pixels.shape)}"
        found.append(fault("pixels", given, f"must be uint8 [N, {side}, {side}, 3]", "Decode to resolution_px"))
    if len(pixels) == 0:
        found.append(fault("pixels", 0, "must hold at least one image", "Choose images to train on"))
    if len(captions) != len(pixels):
        found.append(fault("captions", len(captions), f"must be as many as images ({len(pixels)})", "Give one each"))
    return found


def _replace_folder(scratch: Path, out: Path) -> None:
    """Move a finished folder to its name; what was there before is gone only after that."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.rename(out, old)
    os.rename(scratch, out)
    shutil.rmtree(old, ignore_errors=True)
