"""Traditional data augmentation (DA): rotation, flips and crops of a whole batch on its device.

In: a float batch. Out: the batch rotated, flipped and cropped at random, black outside.
Source: paper section 3, "Traditional Data Augmentation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fulora.errors import fault

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Ranges and probabilities of the augmentation."""

    rotation_degrees: float = 25.0
    """Rotation is uniform in +- this angle. Source: paper (released code: 15)."""
    horizontal_flip: float = 0.5
    """Probability of a left-right flip. Source: paper and released code."""
    vertical_flip: float = 0.1
    """Probability of an up-down flip. Source: paper (released code: none)."""
    least_crop: float = 1.0
    """Minimum fraction of the area in a random resized crop, aspect ratio 3/4 to 4/3; 1: no crop. Source: the released
    code, 0.08 (torchvision's RandomResizedCrop, applied there before resizing)."""

    def validate(self) -> list[str]:
        """Return every fault of this configuration."""
        found = []
        if not 0 <= self.rotation_degrees <= 180:
            found.append(
                fault("rotation_degrees", self.rotation_degrees, "must be from 0 to 180", "The paper's value is 25")
            )
        if not 0 < self.least_crop <= 1:
            found.append(fault("least_crop", self.least_crop, "must be above 0 and at most 1", "The paper: 1, no crop"))
        for name in ("horizontal_flip", "vertical_flip"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                found.append(fault(name, value, "must be a probability", "Choose a value from 0 to 1"))
        return found


def augment_batch(batch: Tensor, config: AugmentConfig, generator: Generator, black: Tensor | float = -1.0) -> Tensor:
    """Return the batch [N, 3, R, R] with each image augmented independently; pixels outside the image are `black`.

    All random numbers come from `generator`, a CPU generator, so they are the same on every device.
    """
    import math

    import torch
    from torch.nn import functional

    draws = torch.rand(3, len(batch), generator=generator)
    angle = (draws[0] * 2 - 1) * math.radians(config.rotation_degrees)
    flip_x = torch.where(draws[1] < config.horizontal_flip, -1.0, 1.0)
    flip_y = torch.where(draws[2] < config.vertical_flip, -1.0, 1.0)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros(len(batch))
    # Rows of the inverse map, output position -> input position: rotate first, then flip.
    matrix = torch.stack(
        [torch.stack([cos * flip_x, -sin * flip_x, zero], -1), torch.stack([sin * flip_y, cos * flip_y, zero], -1)], 1
    )
    if config.least_crop < 1:
        matrix = matrix @ _crops(len(batch), config.least_crop, batch.shape[-1], generator)
    matrix = matrix.to(device=batch.device, dtype=batch.dtype, non_blocking=True)
    grid = functional.affine_grid(matrix, list(batch.shape), align_corners=False)
    # grid_sample pads with 0; shifting makes that black.
    shifted = functional.grid_sample(batch - black, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return shifted + black


def _crops(count: int, least: float, side: int, generator: Generator) -> Tensor:
    """Return affine maps [count, 3, 3] from crop to image coordinates (both -1 to 1) in an image of `side` pixels.

    A crop ends at the centres of its outermost pixels, so that resizing it adds no black border.
    """
    import math

    import torch

    draws = torch.rand(4, count, generator=generator)
    area, ratio = least + (1 - least) * draws[0], torch.exp((draws[1] * 2 - 1) * math.log(4 / 3))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    found = torch.zeros(count, 3, 3)
    found[:, 0, 0], found[:, 0, 2] = width, (draws[2] * 2 - 1) * (1 - width)
    found[:, 1, 1], found[:, 1, 2] = height, (draws[3] * 2 - 1) * (1 - height)
    found *= 1 - 1 / side
    found[:, 2, 2] = 1
    return found
