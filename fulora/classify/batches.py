"""Load batches for a classifier: split, move to its device, scale to the range it takes (the paper's: [-1, 1]).

In: uint8 images [N, R, R, 3], an array or rows of mapped stores. Out: float batches [B, 3, R, R] on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from fulora.classify.input_range import scaled

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fulora.data.pixels import PixelRows

    Pixels = np.ndarray | PixelRows
    """uint8 images [N, R, R, 3] that an array of row numbers is taken from."""


def split_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split the order into batches; a last batch of one image joins the previous batch, as BatchNorm needs two."""
    cuts = list(range(batch_size, len(order), batch_size))
    if cuts and len(order) - cuts[-1] == 1:
        cuts.pop()
    return np.split(order, cuts)


def load_batches(
    pixels: Pixels, batches: Sequence[np.ndarray], model: nn.Module, place: torch.device
) -> Iterator[torch.Tensor]:
    """Yield the model input of each batch of row indices.

    On CUDA a thread gathers the next batch into pinned memory while the device computes, and copies it asynchronously;
    on a CPU each batch is gathered when needed.
    """
    if place.type != "cuda":
        for rows in batches:
            yield to_input(pixels[rows], model, place)
        return
    import torch

    def gather(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels[rows]).pin_memory()

    with ThreadPoolExecutor(max_workers=1) as thread:
        ahead = [thread.submit(gather, rows) for rows in batches[:1]]
        for following in range(1, len(batches) + 1):
            images = ahead.pop().result()
            if following < len(batches):
                ahead.append(thread.submit(gather, batches[following]))
            yield _as_input(images, model, place)


def to_input(images: np.ndarray, model: nn.Module, place: torch.device) -> torch.Tensor:
    """Return uint8 images [N, R, R, 3] as the float batch [N, 3, R, R], in the model's range and memory layout."""
    import torch

    # Copy a read-only array (memory-mapped, or from a Ray batch): torch requires writable memory.
    return _as_input(torch.from_numpy(np.require(images, requirements=["C", "W"])), model, place)


def _as_input(images: torch.Tensor, model: nn.Module, place: torch.device) -> torch.Tensor:
    import torch

    batch = images.to(place, non_blocking=True).permute(0, 3, 1, 2)  # already channels-last in memory
    first = next((weight for weight in model.parameters() if weight.ndim == 4 and weight.shape[1] > 1), None)
    last = first is not None and first.is_contiguous(memory_format=torch.channels_last) and not first.is_contiguous()
    batch = batch.to(torch.float32, memory_format=torch.channels_last if last else torch.contiguous_format)
    return scaled(batch, model)
