"""The judge: a classifier that predicts which plane a synthetic image shows.

In: new images of known planes (in the demo, Spanish-like phantoms of new patients). Out: a ResNet18 and its held-out
accuracy, which is reported with every result: the verdict of an inaccurate judge means nothing.
Source: classification accuracy of generated images, Ravuri and Vinyals, "Classification Accuracy Score for Conditional
Generative Models", NeurIPS 2019 (there the classifier is trained on generated images; here it is tested on them).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import new_model
from fulora.classify.training import Labelled, predict, train_classifier
from fulora.errors import InputError, fault

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURE = "ResNet18"
WEIGHTS_FILE = "model.safetensors"
FACTS_FILE = "judge.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """Training configuration of the judge."""

    num_images: int = 2000
    """Training images."""
    num_heldout: int = 500
    """Held-out test images, of other patients."""
    epochs: int = 2
    """Training epochs; on phantoms at 64 px one gives 98 % accuracy, two 99 %."""
    batch_size: int = 24
    """Batch size."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW, which trains from scratch in few epochs."""
    resolution_px: int = 64
    """Side of the square images."""
    least_accuracy: float = 97.0
    """Minimum held-out accuracy, in percent, of a reliable judge."""

    def validate(self) -> list[str]:
        """Return every fault of this configuration."""
        found = classifier_config(self).validate()
        for name, least in (("num_images", 2), ("num_heldout", 1)):
            if getattr(self, name) < least:
                found.append(fault(name, getattr(self, name), f"must be at least {least}", "Choose a larger number"))
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """A trained judge and its accuracy."""

    model: nn.Module
    """ResNet18 in evaluation mode."""
    heldout_accuracy: float
    """Accuracy on held-out images, in percent."""
    num_images: int
    """Number of training images."""
    num_heldout: int
    """Number of held-out images."""
    name: str
    """Name for tables and captions."""
    trusted: bool
    """Whether the held-out accuracy reaches the configured minimum."""
    seconds: float
    """Training time."""


def classifier_config(config: JudgeConfig) -> ClassifierConfig:
    """Return the training configuration of a judge: ResNet18 from scratch, which needs no weight files."""
    return ClassifierConfig(
        model=ARCHITECTURE,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        optimizer="adamw",
        resolution_px=config.resolution_px,
        pretrained="none",
    )


def train_judge(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    config: JudgeConfig,
    seed: int,
    heldout: Labelled,
    device: str = "auto",
    what: str = "Spanish-like phantoms",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Judge:
    """Return a judge trained on uint8 images [N, R, R, 3] and tested on `heldout` (images, plane indices).

    Grey images [N, R, R] are accepted too. `what` names the images in the judge's name.
    """
    trained = train_classifier(
        pixels=as_rgb(images),
        labels=labels,
        config=classifier_config(config),
        seed=seed,
        device=device,
        on_epoch=on_epoch,
    )
    guesses = predict(trained.model, as_rgb(heldout[0]), device=trained.device).argmax(axis=1)
    accuracy = 100.0 * float((guesses == np.asarray(heldout[1])).mean())
    return Judge(
        model=trained.model,
        heldout_accuracy=accuracy,
        num_images=len(images),
        num_heldout=len(heldout[0]),
        name=f"ResNet18 judge (trained on {len(images)} {what})",
        trusted=accuracy >= config.least_accuracy,
        seconds=trained.seconds,
    )


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Return grey images [N, H, W] with three equal channels, colour images [N, H, W, 3] as they are."""
    return np.repeat(images[..., None], 3, axis=-1) if images.ndim == 3 else images


def save_judge(judge: Judge, folder: Path) -> None:
    """Write a judge to a directory: its weights as safetensors, the rest as JSON."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().cpu() for k, v in judge.model.state_dict().items()}, folder / WEIGHTS_FILE)
    facts = {f.name: getattr(judge, f.name) for f in fields(judge) if f.name != "model"}
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n")


def load_judge(folder: Path) -> Judge:
    """Return the judge in a directory. Raises InputError if there is none."""
    from safetensors.torch import load_file

    try:
        facts = json.loads((folder / FACTS_FILE).read_text())
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError) as error:
        raise InputError(
            fault("judge", str(folder), f"cannot be read ({error})", "Run the LoRA stage again.")
        ) from error
    model = new_model(ARCHITECTURE, resolution_px=64, seed=0)  # a ResNet's weights do not depend on the resolution
    model.load_state_dict(state)
    return Judge(model=model.eval(), **facts)
