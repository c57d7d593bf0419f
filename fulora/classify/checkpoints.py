"""Save and restore checkpoints of a classifier's training.

In: a model, its optimizer, two random streams, the history. Out: the same, bit for bit, in another process.
The files are those of `fulora.diffusion.checkpoints`: safetensors, written atomically, verified when read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.diffusion.checkpoints import Checkpoints, State

if TYPE_CHECKING:
    import torch
    from torch import nn

_SHARE = 20
"""Minimum time between checkpoints, as a multiple of the time to write one: writing takes at most 5 % of the time."""


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """The state of a training after an epoch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: np.random.Generator
    """Random stream of the image order."""
    draws: torch.Generator
    """Random stream of the augmentation, on the CPU."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per finished epoch."""
    kept: int = 0
    """The epoch with the best validation accuracy so far, from 1."""
    best: float = -1.0
    """Its validation accuracy in percent."""
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """Its weights, on the CPU; empty if the last epoch is kept."""
    seconds: float = 0.0
    """Training time, summed over all processes that worked on it."""

    def state(self) -> State:
        """Return the checkpoint: everything that determines the next epochs."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best_weights.items()}
        tensors["draws"] = self.draws.get_state()
        for index, entry in self.optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                if value is not None:  # SGD without momentum
                    tensors[f"optimizer/{index}/{name}"] = value
        facts = {
            "order": self.order.bit_generator.state, "history": self.history, "kept": self.kept, "best": self.best,
            "seconds": self.seconds,
        }  # fmt: skip
        return State(len(self.history), tensors, facts)

    def restore(self, state: State) -> None:
        """Restore a state returned by `state()` of a training with the same identity."""
        import torch

        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "best": {}}
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for path, value in state.tensors.items():
            part, _, name = path.partition("/")
            if part in parts:
                parts[part][name] = value
            elif part == "optimizer":
                index, _, name = name.partition("/")
                like = parameters[int(index)]
                if value.shape == like.shape:
                    # A fused optimizer ignores strides: its state must have the parameter's memory format.
                    value = torch.empty_like(like).copy_(value)
                entries.setdefault(int(index), {})[name] = value
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.draws.set_state(state.tensors["draws"])
        self.order.bit_generator.state = state.facts["order"]
        self.history, self.best_weights = list(state.facts["history"]), parts["best"]
        self.kept, self.best, self.seconds = state.facts["kept"], state.facts["best"], state.facts["seconds"]


class CheckpointManager:
    """Saves a training's state after an epoch, and resumes from the state an earlier process saved.

    `every_seconds` is the minimum time between two checkpoints; 0: after every epoch, whatever the writing time.
    """

    def __init__(self, folder: Path, *, identity: str, every_seconds: float) -> None:
        self._checkpoints = Checkpoints(folder, identity=identity, every_seconds=every_seconds)
        self._least = every_seconds

    def resume(self, training: TrainingState) -> int:
        """Restore `training` from the latest checkpoint and return its number of epochs; 0 without a checkpoint."""
        state = self._checkpoints.latest()
        if state is not None:
            training.restore(state)
            return state.step
        if any(self._checkpoints.folder.glob("*.safetensors")):
            message = "the checkpoint in %s is damaged or of another training; training starts from the first epoch"
            logging.getLogger(__name__).warning(message, self._checkpoints.folder)
            self._checkpoints.clear()
        return 0

    def save_if_due(self, training: TrainingState) -> None:
        """Save the state if a checkpoint is due."""
        if not self._checkpoints.due():
            return
        began = time.monotonic()
        self._checkpoints.save(training.state())
        if self._least > 0:
            self._checkpoints.every_seconds = max(self._least, _SHARE * (time.monotonic() - began))


def identity_of(*parts: Any) -> str:
    """Return a hash of what determines a training: values as text, arrays by their content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode() + part.tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()
