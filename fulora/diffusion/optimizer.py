"""The optimizer of a LoRA: 8-bit Adam without device synchronisations, or torch's AdamW, over flat parameters.

In: the matrices, a `LoraConfig`. Out: a torch optimizer.
Source: Dettmers et al. 2022 (8-bit Adam), by bitsandbytes. It is the default because the paper uses it; without
synchronisations it is one kernel per step, like torch's fused Adam, and its moments take a quarter of the memory.
"""

from __future__ import annotations

import sys
from typing import Any

from fulora.diffusion.flat_parameters import flatten
from fulora.diffusion.lora_config import LoraConfig

_LEAST_8BIT = 4096
"""Minimum number of values of a matrix for 8-bit moments: bitsandbytes' default."""


def make_optimizer(trainable: tuple[list[Any], list[Any]], config: LoraConfig) -> Any:
    """Return the optimizer over the U-Net's and the text encoder's parameters, each at its own rate.

    It steps over flat parameters (`fulora.diffusion.flat_parameters`). As in bitsandbytes, 8-bit Adam keeps the moments
    of matrices with fewer than 4096 values in 32 bits; these form a separate group.
    """
    import torch

    groups = []
    for part, rate in zip(trainable, (config.learning_rate, config.text_encoder_rate), strict=True):
        small = [p for p in part if p.numel() < _LEAST_8BIT]
        large = [p for p in part if p.numel() >= _LEAST_8BIT]
        for chosen, least in ((small, sys.maxsize), (large, _LEAST_8BIT)):
            if chosen:
                groups.append({"params": [flatten(chosen)], "lr": rate, "min_8bit_size": least})
    if config.optimizer == "adamw":
        place = next(part[0].device.type for part in trainable if part)
        fused = place == "cuda" or None  # one kernel, and no synchronisation in float16
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    import bitsandbytes

    name, decay = ("Adam8bit", 0.0) if config.optimizer == "adam8bit" else ("AdamW8bit", config.weight_decay)
    kind: Any = getattr(bitsandbytes.optim, name)

    class ByGroup(kind):
        """bitsandbytes' optimizer with a minimum size for 8 bits per group, and without device synchronisation.

        The original step synchronises after every parameter, which only paged states need.
        """

        @torch.no_grad()
        def step(self, closure: None = None) -> None:
            """Step over every parameter that has a gradient."""
            for gindex, group in enumerate(self.param_groups):
                for pindex, parameter in enumerate(group["params"]):
                    if parameter.grad is None:
                        continue
                    if not self.state[parameter]:
                        self.init_state(group, parameter, gindex, pindex)
                    self.update_step(group, parameter, gindex, pindex)

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            return {**super().get_config(gindex, pindex, group), "min_8bit_size": group["min_8bit_size"]}

    return ByGroup(groups, lr=config.learning_rate, weight_decay=decay)
