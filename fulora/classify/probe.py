"""Train the head alone on a frozen encoder: its features are computed once, where images are not augmented.

In: a model whose encoder is frozen, images. Out: features [N, D] on the model's device, which the head takes.
Source: linear evaluation of pretrained encoders, as for DINOv2 (arXiv 2304.07193) and FetalCLIP (arXiv 2502.14807).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.classify.batches import load_batches

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fulora.classify.batches import Pixels

EMBEDDED_AT_ONCE = 64
"""Batch size of the encoder."""


def freeze_encoder(model: nn.Module) -> None:
    """Let only the head of a timm model be trained, in place."""
    model.requires_grad_(False)
    head_of(model).requires_grad_(True)


def head_of(model: Any) -> nn.Module:
    """Return the last linear layer of a timm model."""
    return model.get_classifier()


def embed(model: Any, pixels: Pixels, place: torch.device, *, half: bool) -> torch.Tensor:
    """Return what the head of a timm model takes, float32 [N, D], of uint8 images; the model is left in evaluation."""
    import torch

    model.eval()
    batches = np.split(np.arange(len(pixels)), range(EMBEDDED_AT_ONCE, len(pixels), EMBEDDED_AT_ONCE))
    found = []
    with torch.no_grad():
        for batch in load_batches(pixels, batches, model, place):
            with torch.autocast(place.type, torch.bfloat16, enabled=half):
                features = model.forward_features(batch)
            found.append(model.forward_head(features.float(), pre_logits=True).float())
    return torch.cat(found)
