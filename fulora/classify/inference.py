"""Inference of a classifier: predicted probabilities, and recomputed BatchNorm statistics.

In: a model, uint8 images [N, R, R, 3]. Out: probabilities [N, 5]; the model changed in place.
Both use the precision of the training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.classify.batches import load_batches, split_batches
from fulora.classify.classifier_config import ClassifierConfig, Precision
from fulora.device import computes_bf16, resolve_device
from fulora.planes import PLANES

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fulora.classify.batches import Pixels

PREDICTED_AT_ONCE = 64
"""Batch size of predictions."""


def predict(
    model: nn.Module,
    pixels: Pixels,
    *,
    batch_size: int = PREDICTED_AT_ONCE,
    device: str = "auto",
    precision: Precision = "auto",
) -> np.ndarray:
    """Return the probabilities float32 [N, 5] of uint8 images [N, R, R, 3]; each row sums to 1.

    The model is moved to the device and left in evaluation mode. `precision` is the training's; in bf16 the last layer
    still computes in float32, so that probabilities keep their resolution. An image's row depends on the other images
    only by rounding.
    """
    import torch

    if not len(pixels):
        return np.zeros((0, len(PLANES)), dtype=np.float32)
    place = torch.device(resolve_device(device))
    model = model.to(place).eval()
    half = takes_half(precision, place)
    batches = np.split(np.arange(len(pixels)), range(batch_size, len(pixels), batch_size))
    with torch.inference_mode():
        found = [torch.softmax(_logits(model, b, half), dim=1) for b in load_batches(pixels, batches, model, place)]
        return torch.cat(found).cpu().numpy()


def _logits(model: Any, batch: torch.Tensor, half: bool) -> torch.Tensor:
    """Return float32 logits [B, 5]; with `half` all but the head runs in bfloat16."""
    import torch

    if not half:
        return model(batch).float()
    with torch.autocast(batch.device.type, torch.bfloat16):
        features = model.forward_features(batch)
    return model.forward_head(features.float())


def takes_half(precision: Precision, place: torch.device) -> bool:
    """Return whether a forward pass runs in bfloat16."""
    return precision == "bf16" or (precision == "auto" and computes_bf16(str(place)))


def refit_batchnorm(model: nn.Module, pixels: Pixels, config: ClassifierConfig, place: torch.device) -> None:
    """Set every BatchNorm's running mean and variance to their averages over batches of the images, in place."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    # Shuffled: the images may be sorted by plane.
    batches = split_batches(np.random.default_rng(0).permutation(len(pixels)), config.batch_size)
    half = takes_half(config.precision, place)
    with torch.no_grad(), torch.autocast(place.type, torch.bfloat16, enabled=half):
        for count, batch in enumerate(load_batches(pixels, batches, model, place), 1):
            for norm in norms:
                # A cumulative average; torch's own (momentum None) synchronises with the device in every layer.
                norm.momentum = 1 / count
            model(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
