"""UniPC with its coefficients on the CPU gives diffusers' latents to the bit."""

from __future__ import annotations

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from fulora.diffusion.unipc import HostUniPC
from tests.conftest import SD15_SCHEDULER


@pytest.mark.parametrize("num_steps", [1, 2, 3, 20])
@pytest.mark.parametrize(
    "settings",
    [
        {"solver_type": "bh2", "solver_order": 2},
        {"solver_type": "bh2", "solver_order": 1},
        {"solver_type": "bh2", "solver_order": 3},
        {"solver_type": "bh1", "solver_order": 3, "final_sigmas_type": "sigma_min"},
        {"solver_type": "bh2", "solver_order": 2, "predict_x0": False, "final_sigmas_type": "sigma_min"},
    ],
)
def test_latents_are_diffusers_own(settings: dict, num_steps: int) -> None:
    def draw(kind: type[UniPCMultistepScheduler]) -> torch.Tensor:
        scheduler = kind.from_config(SD15_SCHEDULER, **settings)
        scheduler.set_timesteps(num_steps)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(2, 4, 8, 8, generator=generator)
        for t in scheduler.timesteps:
            noise = torch.randn(latents.shape, generator=generator) + 0.3 * latents
            latents = scheduler.step(noise, t, latents, return_dict=False)[0]
        return latents

    assert draw(HostUniPC).isfinite().all() and torch.equal(draw(HostUniPC), draw(UniPCMultistepScheduler))
