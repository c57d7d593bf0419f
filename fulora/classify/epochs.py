"""One epoch of a classifier's training: which images in which order, and the steps on them.

In: a training's state, its images. Out: a row of the history; the model changed in place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fulora.classify.augment import augment_batch
from fulora.classify.batches import load_batches, split_batches
from fulora.classify.checkpoints import TrainingState
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.inference import takes_half
from fulora.classify.input_range import black
from fulora.classify.objective import new_loss
from fulora.classify.probe import head_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from fulora.classify.batches import Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingImages:
    """The images of one training."""

    pixels: Pixels
    labels: np.ndarray
    """Plane indices int64 [N]."""
    first: np.ndarray | None = None
    """Which are trained on in the first half of the epochs, bool [N]; the others in the second. None: all in all."""
    embedded: torch.Tensor | None = None
    """What a frozen encoder makes of them, [N, D], where the head alone is trained on it."""

    def rows(self, epoch: int, num_epochs: int) -> np.ndarray:
        """Return the rows trained on in an epoch, counted from 1."""
        if self.first is None:
            return np.arange(len(self.labels))
        return np.flatnonzero(self.first if epoch <= num_epochs // 2 else ~self.first)

    def may_keep(self, epoch: int, num_epochs: int) -> bool:
        """Return whether an epoch's weights may be the best: those before the last images are trained on may not."""
        return self.first is None or epoch > num_epochs // 2


def epoch_batches(rng: np.random.Generator, rows: np.ndarray, config: ClassifierConfig, epoch: int) -> list[np.ndarray]:
    """Return the batches of an epoch, counted from 1: every row once in random order.

    With `num_steps`, the epoch's share of these steps: rows are gone through again, in another order, as long as steps
    are left.
    """
    if config.num_steps is None:
        return split_batches(rows[rng.permutation(len(rows))], config.batch_size)
    num = config.num_steps * epoch // config.epochs - config.num_steps * (epoch - 1) // config.epochs
    found: list[np.ndarray] = []
    while len(found) < num:
        found += split_batches(rows[rng.permutation(len(rows))], config.batch_size)
    return found[:num]


def train_epoch(
    state: TrainingState, images: TrainingImages, config: ClassifierConfig, place: torch.device, *, frozen: bool
) -> dict[str, float]:
    """Train one epoch, in place, and return its row of the history. Synchronises with the device once, at the end.

    `frozen`: the encoder is not trained, and its BatchNorm and dropout stay as in evaluation. Raises FloatingPointError
    naming the first step with a non-finite loss.
    """
    import torch

    begin, model, optimizer = time.perf_counter(), state.model.train(not frozen), state.optimizer
    half, epoch = takes_half(config.precision, place), len(state.history) + 1
    losses: list[torch.Tensor] = []
    correct = torch.zeros((), dtype=torch.int64, device=place)
    batches = epoch_batches(state.order, images.rows(epoch, config.epochs), config, epoch)
    sizes, order = [len(rows) for rows in batches], np.concatenate(batches)
    loss_of = new_loss(images.labels[images.rows(epoch, config.epochs)], config.balance, place)
    targets = torch.from_numpy(images.labels[order]).to(place).split(sizes)
    forward = model if images.embedded is None else head_of(model)
    for batch, target in zip(_inputs(images, batches, state, place), targets, strict=True):
        if config.augment and images.embedded is None:
            batch = augment_batch(batch, config.augmentation, state.draws, black(model))
        with torch.autocast(place.type, torch.bfloat16, enabled=half and images.embedded is None):
            logits = forward(batch)
        loss = loss_of(logits.float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        correct += (logits.detach().argmax(1) == target).sum()
    values = torch.stack(losses).double().cpu()
    if not values.isfinite().all():
        step = sum(int(row["steps"]) for row in state.history) + int((~values.isfinite()).nonzero()[0]) + 1
        raise FloatingPointError(f"the loss of {config.model} is not finite at step {step}; lower learning_rate")
    weights = torch.tensor(sizes, dtype=torch.float64)
    seconds = time.perf_counter() - begin
    return {
        "epoch": epoch,
        "steps": len(batches),
        "loss": float((values * weights).sum() / weights.sum()),
        "accuracy": 100.0 * float(correct) / len(order),
        "learning_rate": config.learning_rate,
        "images_per_second": len(order) / seconds,
        "seconds": seconds,
    }


def _inputs(
    images: TrainingImages, batches: list[np.ndarray], state: TrainingState, place: torch.device
) -> Iterator[torch.Tensor]:
    import torch

    if images.embedded is None:
        return load_batches(images.pixels, batches, state.model, place)
    embedded = images.embedded
    return (embedded[torch.from_numpy(rows).to(place)] for rows in batches)
