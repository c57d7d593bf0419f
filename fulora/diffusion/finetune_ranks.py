"""LoRA fine-tunings of several ranks in one pass over one frozen base.

In: what `fulora.diffusion.finetune` takes, with a configuration, a seed and a directory for each rank. Out: an adapter
and a `FinetuneResult` each, equal to those of separate fine-tunings within rounding.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulora.device import device_in_words, peak_memory_bytes, release_cached_memory
from fulora.diffusion.adapter import TEXT_TARGETS
from fulora.diffusion.adapter_files import write_adapter
from fulora.diffusion.base import Base, load_base
from fulora.diffusion.checkpoints import Checkpoints
from fulora.diffusion.finetune import (
    FinetuneResult,
    adapter_seeds,
    identity_of,
    memory_in_words,
    ready,
    training_inputs,
)
from fulora.diffusion.grouped_lora import Groups, add_grouped_lora, grouped_weights
from fulora.diffusion.joint_training import JointTraining
from fulora.diffusion.latent_dataset import Images, input_faults
from fulora.diffusion.lora_config import LoraConfig
from fulora.diffusion.training import Log, LoraTraining
from fulora.errors import fault, raise_if_any


def finetune_ranks(
    *,
    base: str,
    pixels: Images,
    captions: Sequence[str],
    configs: Sequence[LoraConfig],
    seeds: Sequence[int],
    outs: Sequence[Path],
    device: str = "auto",
    allow_pickle: bool = False,
    heldout: tuple[Images, Sequence[str]] | None = None,
    names: Sequence[str] = (),
    checkpoints: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_logs: Sequence[Log | None] = (),
) -> list[FinetuneResult]:
    """Fine-tune a base once for each configuration, all in one pass, and return their results in order.

    `configs`, `seeds` and `outs` have one entry per rank, `on_logs` too where it is given; the rest is as in
    `finetune`. The configurations differ in rank and alpha alone. Memory and seconds are those of the whole pass.
    Raises as `finetune`; a loss that is not finite ends all, naming its rank.
    """
    started = time.monotonic()
    raise_if_any(joint_faults(configs))
    first = configs[0]
    raise_if_any([text for config in configs for text in config.validate()] + input_faults(pixels, captions, first))
    if heldout is not None:
        raise_if_any([f"heldout.{text}" for text in input_faults(*heldout, first)])
    with memory_in_words(first):
        device, dtype = ready(first, device)
        model = load_base(base, device=device, dtype=dtype, allow_pickle=allow_pickle)
        base_name, base_sha256 = model.name, model.sha256
        text_encoder = model.text_encoder if first.text_encoder_rate > 0 else None
        joint = prepare_ranks(model, pixels, captions, configs, seeds, heldout, names)
        del model
        gc.collect()
        release_cached_memory(device)
        kept = None
        if checkpoints is not None:
            own = (base_sha256, device, dtype)
            parts = [identity_of(pixels, captions, config, seed, *own) for config, seed in zip(configs, seeds)]
            identity = hashlib.sha256(" ".join(parts).encode()).hexdigest()
            kept = Checkpoints(checkpoints, identity=identity, every_seconds=checkpoint_seconds)
            state = kept.latest()
            if state is None:
                kept.clear()
            else:
                joint.restore(state)
        resumed_from = joint.steps_done
        loop_started = time.monotonic()
        joint.run(checkpoints=kept, on_logs=on_logs or [None] * len(configs))
        loop_seconds = time.monotonic() - loop_started

    found = []
    for index, (one, config, seed, out) in enumerate(zip(joint.members, configs, seeds, outs, strict=True)):
        weights = grouped_weights(one.unet, text_encoder, index, rank=config.rank, alpha=_alpha(config))
        found.append(
            FinetuneResult(
                losses=one.reports,
                adapter_sha256=write_adapter(
                    weights, out, config, base_sha256=base_sha256, num_images=len(captions), seed=seed
                ),
                num_trainable=sum(parameter.numel() for parameter in one.parameters),
                peak_memory_bytes=peak_memory_bytes(device),
                seconds=time.monotonic() - started,
                steps_per_second=(config.num_steps - resumed_from) / max(loop_seconds, 1e-9),
                base_name=base_name,
                device=device_in_words(device),
                resumed_from=resumed_from,
            )
        )
    if kept is not None:
        kept.clear()
    return found


def joint_faults(configs: Sequence[LoraConfig]) -> list[str]:
    """Return why some configurations cannot be trained in one pass; empty when they can."""
    if not configs:
        return [fault("configs", 0, "must hold at least one configuration", "Name the ranks")]
    found = []
    first = configs[0]
    if any(replace(config, rank=first.rank, alpha=first.alpha) != first for config in configs):
        rule = "differ in more than rank and alpha"
        found.append(fault("configs", [config.rank for config in configs], rule, "Train them apart"))
    if first.bucket_step_px:
        rule = "gives each rank images of another size at a step, which make no one batch"
        found.append(fault("bucket_step_px", first.bucket_step_px, rule, "Use 0 (squares), or train the ranks apart"))
    return found


def prepare_ranks(
    model: Base,
    pixels: Images,
    captions: Sequence[str],
    configs: Sequence[LoraConfig],
    seeds: Sequence[int],
    heldout: tuple[Images, Sequence[str]] | None,
    names: Sequence[str],
) -> JointTraining:
    """Return the training of a LoRA per configuration on one base; latents and embeddings are cached once."""
    first, groups = configs[0], Groups(len(configs))
    inputs = training_inputs(model, pixels, captions, first, heldout, names)
    shared: dict[str, Any] = {
        "ranks": [config.rank for config in configs], "alphas": [_alpha(config) for config in configs],
        "init": first.init,
    }  # fmt: skip
    of_unet, of_text = zip(*(adapter_seeds(seed) for seed in seeds), strict=True)
    unets = add_grouped_lora(model.unet, groups, targets=first.targets, seeds=of_unet, **shared)
    texts: list[list[Any]] = [[] for _ in configs]
    if first.text_encoder_rate > 0:
        texts = add_grouped_lora(model.text_encoder, groups, targets=TEXT_TARGETS, seeds=of_text, **shared)
    members = [
        LoraTraining(
            unet=model.unet, trainable=(of_one, of_text_one), noise_config=model.scheduler.config, dtype=model.dtype,
            config=replace(config, compile=False), seed=seed, **inputs,
        )
        for config, seed, of_one, of_text_one in zip(configs, seeds, unets, texts, strict=True)
    ]  # fmt: skip
    return JointTraining(members, groups, compile_unet=first.compile)


def _alpha(config: LoraConfig) -> float:
    return float(config.rank if config.alpha is None else config.alpha)
