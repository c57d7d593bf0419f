"""The optimizer of a LoRA: 8-bit Adam without its waits for the device, or torch's AdamW, over a few long parameters.

In: the matrices, a `LoraConfig`. Out: a torch optimizer.
Source: Dettmers et al. 2022 (8-bit Adam), by bitsandbytes. It stays the default, being the paper's: without its waits
it is one kernel a step, as torch's fused Adam is, and its moments take a quarter of the memory.
"""

from __future__ import annotations

import sys
from typing import Any

from fulora.diffusion.flat_parameters import flatten
from fulora.diffusion.lora_config import LoraConfig

_LEAST_8BIT = 4096
"""Values from which on a matrix's moments are kept in 8 bits: bitsandbytes' default."""


def make_optimizer(trainable: tuple[list[Any], list[Any]], config: LoraConfig) -> Any:
    """Return the optimizer over the U-Net's and the text encoder's parameters, each at its own rate.

    It steps over long parameters (`fulora.diffusion.flat_parameters`). 8-bit Adam keeps the moments of a matrix of
    fewer than 4096 values in 32 bits, as bitsandbytes does: those are a group of their own.
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
        fused = place == "cuda" or None  # one kernel, and float16 waits for nothing
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)
    import bitsandbytes

    name, decay = ("Adam8bit", 0.0) if config.optimizer == "adam8bit" else ("AdamW8bit", config.weight_decay)
    kind: Any = getattr(bitsandbytes.optim, name)

    class ByGroup(kind):
        """bitsandbytes' optimizer, its least size for 8 bits taken from the group, and without waiting for the device.

        Its own step synchronises after every parameter, which only its paged states need.
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
