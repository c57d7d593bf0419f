"""Several LoRAs trained in one pass: each step's batches side by side through one U-Net, each through its own matrices.

In: a `LoraTraining` per LoRA, on one U-Net with grouped matrices. Out: as each alone, within rounding.
Each keeps its own data order, noise, loss, optimizer and reports (`fulora.diffusion.training`); only the forward and
the backward pass are shared, and no gradient of one reaches the matrices of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fulora.diffusion.checkpoints import Checkpoints, State
from fulora.diffusion.grouped_lora import Groups
from fulora.diffusion.training import Log, LoraTraining, compiled


class JointTraining:
    """Trainings of equal length and batch size that share a U-Net, `groups` the order of their batches in it."""

    def __init__(self, members: Sequence[LoraTraining], groups: Groups, *, compile_unet: bool) -> None:
        self.members, self.groups = members, groups
        first = members[0]
        self.predict = compiled(first.unet, len(first.data.groups)) if compile_unet else first.unet

    @property
    def steps_done(self) -> int:
        """Optimizer steps that each has done."""
        return self.members[0].steps_done

    def step(self) -> None:
        """Take one optimizer step of each."""
        import torch

        batches = [one.noisy_batch() for one in self.members]
        latents, times, texts = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[:3])
        with self.members[0].autocast():
            predicted = self.predict(latents, times, self.members[0].embed(texts), return_dict=False)[0]
        shares = predicted.chunk(len(self.members))
        losses = [one.scaled_loss(*both) for one, *both in zip(self.members, shares, batches, strict=True)]
        torch.stack(losses).sum().backward()
        for one in self.members:
            one.update()

    def run(self, *, checkpoints: Checkpoints | None = None, on_logs: Sequence[Log | None]) -> None:
        """Take the remaining steps; the reports are each training's. Raises as `LoraTraining.run`, naming the rank."""
        while not self.members[0].ended:
            self.step()
            for index, (one, on_log) in enumerate(zip(self.members, on_logs, strict=True)):
                with self.groups.alone(index), _named(one):
                    one.report_if_due(on_log)
            if checkpoints is not None and not self.members[0].ended and checkpoints.due():
                for one in self.members:
                    with _named(one):
                        one.check_finite(one.reported)
                checkpoints.save(self.state())

    def state(self) -> State:
        """Return the checkpoint of all."""
        states = [one.state() for one in self.members]
        tensors = {
            f"{index}:{name}": value for index, state in enumerate(states) for name, value in state.tensors.items()
        }
        return State(self.steps_done, tensors, {"members": [state.facts for state in states]})

    def restore(self, state: State) -> None:
        """Restore a state returned by `state()`."""
        own: list[dict[str, Any]] = [{} for _ in self.members]
        for path, value in state.tensors.items():
            index, _, name = path.partition(":")
            own[int(index)][name] = value
        for one, tensors, facts in zip(self.members, own, state.facts["members"], strict=True):
            one.restore(State(state.step, tensors, facts))


@contextmanager
def _named(training: LoraTraining) -> Iterator[None]:
    """Say which rank's loss is not finite."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(
            f"rank {training.config.rank}: {error}; the other ranks can be trained apart"
        ) from error
