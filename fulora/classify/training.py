"""Train one classifier on decoded images.

In: images uint8 [N, R, R, 3], an array or rows of mapped stores, and plane indices [N]. Out: a trained model with its
history.
Source: paper section 3, "Implementation Details" (20 epochs, batch 24, SGD at 1e-3, cross-entropy, pixels in [-1, 1]).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fulora.classify.checkpoints import CheckpointManager, TrainingState, identity_of
from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.epochs import TrainingImages, train_epoch
from fulora.classify.inference import predict, refit_batchnorm, takes_half
from fulora.classify.input_range import set_input_range
from fulora.classify.models import MODELS, build_model, weights_identity
from fulora.classify.probe import embed, freeze_encoder, head_of
from fulora.device import (
    freed_memory_kept,
    peak_memory_bytes,
    reset_peak_memory,
    resolve_device,
    set_speed_flags,
)
from fulora.errors import InputError, fault, raise_if_any
from fulora.planes import PLANES
from fulora.seeds import derive_seed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fulora.classify.batches import Pixels

Labelled = tuple[np.ndarray, np.ndarray]
"""Images in memory and the plane index of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedClassifier:
    """A trained model, with its training history and provenance."""

    model: nn.Module
    """The model in evaluation mode, on the device it was trained on."""
    weights_name: str
    """Initial weights: `resnet18.tv_in1k (folder)`, `... (hub)` or `from scratch`."""
    history: list[dict[str, float]]
    """One row per epoch: epoch, steps, loss, accuracy (percent, training), learning_rate, images_per_second, seconds,
    and validation_accuracy where there is a validation set."""
    seconds: float
    """Training time, without building the model; including earlier processes if it was resumed."""
    peak_memory_bytes: int
    """Peak of the GPU's allocated memory, or of the process's resident memory on a CPU."""
    device: str
    """Device it was trained on."""
    epoch: int
    """The epoch whose weights these are."""
    resumed_from: int = 0
    """The epoch of the checkpoint it resumed from; 0: from the start."""


def train_classifier(
    *,
    pixels: Pixels,
    labels: np.ndarray,
    config: ClassifierConfig,
    seed: int,
    device: str = "auto",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    validation: tuple[Pixels, np.ndarray] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 10.0,
    first: np.ndarray | None = None,
) -> TrainedClassifier:
    """Return a classifier trained on uint8 images [N, R, R, 3] with plane indices [N].

    Images marked in `first`, bool [N], are trained on in the first half of the epochs, the others in the second.

    The same arguments give the same weights on a CPU with the same number of threads. `on_epoch` is called with each
    row of the history. `checkpoint` is a directory for checkpoints, written after an epoch at most every
    `checkpoint_seconds` (0: every epoch); the same call in another process resumes from it, on a CPU to the same
    weights and history, times aside. The caller deletes it once it has saved its results. Raises InputError for an
    invalid configuration or images, FloatingPointError naming the first step with a non-finite loss.
    """
    import torch

    if config.keep == "best" and validation is None:
        raise InputError(fault("keep", config.keep, "needs validation images", "Give some, or keep the last epoch"))
    raise_if_any(config.validate() + _image_faults(pixels, labels, config.resolution_px) + _order_faults(first, config))
    place = torch.device(resolve_device(device))
    model, weights_name = build_model(
        config.model,
        weights=config.weights,
        resolution_px=config.resolution_px,
        seed=derive_seed(seed, "classifier", "init"),
        pretrained=config.pretrained,
    )
    spec = MODELS[config.model]
    set_input_range(
        model, "pretrained" if spec.trained == "head" else config.pixels, spec.range_tag, side_px=spec.input_px
    )
    frozen = MODELS[config.model].trained == "head"
    if frozen:
        freeze_encoder(model)
    model = model.to(place)
    if place.type == "cuda" or MODELS[config.model].channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState(
        model=model,
        optimizer=_optimizer(model, config),
        order=np.random.default_rng(derive_seed(seed, "classifier", "order")),
        draws=torch.Generator().manual_seed(derive_seed(seed, "classifier", "augmentation")),
    )
    checkpoints, resumed_from = None, 0
    if checkpoint is not None and not frozen:  # a head is trained in seconds
        held = [] if validation is None else [validation[1]]
        started_from = weights_identity(config.model, weights=config.weights, pretrained=config.pretrained)
        known = {**asdict(config), "weights": started_from}  # not the folder: another machine has another
        facts = (known, takes_half(config.precision, place), seed, weights_name, place.type, pixels.shape)
        parts = [np.asarray(part) for part in (labels, *held, *([] if first is None else [first]))]
        identity = identity_of(*facts, *parts)
        checkpoints = CheckpointManager(checkpoint, identity=identity, every_seconds=checkpoint_seconds)
        resumed_from = checkpoints.resume(state)
    reset_peak_memory(str(place))
    set_speed_flags(str(place), exact_fp32=config.precision == "fp32", fixed_shapes=True)
    with freed_memory_kept(str(place)):
        embedded = None
        if frozen and not config.augment:
            embedded = embed(model, pixels, place, half=takes_half(config.precision, place))
        images = TrainingImages(
            pixels=pixels, labels=np.asarray(labels, dtype=np.int64), first=first, embedded=embedded
        )
        _train_epochs(state, images, config, place, validation, checkpoints, on_epoch)
    if state.best_weights:
        (head_of(model) if frozen else model).load_state_dict(state.best_weights)
    return TrainedClassifier(
        model=model.eval(),
        weights_name=weights_name,
        history=state.history,
        seconds=state.seconds,
        peak_memory_bytes=peak_memory_bytes(str(place)),
        device=str(place),
        epoch=state.kept or config.epochs,
        resumed_from=resumed_from,
    )


def _train_epochs(
    state: TrainingState,
    images: TrainingImages,
    config: ClassifierConfig,
    place: torch.device,
    validation: tuple[Pixels, np.ndarray] | None,
    checkpoints: CheckpointManager | None,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> None:
    """Train the remaining epochs, in place."""
    model, frozen = state.model, MODELS[config.model].trained == "head"
    held = None
    if validation is not None and frozen:
        held = embed(model, validation[0], place, half=takes_half(config.precision, place))
    while len(state.history) < config.epochs:
        begin = time.perf_counter()
        row = train_epoch(state, images, config, place, frozen=frozen)
        last = row["epoch"] == config.epochs
        if config.refit_batchnorm and last and not frozen:
            refit_batchnorm(model, images.pixels, config, place)
        if validation is not None:
            guesses = _guesses(model, validation[0], held, config, place)
            row["validation_accuracy"] = 100.0 * float((guesses == validation[1]).mean())
            allowed = images.may_keep(int(row["epoch"]), config.epochs)
            if config.keep == "best" and allowed and row["validation_accuracy"] > state.best:
                state.kept, state.best = len(state.history) + 1, row["validation_accuracy"]
                kept = head_of(model).state_dict() if frozen else model.state_dict()
                state.best_weights = {name: v.to("cpu", copy=True) for name, v in kept.items()}
        state.history.append(row)
        state.seconds += time.perf_counter() - begin
        if checkpoints is not None and not last:
            checkpoints.save_if_due(state)
        if on_epoch is not None:
            on_epoch(row)


def _guesses(
    model: nn.Module, pixels: Pixels, held: torch.Tensor | None, config: ClassifierConfig, place: torch.device
) -> np.ndarray:
    """Return the predicted plane of every validation image; `held` are their features by a frozen encoder."""
    import torch

    if held is not None:
        with torch.inference_mode():
            return head_of(model)(held).argmax(1).cpu().numpy()
    found = predict(model, pixels, batch_size=config.batch_size, device=str(place), precision=config.precision)
    return found.argmax(1)


def _optimizer(model: nn.Module, config: ClassifierConfig) -> torch.optim.Optimizer:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=config.learning_rate, fused=True)
    return torch.optim.SGD(trained, lr=config.learning_rate, momentum=config.momentum, fused=True)


def _order_faults(first: np.ndarray | None, config: ClassifierConfig) -> list[str]:
    if first is None or (min(first.sum(), (~first).sum()) > 1 and config.epochs > 1):
        return []
    rule = "needs two images or more before and after, and two epochs"
    return [fault("first", (int(first.sum()), int((~first).sum()), config.epochs), rule, "Give more, or train on all")]


def _image_faults(pixels: Pixels, labels: np.ndarray, resolution_px: int) -> list[str]:
    shape = (len(pixels), resolution_px, resolution_px, 3)
    if pixels.dtype != np.uint8 or pixels.shape != shape:
        rule = f"must be uint8 [N, {resolution_px}, {resolution_px}, 3]"
        return [fault("pixels", f"{pixels.dtype} {list(pixels.shape)}", rule, "Decode at the configured resolution")]
    if len(pixels) < 2:
        return [fault("pixels", len(pixels), "images are too few to train a classifier", "Give at least 2")]
    labels = np.asarray(labels)
    if labels.shape != (len(pixels),) or labels.min() < 0 or labels.max() >= len(PLANES):
        rule = f"must be {len(pixels)} plane indices from 0 to {len(PLANES) - 1}"
        return [fault("labels", list(labels.shape), rule, "Give one index per image")]
    return []
