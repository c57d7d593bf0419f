"""UniPC without device synchronisation: its coefficients depend only on the schedule and are computed on the CPU.

In and out: as diffusers' UniPCMultistepScheduler, whose latents it gives bit for bit on a CPU. On a GPU diffusers
copies every coefficient to the device and solves a 2 x 2 system there, about seven synchronisations per step.
Source: Zhao et al. 2023, algorithms 1 to 4, in the form of diffusers 0.42.
Notation: as diffusers'; B(h) as `b_h`, h phi_1(h) as `h_phi_1`, x0 predictions as `m`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers import UniPCMultistepScheduler


class _Coefficients(NamedTuple):
    """Of one update, float32 on the CPU; `rks` and `rhos` are vectors, the others numbers."""

    keep: torch.Tensor
    h_phi_1: torch.Tensor
    alpha_t: torch.Tensor
    b_h: torch.Tensor
    rks: list[torch.Tensor]
    rhos: torch.Tensor


class HostUniPC(UniPCMultistepScheduler):
    """diffusers' UniPC with the coefficients of its updates on the CPU; all arithmetic on images is diffusers' own."""

    def multistep_uni_p_bh_update(self, model_output: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the predictor's sample [B, C, H, W] at the next time step."""
        if not self.predict_x0 or self.solver_p or args:
            return super().multistep_uni_p_bh_update(model_output, *args, **kwargs)
        x, order = kwargs["sample"], kwargs["order"]
        found = self._coefficients(self.step_index + 1, self.step_index, order, corrects=False)
        return self._update(x, found, self._differences(found, order), None)

    def multistep_uni_c_bh_update(self, this_model_output: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the corrector's sample [B, C, H, W] at this time step, from the prediction made there."""
        if not self.predict_x0 or args:
            return super().multistep_uni_c_bh_update(this_model_output, *args, **kwargs)
        x, order = kwargs["last_sample"], kwargs["order"]
        found = self._coefficients(self.step_index, self.step_index - 1, order, corrects=True)
        return self._update(x, found, self._differences(found, order), this_model_output - self.model_outputs[-1])

    def _differences(self, found: _Coefficients, order: int) -> torch.Tensor | None:
        """Return earlier predictions less the last one, each over its rk, [B, order - 1, C, H, W]."""
        m0, earlier = self.model_outputs[-1], [self.model_outputs[-(i + 1)] for i in range(1, order)]
        differences = [(mi - m0) / rk for mi, rk in zip(earlier, found.rks)]
        return torch.stack(differences, dim=1) if differences else None

    def _update(
        self, x: torch.Tensor, found: _Coefficients, differences: torch.Tensor | None, newest: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the updated sample; `newest` is the corrector's difference, None for the predictor."""
        rhos = found.rhos.to(x.device, x.dtype, non_blocking=True)  # a few bytes, copied without waiting
        x_t = found.keep * x - found.alpha_t * found.h_phi_1 * self.model_outputs[-1]
        weights = rhos if newest is None else rhos[:-1]
        total = 0 if differences is None else torch.einsum("k,bkc...->bc...", weights, differences)
        if newest is not None:
            total = total + rhos[-1] * newest
        return (x_t - found.alpha_t * found.b_h * total).to(x.dtype)

    def _coefficients(self, to: int, start: int, order: int, *, corrects: bool) -> _Coefficients:
        """Return the coefficients of an update from the schedule's place `start` to its place `to`."""
        alpha_t, sigma_t, lambda_t = self._at(to)
        _, sigma_s0, lambda_s0 = self._at(start)
        h = lambda_t - lambda_s0
        rks = [(self._at(start - i)[2] - lambda_s0) / h for i in range(1, order)]
        powers = torch.stack([*rks, torch.ones(())])
        hh = -h
        h_phi_1 = torch.expm1(hh)
        b_h = hh if self.config.solver_type == "bh1" else torch.expm1(hh)
        h_phi_k, factorial = h_phi_1 / hh - 1, 1
        rows, right = [], []
        for i in range(1, order + 1):
            rows.append(torch.pow(powers, i - 1))
            right.append(h_phi_k * factorial / b_h)
            factorial *= i + 1
            h_phi_k = h_phi_k / hh - 1 / factorial
        size = order if corrects else order - 1
        if size <= 1:
            rhos = torch.full((size,), 0.5)
        else:
            rhos = torch.linalg.solve(torch.stack(rows)[:size, :size], torch.stack(right)[:size])
        return _Coefficients(sigma_t / sigma_s0, h_phi_1, alpha_t, b_h, rks, rhos)

    def _at(self, place: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return alpha, sigma and half the log signal-to-noise ratio at a place of the schedule."""
        alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[place])
        return alpha, sigma, torch.log(alpha) - torch.log(sigma)
