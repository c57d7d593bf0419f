"""The noise-prediction loss on held-out images, comparable between steps, learning rates and ranks.

In: latents of held-out images, their embeddings. Out: a number, the same for the same U-Net.
Source: FU-LoRA equation (1), at fixed noise and fixed time steps, so that measurements differ by the U-Net only. If it
rises while the training loss falls, the adapter overfits its training images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import torch

NUM_TIMES = 8
"""Time steps at which every image is measured, evenly spaced over the schedule."""


def heldout_loss(
    unet: Any,
    embed: Callable[[torch.Tensor], torch.Tensor],
    groups: Sequence[tuple[torch.Tensor, Sequence[int]]],
    abar: torch.Tensor,
    *,
    dtype: torch.dtype,
    batch_size: int = 8,
) -> float:
    """Return the mean over images and time steps; `groups` are latents [n, C, h, w] with a caption's row for each.

    The noise of an image depends only on its position. The U-Net and all random streams are left unchanged.
    """
    import torch

    times = ((torch.arange(NUM_TIMES) + 0.5) / NUM_TIMES * len(abar)).long()
    sums, count, position = [], 0, 0
    with torch.no_grad():
        for latents, texts in groups:
            device = latents.device
            noise = []
            for _ in range(len(latents)):
                generator = torch.Generator().manual_seed(derive_seed(0, "heldout", position))
                noise.append(torch.randn((NUM_TIMES, *latents.shape[1:]), generator=generator))
                position += 1
            eps = torch.cat(noise).to(device)
            x0 = latents.repeat_interleave(NUM_TIMES, 0)
            rows = torch.tensor(texts, device=device).repeat_interleave(NUM_TIMES)
            t = times.repeat(len(latents)).to(device)
            kept = abar.to(device)[t].view(-1, 1, 1, 1)
            x_t = kept.sqrt() * x0 + (1 - kept).sqrt() * eps
            for first in range(0, len(x_t), batch_size):
                part = slice(first, first + batch_size)
                with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                    found = unet(x_t[part], t[part], embed(rows[part]), return_dict=False)[0]
                sums.append((found.float() - eps[part]).square().mean(dim=(1, 2, 3)).sum())
            count += len(x_t)
        return sum(torch.stack(sums).tolist()) / count  # one device synchronisation
