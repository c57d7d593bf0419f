"""Checkpoints of a classifier's training: everything its next epochs depend on, to disk and back.

In: a model, its optimizer, two random streams, the history. Out: the same, bit for bit, in another process.
The files are those of `fulora.diffusion.checkpoints`: safetensors, written whole, checked when read.
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
"""A checkpoint is not written before so many times the last one's writing have passed: at most 5 % of the time."""


@dataclass(kw_only=True, slots=True)
class TrainingState:
    """The state of a training between two epochs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: np.random.Generator
    """Draws the order of the images of every epoch."""
    draws: torch.Generator
    """Draws the augmentation; on the CPU."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per finished epoch."""
    kept: int = 0
    """The epoch with the best validation so far, from 1."""
    best: float = -1.0
    """Its validation accuracy in percent."""
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    """Its weights, on the CPU; none where the last epoch is kept."""
    seconds: float = 0.0
    """Time in training, of every process that worked on it."""

    def state(self) -> State:
        """Return everything the next epochs depend on."""
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
        """Go back to a state that `state()` returned for a training of the same identity."""
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
                    # A fused optimizer goes through memory, not indices: the layout must be the parameter's.
                    value = torch.empty_like(like).copy_(value)
                entries.setdefault(int(index), {})[name] = value
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.draws.set_state(state.tensors["draws"])
        self.order.bit_generator.state = state.facts["order"]
        self.history, self.best_weights = list(state.facts["history"]), parts["best"]
        self.kept, self.best, self.seconds = state.facts["kept"], state.facts["best"], state.facts["seconds"]


class CheckpointManager:
    """Saves a training's state after its epochs, and resumes what an earlier process left.

    `every_seconds` is the least time between two; 0 is every epoch, however long the writing takes.
    """

    def __init__(self, folder: Path, *, identity: str, every_seconds: float) -> None:
        self._checkpoints = Checkpoints(folder, identity=identity, every_seconds=every_seconds)
        self._least = every_seconds

    def resume(self, training: TrainingState) -> int:
        """Restore `training` from the latest checkpoint; returns the epochs done, else 0."""
        state = self._checkpoints.latest()
        if state is not None:
            training.restore(state)
            return state.step
        if any(self._checkpoints.folder.glob("*.safetensors")):
            message = "the checkpoint in %s is damaged or of another training; it starts from its first epoch"
            logging.getLogger(__name__).warning(message, self._checkpoints.folder)
            self._checkpoints.clear()
        return 0

    def save_if_due(self, training: TrainingState) -> None:
        """Save the state, if it is due."""
        if not self._checkpoints.due():
            return
        began = time.monotonic()
        self._checkpoints.save(training.state())
        if self._least > 0:
            self._checkpoints.every_seconds = max(self._least, _SHARE * (time.monotonic() - began))


def identity_of(*parts: Any) -> str:
    """Return a hash of what decides a training: plain values as text, arrays by their content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape} ".encode() + part.tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()
