"""Pre-training of the tiny base's autoencoder on generic scenes.

In: grey images. Out: the autoencoder trained in place, its `scaling_factor` set so that latents have unit deviation.
Source: Rombach et al. 2022, section 3.1 (pixel error and a small KL term; the adversarial part is replaced by an error
of local spectra, which keeps speckle without a second network).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from fulora.diffusion.tiny.settings import TinyTraining

AutoencoderKL = Any
"""diffusers' class, whose methods no type checker sees."""

Log = Callable[[dict[str, float | str]], None]
"""Called with a stage, a step and its losses."""


def to_pixels(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Return grey uint8 [N, H, W] as float32 [N, 3, H, W] in [-1, 1], the grey level in all three channels."""
    return (torch.as_tensor(images).float() / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1)


def cosine_rate(step: int, num_steps: int, *, warm_up: int, floor: float = 0.0) -> float:
    """Return the learning rate of a step as a share of the highest: a linear rise, then half a cosine to the floor."""
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, num_steps - warm_up)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def texture_error(found: torch.Tensor, wanted: torch.Tensor, window: int = 16) -> torch.Tensor:
    """Return the mean error of the local spectra's magnitudes over half-overlapping windows of [N, 1, H, W].

    Magnitudes forget where a speckle grain sits and keep how many there are and how large.
    """

    def spectra(image: torch.Tensor) -> torch.Tensor:
        patches = image.unfold(2, window, window // 2).unfold(3, window, window // 2)
        return torch.fft.rfft2(patches * taper, norm="ortho").abs()

    hann = torch.hann_window(window)
    taper = hann[:, None] * hann[None, :]
    return (spectra(found) - spectra(wanted)).abs().mean()


def train_autoencoder(
    vae: AutoencoderKL, images: np.ndarray, config: TinyTraining, *, seed: int, on_log: Log | None = None
) -> None:
    """Train in place on grey uint8 [N, 64, 64] and set the scaling factor."""
    vae.train()
    num_steps, highest_rate = config.num_autoencoder_steps, config.autoencoder_rate
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(vae.parameters(), lr=highest_rate, betas=(0.9, 0.99))
    for step in range(num_steps):
        rate = cosine_rate(step, num_steps, warm_up=min(100, num_steps // 10 + 1), floor=0.01)
        for group in optimizer.param_groups:
            group["lr"] = highest_rate * rate
        chosen = torch.randint(len(images), (config.autoencoder_batch,), generator=generator)
        pixels = to_pixels(images[chosen.numpy()])
        if torch.rand((), generator=generator) < 0.5:
            pixels = pixels.flip(-1)
        posterior = vae.encode(pixels.contiguous()).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        found = vae.decode(posterior.mean + posterior.std * noise).sample
        pixel = F.l1_loss(found, pixels) + F.mse_loss(found, pixels)
        # Anatomy is coarser than speckle: the error of 2 x 2 means counts shapes that speckle would outvote.
        shape = F.l1_loss(F.avg_pool2d(found, 2), F.avg_pool2d(pixels, 2))
        texture = texture_error(found.mean(1, keepdim=True), pixels[:, :1])
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
        loss = pixel + config.shape_weight * shape + config.texture_weight * texture + config.kl_weight * kl
        if not torch.isfinite(loss):
            raise FloatingPointError(f"autoencoder: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if on_log and (step % 10 == 9 or step == num_steps - 1):
            errors = {"pixel": pixel.item(), "shape": shape.item(), "texture": texture.item(), "kl": kl.item()}
            on_log({"stage": "autoencoder", "step": step + 1, **errors})
    vae.eval()
    means, deviations = encode(vae, images[:512])
    spread = (means.var(dim=(0, 2, 3), unbiased=True) + deviations.square().mean(dim=(0, 2, 3))).mean().sqrt().item()
    vae.register_to_config(scaling_factor=1.0 / spread)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of the posterior of grey uint8 [N, H, W], unscaled, each float32 [N, 4, 16, 16]."""
    parts = [vae.encode(to_pixels(images[i : i + batch])).latent_dist for i in range(0, len(images), batch)]
    return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])
