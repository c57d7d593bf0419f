"""Pre-training of the tiny base's U-Net and text encoder on latents of scenes and specimens.

In: a pipeline whose autoencoder is trained, images and captions. Out: both trained in place, running means taken.
The embeddings of tokens stay as drawn, all equally loud: so a word that no caption holds is heard as well as a trained
one, and an adapter can tell by it what was asked for.
Sources: Ho et al. 2020 (noise prediction); Hang et al. 2023 (weights by signal-to-noise ratio, gamma 5);
Ho and Salimans 2022 (empty captions).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from fulora.diffusion.tiny.architecture import Pipeline
from fulora.diffusion.tiny.autoencoder import Log, cosine_rate, encode
from fulora.diffusion.tiny.captions import mirrored, reworded

if TYPE_CHECKING:
    from torch import nn

    from fulora.diffusion.tiny.settings import TinyTraining

WORDINGS = 4
"""Wordings drawn for every image and its mirror."""
WORD_DEVIATION = 0.5
"""Standard deviation of the tokens' embeddings. CLIP's 0.02 would hardly be heard after so short a training."""
GAMMA = 5.0
"""Signal-to-noise ratio above which a step's weight falls. Source: Hang et al. 2023."""


def tokenise(pipe: Pipeline, captions: list[str], *, seed: int) -> torch.Tensor:
    """Return token ids int16 [2, WORDINGS, N, 32] of images (first) and mirrors (second)."""
    rng = np.random.default_rng(seed)
    texts = [
        reworded(caption, rng)
        for side in (captions, [mirrored(caption) for caption in captions])
        for _ in range(WORDINGS)
        for caption in side
    ]
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
    return ids.reshape(2, WORDINGS, len(captions), length).to(torch.int16)


def train_denoiser(
    pipe: Pipeline,
    images: np.ndarray,
    captions: list[str],
    config: TinyTraining,
    *,
    seed: int,
    on_log: Log | None = None,
    on_save: Callable[[Pipeline], None] | None = None,
) -> None:
    """Train `pipe.unet` and `pipe.text_encoder` in place; `on_save` gets a pipeline of running means now and then."""
    unet, text_encoder = pipe.unet, pipe.text_encoder
    latents = _latents(pipe, images)
    tokens = tokenise(pipe, captions, seed=seed)
    empty = pipe.tokenizer("", padding="max_length", max_length=tokens.shape[-1], return_tensors="pt").input_ids[0]
    generator = torch.Generator().manual_seed(seed)
    kept = pipe.scheduler.alphas_cumprod
    weights = torch.clamp(GAMMA * (1.0 - kept) / kept, max=1.0)
    table = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(torch.randn(table.shape, generator=generator) * WORD_DEVIATION)
    trained = [*unet.parameters(), *(weight for weight in text_encoder.parameters() if weight is not table)]
    table.requires_grad_(False)
    optimizer = torch.optim.AdamW(trained, lr=config.denoiser_rate, betas=(0.9, 0.99), weight_decay=0.0)
    means = [copy.deepcopy(module).requires_grad_(False) for module in (unet, text_encoder)]
    unet.train(), text_encoder.train()
    num_steps, batch = config.num_denoiser_steps, config.denoiser_batch
    recent: list[float] = []
    for step in range(num_steps):
        rate = config.denoiser_rate * cosine_rate(step, num_steps, warm_up=min(150, num_steps // 10 + 1), floor=0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate
        index = torch.randint(len(images), (batch,), generator=generator)
        side = torch.randint(2, (batch,), generator=generator)
        wording = torch.randint(WORDINGS, (batch,), generator=generator)
        ids = tokens[side, wording, index].long()
        ids[torch.rand(batch, generator=generator) < config.caption_dropout] = empty
        mean, deviation = latents[0][side, index].float(), latents[1][side, index].float()
        clean = mean + deviation * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        # Noise levels spread evenly over the batch, so that the loss of a step is less of a lottery.
        spread = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = (spread * len(kept)).long()
        noisy = pipe.scheduler.add_noise(clean, noise, timesteps)
        found = unet(noisy, timesteps, text_encoder(ids).last_hidden_state).sample
        loss = (weights[timesteps] * (found - noise).square().mean(dim=(1, 2, 3))).mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"denoiser: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        _follow(means, (unet, text_encoder), min(config.ema_decay, (1 + step) / (10 + step)))
        recent.append(loss.item())
        last = step == num_steps - 1
        if on_log and (step % 50 == 49 or last):
            on_log({"stage": "denoiser", "step": step + 1, "loss": sum(recent) / len(recent)})
            recent = []
        if on_save and not last and step % config.save_every == config.save_every - 1:
            on_save(_with(pipe, means))
    for module, mean_module in zip((unet, text_encoder), means):
        module.load_state_dict(mean_module.state_dict())
        module.eval()
    table.requires_grad_(True)


def _latents(pipe: Pipeline, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scaled means and deviations, float16 [2, N, 4, 16, 16], of images and mirrors."""
    scale = pipe.vae.config.scaling_factor
    sides = [encode(pipe.vae, np.ascontiguousarray(side)) for side in (images, images[:, :, ::-1])]
    mean, deviation = (torch.stack(parts) * scale for parts in zip(*sides))
    return mean.half(), deviation.half()


@torch.no_grad()
def _follow(means: list[nn.Module], modules: tuple[nn.Module, ...], decay: float) -> None:
    """Move the running means towards the weights."""
    followed: list[torch.Tensor] = [weight for module in means for weight in module.parameters()]
    current: list[torch.Tensor] = [weight for module in modules for weight in module.parameters()]
    torch._foreach_lerp_(followed, current, 1.0 - decay)


def _with(pipe: Pipeline, means: list[nn.Module]) -> Pipeline:
    """Return the pipeline with the running means in place of U-Net and text encoder."""
    parts = {**pipe.components, "unet": means[0], "text_encoder": means[1]}
    return type(pipe)(**parts, requires_safety_checker=False)
