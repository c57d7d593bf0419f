"""Traditional data augmentation (DA): rotation and flips, one pass for a whole batch on its device.

In: a float batch in [-1, 1]. Out: the batch rotated and flipped at random, black outside.
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
    """How far and how often an image is changed."""

    rotation_degrees: float = 25.0
    """Rotation is uniform in +- this angle. Source: paper (released code: 15)."""
    horizontal_flip: float = 0.5
    """Probability of a left-right flip. Source: paper and released code."""
    vertical_flip: float = 0.1
    """Probability of an up-down flip. Source: paper (released code: none)."""

    def faults(self) -> list[str]:
        """Return every fault of this configuration."""
        found = []
        if not 0 <= self.rotation_degrees <= 180:
            found.append(
                fault("rotation_degrees", self.rotation_degrees, "must lie in 0 to 180", "The paper's value is 25")
            )
        for name in ("horizontal_flip", "vertical_flip"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                found.append(fault(name, value, "must be a probability", "Choose a value from 0 to 1"))
        return found


def augment_batch(batch: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """Return the batch [N, 3, R, R] with each image rotated and flipped on its own; outside the image is black (-1).

    All random numbers come from `generator`, a CPU generator, so that they are the same on every device.
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
    ).to(device=batch.device, dtype=batch.dtype)
    grid = functional.affine_grid(matrix, list(batch.shape), align_corners=False)
    # grid_sample pads with 0; shifting by 1 makes that black.
    return functional.grid_sample(batch + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
