"""Settings and training loop of a LoRA: noise on cached latents, the U-Net's prediction of it, one optimizer step.

In: a U-Net with trainable matrices, cached latents and embeddings. Out: the losses; the matrices change in place.
Source: FU-LoRA equation (1); Ho et al. 2020 (the noise schedule, by diffusers' DDPMScheduler).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from fulora.diffusion.adapter import AdapterTargets
from fulora.errors import fault
from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import torch

OptimizerName = Literal["adam8bit", "adamw8bit", "adamw"]
Precision = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Settings of one fine-tuning. Defaults are the paper's."""

    rank: int = 128
    """Inner dimension r of A and B. Source: paper section 3, {8, 32, 128}."""
    alpha: float | None = None
    """Scale alpha of equation (2); None is the rank. Source: paper section 3, alpha = rank."""
    targets: AdapterTargets = "cross_attention"
    """Adapted projections of the U-Net. Source: paper section 2."""
    num_steps: int = 10_000
    """Optimizer steps. Source: paper section 3."""
    batch_size: int = 2
    """Images per step. Source: paper section 3 (the released code: 1)."""
    learning_rate: float = 1e-4
    """Constant rate. Source: paper section 3."""
    optimizer: OptimizerName = "adamw8bit"
    """8-bit Adam of bitsandbytes, with or without decoupled weight decay, or torch's AdamW. Source: paper section 3."""
    weight_decay: float = 0.01
    """Decay of adamw8bit and adamw. Not stated in the paper; the default of bitsandbytes, as in the released code."""
    resolution_px: int = 512
    """Side of the square images. Source: paper section 3."""
    precision: Precision = "auto"
    """Type of the frozen base; the adapter is always float32. The paper: fp16."""
    clip_skip: int | None = None
    """Layers of the text encoder left out, in diffusers' counting. The released code: 1."""
    caption_dropout: float = 0.0
    """Share of captions replaced by the empty one. Not in the paper; 0 there."""
    log_every: int = 50
    """Steps between two reports of the loss."""

    def faults(self) -> list[str]:
        """Return every fault of the configuration, empty when there is none."""
        found = []
        for field in ("rank", "num_steps", "batch_size", "resolution_px", "log_every"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                found.append(fault(field, value, "must be an integer of at least 1", f"Set {field} to 1 or more"))
        for field in ("learning_rate", "alpha"):
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and value > 0):
                found.append(fault(field, value, "must be above 0", f"Set {field} to a positive number"))
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            found.append(fault("weight_decay", self.weight_decay, "must be at least 0", "Set it to 0 or more"))
        if not 0 <= self.caption_dropout <= 1:
            found.append(fault("caption_dropout", self.caption_dropout, "must be from 0 to 1", "Set it within 0 and 1"))
        if self.clip_skip is not None and self.clip_skip < 0:
            found.append(fault("clip_skip", self.clip_skip, "must be at least 0", "Set it to 0 or more, or to None"))
        for field, choices in (("targets", AdapterTargets), ("optimizer", OptimizerName), ("precision", Precision)):
            value = getattr(self, field)
            if value not in get_args(choices):
                found.append(fault(field, value, "is unknown", f"Choose one of {', '.join(get_args(choices))}"))
        return found


def train_adapter(
    unet: Any,
    noise_config: Any,
    trainable: list[Any],
    latents: tuple[torch.Tensor, torch.Tensor],
    embeddings: torch.Tensor,
    rows: list[int],
    empty_row: int,
    config: LoraConfig,
    seed: int,
    on_log: Callable[[dict[str, float]], None] | None,
) -> list[dict[str, float]]:
    """Return the reports of the loss (step, loss, learning_rate, seconds), having trained the parameters in place.

    `latents` are mean and deviation [N, C, h, w], `embeddings` [M, 77, D], `rows` the caption of each image among them
    and `empty_row` that of the empty caption. Raises FloatingPointError naming the first step of a non-finite loss.

    Notation: x0 a latent, eps the noise, t the time step, x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps; the loss is
    equation (1), the mean of (eps - unet(x_t, t, text))^2.
    """
    import torch
    from diffusers import DDPMScheduler

    mean, deviation = latents
    device, kind = mean.device, mean.device.type
    abar = DDPMScheduler.from_config(noise_config).alphas_cumprod
    signal, noise_level = abar.sqrt().to(device), (1 - abar).sqrt().to(device)
    images, texts, times = (
        part.to(device) for part in _draw_schedule(len(mean), rows, empty_row, len(abar), config, seed)
    )
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "finetune", "noise"))
    optimizer = _make_optimizer(trainable, config)
    half = embeddings.dtype != torch.float32
    scaler = torch.amp.GradScaler(kind, enabled=embeddings.dtype == torch.float16)
    step_losses = torch.zeros(config.num_steps, device=device)
    shape = (2, config.batch_size, *mean.shape[1:])

    reports: list[dict[str, float]] = []
    started = time.monotonic()
    reported = 0
    for step in range(config.num_steps):
        chosen, t = images[step], times[step]
        draw, eps = torch.randn(shape, generator=generator, device=device)
        x0 = mean[chosen] + deviation[chosen] * draw
        x_t = signal[t].view(-1, 1, 1, 1) * x0 + noise_level[t].view(-1, 1, 1, 1) * eps
        with torch.autocast(kind, dtype=embeddings.dtype, enabled=half):
            predicted = unet(x_t, t, embeddings[texts[step]], return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(predicted.float(), eps)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        step_losses[step] = loss.detach()
        done = step + 1
        if done % config.log_every == 0 or done == config.num_steps:
            # The only wait for the device: everything since the last report is read at once.
            since = step_losses[reported:done].tolist()
            for offset, value in enumerate(since):
                if not math.isfinite(value):
                    at = reported + offset + 1
                    raise FloatingPointError(f"the loss is {value} at step {at}: lower learning_rate")
            row = {"step": done, "loss": sum(since) / len(since), "learning_rate": config.learning_rate}
            seconds = time.monotonic() - started
            reports.append({**row, "seconds": seconds})
            reported = done
            if on_log is not None:
                on_log({**row, "steps_per_second": done / max(seconds, 1e-9)})
    if not all(bool(torch.isfinite(parameter).all()) for parameter in trainable):
        raise FloatingPointError(f"the adapter is not finite after step {config.num_steps}: lower learning_rate")
    return reports


def _draw_schedule(
    num_images: int, rows: list[int], empty_row: int, num_times: int, config: LoraConfig, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images, rows of the embeddings and time steps of all steps, int64 [num_steps, batch_size] each.

    Images come in shuffled rounds, so every one is seen equally often. Drawn once on the CPU: no step waits for it.
    """
    import torch

    generator = torch.Generator().manual_seed(derive_seed(seed, "finetune", "schedule"))
    shape = (config.num_steps, config.batch_size)
    total = config.num_steps * config.batch_size
    rounds = [torch.randperm(num_images, generator=generator) for _ in range(math.ceil(total / num_images))]
    images = torch.cat(rounds)[:total].view(shape)
    texts = torch.tensor(rows)[images]
    texts[torch.rand(shape, generator=generator) < config.caption_dropout] = empty_row
    return images, texts, torch.randint(num_times, shape, generator=generator)


def _make_optimizer(trainable: list[Any], config: LoraConfig) -> Any:
    if config.optimizer == "adamw":
        import torch

        return torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
    import bitsandbytes

    if config.optimizer == "adam8bit":
        return bitsandbytes.optim.Adam8bit(trainable, lr=config.learning_rate)
    return bitsandbytes.optim.AdamW8bit(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)
