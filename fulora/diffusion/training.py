"""The training loop of a LoRA: noise on cached latents, the U-Net's prediction of it, one optimizer step.

In: a U-Net with trainable matrices, cached latents and embeddings. Out: the losses; the matrices change in place.
Source: FU-LoRA equation (1); Ho et al. 2020 (the noise schedule, by diffusers' DDPMScheduler).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import torch

    from fulora.diffusion.finetune import LoraConfig


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
