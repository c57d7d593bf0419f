"""The loss of a classifier's training, plain or corrected for the share of each plane among its training images.

In: plane indices of the training images. Out: a loss of logits [B, 5] and targets [B].
Source: weights N / (K n_c) of K classes present, King and Zeng, Political Analysis 9 (2001) 137, as scikit-learn's
`balanced`; logit adjustment, the logarithm of the class's share added to its logit in training alone, Menon et al.,
ICLR 2021 (arXiv 2007.07314), tau 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from fulora.planes import PLANES

if TYPE_CHECKING:
    import torch

Balance = Literal["none", "class_weights", "logit_adjustment"]
"""`none`: cross-entropy (source: paper). The others take the classes' shares out of what is learned."""


def new_loss(
    labels: np.ndarray, balance: Balance, place: torch.device
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the loss of training images with plane indices [N]; a class without images changes nothing."""
    import torch
    from torch.nn import functional

    if balance == "none":
        return functional.cross_entropy
    counts = np.bincount(labels, minlength=len(PLANES)).astype(np.float64)
    present = counts > 0
    if balance == "class_weights":
        weights = np.divide(len(labels), present.sum() * counts, out=np.zeros(len(counts)), where=present)
        weight = torch.tensor(weights, dtype=torch.float32, device=place)
        return lambda logits, target: functional.cross_entropy(logits, target, weight=weight)
    shares = np.where(present, counts, 1) / len(labels)
    shift = torch.tensor(np.log(shares), dtype=torch.float32, device=place)
    return lambda logits, target: functional.cross_entropy(logits + shift, target)
