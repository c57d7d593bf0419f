"""The training set of a LoRA: images validated, grouped by size and encoded as latents.

In: a base, images, captions. Out: a `LatentDataset`; held-out latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fulora.diffusion.buckets import fit_to_bucket, select_bucket
from fulora.diffusion.caching import cache_latents
from fulora.diffusion.lora_config import LoraConfig
from fulora.errors import fault

if TYPE_CHECKING:
    import torch

    from fulora.diffusion.base import Base

Images = np.ndarray | Sequence[np.ndarray]
"""uint8 [N, R, R, 3], or N images uint8 [H, W, 3] of any sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentDataset:
    """Latents grouped by image size; one group for square images."""

    groups: Sequence[tuple[torch.Tensor, torch.Tensor]]
    """Mean and standard deviation of the latents of each size, float32 [n, C, h, w] each."""
    images: Sequence[Sequence[int]]
    """Index of the image of each row of each group."""
    texts: Sequence[int]
    """Index of each image's caption."""
    empty_text: int
    """Index of the empty caption."""
    names: Sequence[str]
    """Names of the images in error messages."""


def latent_dataset(
    model: Base, pixels: Images, rows: Sequence[int], empty: int, names: Sequence[str], config: LoraConfig
) -> LatentDataset:
    """Return the images' latents: one group for squares, else one per bucket."""
    groups, images = _latent_groups(model, pixels, config)
    called = list(names) or [f"image {index}" for index in range(len(pixels))]
    return LatentDataset(groups=groups, images=images, texts=rows, empty_text=empty, names=called)


def heldout_groups(
    model: Base, heldout: tuple[Images, Sequence[str]], texts: list[str], config: LoraConfig
) -> list[tuple[torch.Tensor, list[int]]]:
    """Return per size the latent means and caption indices of held-out images."""
    groups, images = _latent_groups(model, heldout[0], config)
    return [
        (mean, [texts.index(heldout[1][image]) for image in members])
        for (mean, _), members in zip(groups, images, strict=True)
    ]


def _latent_groups(
    model: Base, pixels: Images, config: LoraConfig
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[list[int]]]:
    """Return (mean, deviation) per size, in the order of the sizes, and the indices of its images."""
    if config.bucket_step_px == 0:
        return [cache_latents(model, np.asarray(pixels))], [list(range(len(pixels)))]
    members: dict[tuple[int, int], list[int]] = {}
    buckets = []
    for index, image in enumerate(pixels):
        size = {"resolution_px": config.resolution_px, "step_px": config.bucket_step_px}
        buckets.append(select_bucket(image.shape[1], image.shape[0], **size))
        members.setdefault(buckets[-1][:2], []).append(index)
    images = [members[size] for size in sorted(members)]
    groups = [cache_latents(model, np.stack([fit_to_bucket(pixels[i], buckets[i]) for i in group])) for group in images]
    return groups, images


def input_faults(pixels: Images, captions: Sequence[str], config: LoraConfig) -> list[str]:
    """Return every fault of images and captions, empty when there is none."""
    side, step = config.resolution_px, config.bucket_step_px
    found = []
    if len(pixels) == 0:
        found.append(fault("pixels", 0, "must hold at least one image", "Choose images to train on"))
    for index, image in enumerate(pixels):
        shape, kind = list(image.shape), str(image.dtype)
        if kind != "uint8" or image.ndim != 3 or shape[2] != 3 or (not step and shape[:2] != [side, side]):
            rule = "must be uint8 [H, W, 3]" if step else f"must be uint8 [{side}, {side}, 3]"
            found.append(fault(f"pixels, image {index}", f"{kind} {shape}", rule, "Decode to resolution_px"))
            break
        if step and min(shape[:2]) < step:
            rule = f"has a side below bucket_step_px ({step}), and images are never enlarged"
            found.append(fault(f"pixels, image {index}", shape, rule, "Remove it, or train on squares"))
            break
    if len(captions) != len(pixels):
        found.append(fault("captions", len(captions), f"must be as many as images ({len(pixels)})", "Give one each"))
    empty = [str(index) for index, caption in enumerate(captions) if not caption.strip()]
    if empty:
        found.append(fault("captions", f"image {', '.join(empty[:5])}", "is empty", "Give every image a caption"))
    return found
