"""Flatten many small parameters into a few long ones, so that an optimizer launches one kernel instead of hundreds.

In: the matrices of a LoRA. Out: flat parameters; the matrices and their gradients become views of them.
Every matrix starts at a multiple of 8-bit Adam's block size, so its quantised state and its steps are bit for bit
those of a separate parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 256
"""Values that share a scale in 8-bit Adam. Source: Dettmers et al. 2022; bitsandbytes' block size."""


def flatten(parameters: Sequence[torch.nn.Parameter]) -> torch.nn.Parameter:
    """Return one parameter [sum of sizes, each rounded up to BLOCK] that holds the values of all parameters.

    The parameters become views of it, and their gradients views of its gradient, which is zero; zero the gradient in
    place, do not set it to None. All parameters must have one dtype and device.
    """
    import torch

    starts, end = [], 0
    for parameter in parameters:
        starts.append(end)
        end += -(-parameter.numel() // BLOCK) * BLOCK
    flat = torch.nn.Parameter(parameters[0].new_zeros(end))
    flat.grad = torch.zeros_like(flat)
    for start, parameter in zip(starts, parameters, strict=True):
        part = slice(start, start + parameter.numel())
        flat.data[part] = parameter.data.flatten()
        parameter.data = flat.data[part].view(parameter.shape)
        parameter.grad = flat.grad[part].view(parameter.shape)
    return flat


def check_views(parameters: Sequence[torch.nn.Parameter], flats: Sequence[torch.nn.Parameter]) -> None:
    """Raise RuntimeError unless all parameters and their gradients still share memory with a flat parameter.

    Moving a module to another memory format, dtype or device after `flatten` gives its parameters new memory, which the
    optimizer does not update: training would silently leave them unchanged.
    """
    values = {flat.untyped_storage().data_ptr() for flat in flats}
    gradients = {flat.grad.untyped_storage().data_ptr() for flat in flats if flat.grad is not None}
    cut = sum(
        parameter.untyped_storage().data_ptr() not in values
        or parameter.grad is None
        or parameter.grad.untyped_storage().data_ptr() not in gradients
        for parameter in parameters
    )
    if cut:
        raise RuntimeError(
            f"{cut} of {len(parameters)} matrices were moved out of the optimizer's memory and are not trained: change "
            "a module's memory format, dtype or device before making its training"
        )
