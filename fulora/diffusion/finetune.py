"""LoRA fine-tuning of a diffusion base on a few captioned images.

In: a base, images, captions, a `LoraConfig`, a seed. Out: an adapter folder (diffusers' and kohya's file)
and a `FinetuneResult` with the losses.
Source: FU-LoRA section 2, equations (1) (noise prediction, mean squared error) and (2) (LoRA); section 3 (settings).
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulora.device import (
    Footprint,
    device_in_words,
    footprint,
    peak_memory_bytes,
    release_cached_memory,
    reset_peak_memory,
    resolve_device,
    resolve_precision,
    set_speed_flags,
)
from fulora.diffusion.adapter import TEXT_TARGETS, add_lora, lora_weights
from fulora.diffusion.adapter_files import write_adapter
from fulora.diffusion.base import Base, load_base
from fulora.diffusion.caching import cached_embedder, check_resolution, trained_embedder
from fulora.diffusion.checkpoints import Checkpoints
from fulora.diffusion.latent_dataset import Images, heldout_groups, input_faults, latent_dataset
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.training import Log, LoraTraining
from fulora.errors import raise_if_any
from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import torch

_MOST_SKIPPED = 24
"""Steps float16 may skip in a row, halving the loss's scale each time, before a measure of memory gives up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """The result of a fine-tuning, besides its adapter files."""

    losses: list[dict[str, float]]
    """One row per report: step, loss (mean since the last report), learning_rate, seconds (since the first step), and
    heldout_loss where it was measured."""
    adapter_sha256: str
    """SHA-256 of the diffusers file."""
    num_trainable: int
    """Trainable parameters, A and B together."""
    peak_memory_bytes: int
    """Peak memory: on CUDA torch's allocations, on a CPU the process's resident memory."""
    seconds: float
    """Wall time, loading and caching included."""
    steps_per_second: float
    """Steps per second over the training steps alone."""
    base_name: str
    """Name of the base, with its hash."""
    device: str
    """Name of the device."""
    resumed_from: int = 0
    """The step of the checkpoint training resumed from; 0: from the start."""


def finetune(
    *,
    base: str,
    pixels: Images,
    captions: Sequence[str],
    config: LoraConfig,
    seed: int,
    out: Path,
    device: str = "auto",
    allow_pickle: bool = False,
    heldout: tuple[Images, Sequence[str]] | None = None,
    names: Sequence[str] = (),
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_log: Log | None = None,
) -> FinetuneResult:
    """Fine-tune a base on images, write the adapter's files to the directory `out` and return the result.

    `pixels` is uint8 [N, R, R, 3], or with buckets N images uint8 [H, W, 3]; `captions` has N texts, `names` the
    names of the images in error messages. `heldout` is images and captions not trained on, whose loss is measured
    during training. `checkpoints` is a directory for checkpoints, written at most every `checkpoint_seconds`; called
    again after an interruption, training resumes from the last one. On a CPU the same seed and number of threads give
    the same bytes, with or without an interruption.
    Raises InputError for invalid input, FloatingPointError naming the first step with a non-finite loss, and
    MemoryError naming the settings to lower.
    """
    started = time.monotonic()
    raise_if_any([*config.validate(), *input_faults(pixels, captions, config)])
    if heldout is not None:
        raise_if_any([f"heldout.{text}" for text in input_faults(*heldout, config)])
    with memory_in_words(config):
        device, dtype = ready(config, device)
        model = load_base(base, device=device, dtype=dtype, allow_pickle=allow_pickle)
        base_name, base_sha256 = model.name, model.sha256
        text_encoder = model.text_encoder if config.text_encoder_rate > 0 else None
        training = prepare(model, pixels, captions, config, seed, heldout, names)
        # Latents and text embeddings are cached: the frozen autoencoder and text encoder are no longer needed.
        del model
        gc.collect()
        release_cached_memory(device)
        kept = None
        if checkpoints is not None:
            identity = identity_of(pixels, captions, config, seed, base_sha256, device, dtype)
            kept = Checkpoints(checkpoints, identity=identity, every_seconds=checkpoint_seconds)
            state = kept.latest()
            if state is None:
                kept.clear()  # of another training: their steps may be later, and only the latest are kept
            else:
                training.restore(state)
        resumed_from = training.steps_done
        loop_started = time.monotonic()
        losses = training.run(checkpoints=kept, on_log=on_log)
        loop_seconds = time.monotonic() - loop_started

    weights = lora_weights(training.unet, text_encoder)
    digest = write_adapter(weights, out, config, base_sha256=base_sha256, num_images=len(captions), seed=seed)
    if kept is not None:
        kept.clear()
    return FinetuneResult(
        losses=losses,
        adapter_sha256=digest,
        num_trainable=sum(parameter.numel() for parameter in training.parameters),
        peak_memory_bytes=peak_memory_bytes(device),
        seconds=time.monotonic() - started,
        steps_per_second=(config.num_steps - resumed_from) / max(loop_seconds, 1e-9),
        base_name=base_name,
        device=device_in_words(device),
        resumed_from=resumed_from,
    )


def measure_memory(
    *,
    base: str,
    pixels: Images,
    captions: Sequence[str],
    config: LoraConfig,
    device: str = "auto",
    allow_pickle: bool = False,
    num_steps: int = 3,
) -> Footprint:
    """Return the device memory of a fine-tuning, measured on caching and a few real steps; keeps nothing.

    On a CPU the figure is the process's, so call it in a process of its own.
    """
    short = replace(config, num_steps=num_steps + _MOST_SKIPPED)
    with memory_in_words(config):
        device, dtype = ready(config, device)
        model = load_base(base, device=device, dtype=dtype, allow_pickle=allow_pickle)
        training = prepare(model, pixels, captions, short, 0, None, ())
        del model
        gc.collect()
        release_cached_memory(device)  # as a fine-tuning does: caching and steps do not add up
        # In float16 the first steps may be skipped until the loss scale is low enough; a real one makes the moments.
        while training.steps_done < num_steps or (
            not training.optimizer.state and training.steps_done < short.num_steps
        ):
            training.step()
        training.check_finite(0)
        return footprint(device)


def prepare(
    model: Base,
    pixels: Images,
    captions: Sequence[str],
    config: LoraConfig,
    seed: int,
    heldout: tuple[Images, Sequence[str]] | None,
    names: Sequence[str],
) -> LoraTraining:
    """Return the training of a LoRA on a base, its latents and embeddings cached."""
    inputs = training_inputs(model, pixels, captions, config, heldout, names)
    alpha = float(config.rank if config.alpha is None else config.alpha)
    shared: dict[str, Any] = {"rank": config.rank, "alpha": alpha, "init": config.init}
    first, second = adapter_seeds(seed)
    of_unet = add_lora(model.unet, targets=config.targets, seed=first, **shared)
    of_text: list[Any] = []
    if config.text_encoder_rate > 0:
        of_text = add_lora(model.text_encoder, targets=TEXT_TARGETS, seed=second, **shared)
    return LoraTraining(
        unet=model.unet, trainable=(of_unet, of_text), noise_config=model.scheduler.config, dtype=model.dtype,
        config=config, seed=seed, **inputs,
    )  # fmt: skip


def training_inputs(
    model: Base,
    pixels: Images,
    captions: Sequence[str],
    config: LoraConfig,
    heldout: tuple[Images, Sequence[str]] | None,
    names: Sequence[str],
) -> dict[str, Any]:
    """Return what a `LoraTraining` gets of images and captions: data, heldout, embed."""
    check_resolution(model, config.resolution_px)
    texts = sorted({*captions, *(heldout[1] if heldout else ()), ""})
    rows = [texts.index(caption) for caption in captions]
    data = latent_dataset(model, pixels, rows, texts.index(""), names, config)
    watched = heldout_groups(model, heldout, texts, config) if heldout else []
    embedder = trained_embedder if config.text_encoder_rate > 0 else cached_embedder
    return {"data": data, "heldout": watched, "embed": embedder(model, texts, config.clip_skip)}


def adapter_seeds(seed: int) -> tuple[int, int]:
    """Return the seeds of A in the U-Net and in the text encoder."""
    return derive_seed(seed, "finetune", "init"), derive_seed(seed, "finetune", "init", "text encoder")


def ready(config: LoraConfig, device: str) -> tuple[str, torch.dtype]:
    """Set torch's flags, reset the peak of memory, and return the device and precision to train with."""
    import torch

    device = resolve_device(device)
    dtype = resolve_precision(config.precision, device)
    reset_peak_memory(device)
    # cuDNN benchmarking is off: a resumed training uses the same algorithms as before.
    set_speed_flags(device, exact_fp32=dtype == torch.float32, fixed_shapes=False)
    return device, dtype


def identity_of(
    pixels: Images,
    captions: Sequence[str],
    config: LoraConfig,
    seed: int,
    base_sha256: str,
    device: str,
    dtype: torch.dtype,
) -> str:
    """Return a hash of everything that determines a training; on a CPU the number of threads, which orders the sums.

    Precision counts as resolved: `auto` is bfloat16 on one GPU, float16 on another.
    """
    import torch

    threads = torch.get_num_threads() if device == "cpu" else None
    facts = f"{config!r} {seed} {base_sha256} {list(captions)} {device} {threads} {dtype}"
    digest = hashlib.sha256(facts.encode())
    for image in pixels:
        digest.update(image.tobytes())
    return digest.hexdigest()


@contextmanager
def memory_in_words(config: LoraConfig) -> Iterator[None]:
    """Turn torch's out-of-memory error into a MemoryError that names the settings to lower."""
    import torch

    try:
        yield
    except RuntimeError as error:  # CUDA has an error of its own, the CPU's allocator a plain one
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        at = f"batch_size {config.batch_size}, resolution_px {config.resolution_px}, rank {config.rank}"
        remedy = "lower batch_size, resolution_px or rank, or use precision bf16"
        raise MemoryError(f"out of memory on the device with {at}: {remedy} ({error})") from error
