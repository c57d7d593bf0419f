"""Several LoRAs on one frozen base: a batch holds a group of images for each, which passes through its own matrices.

In: a U-Net or text encoder, the ranks. Out: the same with each adapted layer replaced by a `GroupedLora`; the matrices
of one LoRA as `fulora.diffusion.adapter` names, draws and writes them.
Source: FU-LoRA equation (2) for every group. The groups meet in no layer: all of the base's work on one sample at a
time (convolution, group norm, layer norm, attention), so a group's result is that of the group alone, within rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from fulora.diffusion.adapter import Initialisation, check_targets, initial_matrix, target_modules
from fulora.diffusion.formats import TEXT_ENCODER, UNET, AdapterWeights


class Groups:
    """How a batch is split: into `num` equal groups in order, or all of it group `only`."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.only: int | None = None

    @contextmanager
    def alone(self, index: int) -> Iterator[None]:
        """Let the whole batch pass through the matrices of one LoRA."""
        self.only = index
        try:
            yield
        finally:
            self.only = None


class GroupedLora(nn.Module):
    """A frozen linear layer or convolution with a LoRA for each group of its batch [B, ...]."""

    def __init__(self, base: nn.Linear | nn.Conv2d, groups: Groups, ranks: Sequence[int], alphas: Sequence[float]):
        super().__init__()
        weight = base.weight
        outputs, inputs, *window = weight.shape
        self.base_layer, self.groups = base, groups
        self.scales = [alpha / rank for rank, alpha in zip(ranks, alphas, strict=True)]
        point = [1 for _ in window]  # B of a convolution is 1 x 1
        make: dict[str, Any] = {"dtype": torch.float32, "device": weight.device}
        self.lora_A = nn.ParameterList([torch.zeros(rank, inputs, *window, **make) for rank in ranks])
        self.lora_B = nn.ParameterList([torch.zeros(outputs, rank, *point, **make) for rank in ranks])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output, each group's change added."""
        out = self.base_layer(x)
        if self.groups.only is not None:
            return self._changed(self.groups.only, x, out)
        parts = zip(x.chunk(self.groups.num), out.chunk(self.groups.num), strict=True)
        return torch.cat([self._changed(index, *part) for index, part in enumerate(parts)])

    def _changed(self, index: int, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        down, up, base = self.lora_A[index], self.lora_B[index], self.base_layer
        x = x.to(down.dtype)
        if isinstance(base, nn.Linear):
            change = functional.linear(functional.linear(x, down), up)
        else:
            inner = functional.conv2d(x, down, None, base.stride, base.padding, base.dilation)  # type: ignore[arg-type]
            change = functional.conv2d(inner, up)
        scale = self.scales[index]
        return (out + (change if scale == 1 else change * scale)).to(out.dtype)


def add_grouped_lora(
    module: nn.Module,
    groups: Groups,
    *,
    ranks: Sequence[int],
    alphas: Sequence[float],
    targets: str,
    seeds: Sequence[int],
    init: Initialisation,
) -> list[list[Any]]:
    """Replace the layers that match, in place, and return the trainable parameters of each LoRA, float32.

    Each LoRA's are drawn as `fulora.diffusion.adapter.add_lora` draws them alone. Raises InputError listing the layers
    if none matches.
    """
    pattern = target_modules(targets)
    check_targets(module, pattern, targets)
    module.requires_grad_(False)
    wanted = [
        (name, part)
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and re.fullmatch(pattern, name)
    ]
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    trainable: list[list[Any]] = [[] for _ in ranks]
    for name, part in wanted:
        layer = GroupedLora(part, groups, ranks, alphas)
        path, _, last = name.rpartition(".")
        setattr(module.get_submodule(path), last, layer)
        for index, generator in enumerate(generators):
            down, up = layer.lora_A[index], layer.lora_B[index]
            down.data.copy_(initial_matrix(down.shape, init, ranks[index], generator))
            trainable[index] += [down, up]
    return trainable


def grouped_weights(unet: Any, text_encoder: Any, index: int, *, rank: int, alpha: float) -> AdapterWeights:
    """Return copies of the matrices of one LoRA on the CPU; `text_encoder` is None where it is not adapted."""
    down: dict[str, Any] = {}
    up: dict[str, Any] = {}
    for part, module in ((UNET, unet), (TEXT_ENCODER, text_encoder)):
        for name, layer in module.named_modules() if module is not None else ():
            if isinstance(layer, GroupedLora):
                for side, matrices in ((down, layer.lora_A), (up, layer.lora_B)):
                    side[f"{part}.{name}"] = matrices[index].detach().to("cpu", copy=True).contiguous()
    return AdapterWeights(rank=rank, alpha=alpha, down=down, up=up)
