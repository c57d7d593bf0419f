"""Checkpoints of a training: written atomically, verified when read, the last two kept.

In: tensors and facts of a step. Out: a directory with the last two steps; the newest intact one is read back.
No pickles: tensors as safetensors, everything else as JSON in their metadata.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fulora.diffusion.tensorfile import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

KEPT = 2
"""Checkpoints kept: the newest may be damaged."""


class State(NamedTuple):
    """The state of a training after a step."""

    step: int
    """Optimizer steps done."""
    tensors: dict[str, torch.Tensor]
    """Parameters, optimizer state, random streams, losses."""
    facts: dict[str, Any]
    """Everything else, JSON-serialisable."""


class Checkpoints:
    """The checkpoints of one training, in a directory of its own.

    `identity` identifies the training (base, data, settings, seed): checkpoints of another are not read.
    `every_seconds` is the minimum time between two checkpoints; 0: after every step.
    """

    def __init__(self, folder: Path, *, identity: str, every_seconds: float = 60.0) -> None:
        self.folder, self.identity, self.every_seconds = folder, identity, every_seconds
        self._written = time.monotonic()

    def due(self) -> bool:
        """Return whether the next checkpoint is due."""
        return time.monotonic() - self._written >= self.every_seconds

    def save(self, state: State) -> Path:
        """Write a state, delete all but the last two, and return the file."""
        tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.tensors.items()}
        facts = json.dumps({"step": state.step, "facts": state.facts, "identity": self.identity}, sort_keys=True)
        metadata = {"facts": facts, "sha256": _digest(tensors, facts)}
        file = write_tensors(self.folder / f"step-{state.step:09d}.safetensors", tensors, metadata)
        for old in self._files()[KEPT:]:
            old.unlink(missing_ok=True)
        self._written = time.monotonic()
        return file

    def latest(self) -> State | None:
        """Return the newest intact state of this training, or None."""
        for file in self._files():
            try:
                tensors, metadata = read_tensors(file)
                facts = metadata["facts"]
                if metadata["sha256"] != _digest(tensors, facts):
                    continue
                read = json.loads(facts)
            except (OSError, ValueError, KeyError):
                continue  # damaged: use the previous one
            if read["identity"] == self.identity:
                return State(read["step"], tensors, read["facts"])
        return None

    def clear(self) -> None:
        """Remove the directory, after the training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Return the files, newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)


def _digest(tensors: dict[str, torch.Tensor], facts: str) -> str:
    import torch

    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
