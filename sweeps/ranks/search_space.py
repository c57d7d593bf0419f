"""Search space over LoRA settings. Importing this module does not load Ray, so --help is fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fulora.errors import fault


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSearch:
    """The space and the budget of `sweeps lora --search optuna`; the recipe gives every setting not named here."""

    num_trials: int = 20
    """Total number of candidates, pruned and resumed ones included."""
    ranks: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Ranks to choose from."""
    alpha_over_rank: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Scales alpha / rank of equation (2) to choose from."""
    learning_rate: tuple[float, float] = (3e-5, 3e-3)
    """Range of the learning rate, sampled log-uniformly."""
    num_steps: tuple[int, ...] = ()
    """Numbers of steps to choose from; empty: the recipe's."""
    targets: tuple[str, ...] = ("cross_attention", "all_attention")
    """Adapted layers to choose from."""
    objective: Literal["heldout_loss", "kid"] = "heldout_loss"
    """Objective to minimise: the held-out loss at the last step (noise prediction, on patients LoRA is not trained on),
    or the KID of `compare_per_plane` sampled images to real images of such patients. Pruning uses the loss."""
    reduction_factor: int = 3
    """ASHA promotes one in this many candidates at each rung. Source: Li et al. 2020."""

    def validate(self) -> list[str]:
        """Return every fault of the space, empty when there is none."""
        found = []
        if self.num_trials < 1:
            found.append(fault("space.num_trials", self.num_trials, "must be at least 1", "Ask for one or more."))
        if self.reduction_factor < 2:
            found.append(fault("space.reduction_factor", self.reduction_factor, "must be at least 2", "Use 3."))
        low, high = self.learning_rate
        if not 0 < low <= high:
            found.append(fault("space.learning_rate", self.learning_rate, "must be 0 < low <= high", "Use 3e-5 3e-3."))
        for name in ("ranks", "alpha_over_rank", "targets"):
            if not getattr(self, name):
                found.append(fault(f"space.{name}", (), "is empty", "Name at least one."))
        for name in ("ranks", "alpha_over_rank", "num_steps"):
            if any(value <= 0 for value in getattr(self, name)):
                found.append(fault(f"space.{name}", getattr(self, name), "must be above 0", "Remove the others."))
        return found
