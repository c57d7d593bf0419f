"""The range that a classifier takes pixels in: the paper's, the released code's, or that of its initial weights.

In: a model's name and a range. Out: mean and deviation per channel of pixels in [0, 1], kept by the model itself, so
that training, prediction and features scale alike.
Source: paper section 3 ([-1, 1]); the released code's ToTensor ([0, 1]); timm's pretrained configurations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

InputRange = Literal["signed", "unit", "pretrained"]
"""`signed`: [-1, 1]. `unit`: [0, 1]. `pretrained`: the mean and deviation the initial weights were trained with."""


def set_input_range(model: nn.Module, input_range: InputRange, tag: str, *, side_px: int | None = None) -> None:
    """Have a model take pixels in a range, in place; `tag` is timm's name of its weights.

    With `side_px` images are resized to that side first (bicubic, antialiased). `signed` leaves pixels as they are. The
    numbers are buffers that move with the model and are no part of its state.
    """
    import timm
    import torch

    if side_px is not None:
        model.input_px = side_px  # type: ignore[assignment]
    if input_range == "signed":
        return
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if input_range == "pretrained" and (config := timm.get_pretrained_cfg(tag)) is not None:
        mean, std = config.mean, config.std
    for name, values in (("input_mean", mean), ("input_std", std)):
        model.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)


def scaled(batch: Tensor, model: nn.Module) -> Tensor:
    """Return a float batch [N, 3, R, R] of 0 to 255 in the model's range and size; may change it in place."""
    mean, side = getattr(model, "input_mean", None), getattr(model, "input_px", batch.shape[-1])
    batch = batch.mul_(2 / 255).sub_(1) if mean is None else batch.mul_(1 / 255).sub_(mean).div_(model.input_std)  # type: ignore[arg-type]
    if side == batch.shape[-1]:
        return batch
    from torch.nn import functional

    return functional.interpolate(batch, size=(side, side), mode="bicubic", antialias=True, align_corners=False)


def black(model: nn.Module) -> Tensor | float:
    """Return black in the model's range, [1, 3, 1, 1] or a number."""
    mean = getattr(model, "input_mean", None)
    return -1.0 if mean is None else -mean / model.input_std  # type: ignore[operator]
