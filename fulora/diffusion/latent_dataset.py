"""What a LoRA is trained on: images checked, grouped by size, and turned into latents.

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
    """Images as latents, grouped by size; one group where all are squares."""

    groups: Sequence[tuple[torch.Tensor, torch.Tensor]]
    """Mean and deviation of the latents of each size, float32 [n, C, h, w] each."""
    images: Sequence[Sequence[int]]
    """Which image each row of a group is."""
    texts: Sequence[int]
    """The row of each image's caption among the captions."""
    empty_text: int
    """The row of the empty caption."""
    names: Sequence[str]
    """What an image is called in an error."""


def latent_dataset(
    model: Base, pixels: Images, rows: Sequence[int], empty: int, names: Sequence[str], config: LoraConfig
) -> LatentDataset:
    """Return the images' latents, squares as one group, others by bucket."""
    groups, images = _latent_groups(model, pixels, config)
    called = list(names) or [f"image {index}" for index in range(len(pixels))]
    return LatentDataset(groups=groups, images=images, texts=rows, empty_text=empty, names=called)


def heldout_groups(
    model: Base, heldout: tuple[Images, Sequence[str]], texts: list[str], config: LoraConfig
) -> list[tuple[torch.Tensor, list[int]]]:
    """Return per size the latents' means and the caption's row of each, of images to measure the loss on."""
    groups, images = _latent_groups(model, heldout[0], config)
    return [
        (mean, [texts.index(heldout[1][image]) for image in members])
        for (mean, _), members in zip(groups, images, strict=True)
    ]


def _latent_groups(
    model: Base, pixels: Images, config: LoraConfig
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[list[int]]]:
    """Return (mean, deviation) per size, in the order of the sizes, and which images are in it."""
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
    """Return what is wrong with images and captions, empty when nothing is."""
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
            rule = f"has a side below bucket_step_px ({step}), and nothing is enlarged"
            found.append(fault(f"pixels, image {index}", shape, rule, "Leave it out, or train on squares"))
            break
    if len(captions) != len(pixels):
        found.append(fault("captions", len(captions), f"must be as many as images ({len(pixels)})", "Give one each"))
    empty = [str(index) for index, caption in enumerate(captions) if not caption.strip()]
    if empty:
        found.append(fault("captions", f"image {', '.join(empty[:5])}", "is empty", "Give every image a caption"))
    return found
