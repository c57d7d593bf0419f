"""Controls a reviewer asks for: what else than synthetic images could explain a gain of the hybrid regime over ES.

In: a catalog's records, the numbers of images, a seed. Out: per control its training images and its loss. A control is
trained as the grid's cells are, augmented or not, and stands beside ES and HB of the same model.
Why: ES is 42 % Other, HB 20 %, the test set has none; HB draws each plane equally; HB has 1150 real images where ES has
6148. None of this is the adapter's doing. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from fulora.classify.models import MODELS
from fulora.classify.objective import Balance
from fulora.data.records import ImageRecord
from fulora.data.regimes import RegimeSizes, TrainingSet, select_training_set
from fulora.errors import fault
from fulora.planes import PLANES
from fulora.seeds import numpy_rng

Reference = Literal["ES", "HB"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """One control."""

    based_on: Reference
    """The regime it changes in one respect."""
    about: str
    """What it trains on, in one phrase."""
    asks: str
    """What it would explain if it reached HB."""
    balance: Balance = "none"
    """Correction of the loss."""
    images: Literal["adapter", "base", "none"] = "none"
    """Where its synthetic images are from."""
    negative: bool = False
    """Whether it must come out at chance: it checks the machinery, and explains nothing."""


CONTROLS: dict[str, Control] = {
    "hb_priors": Control(
        based_on="ES", about="as many Spanish images as ES, in HB's shares of the planes",
        asks="the shares of the planes: fewer images of Other",
    ),
    "class_weights": Control(
        based_on="ES", about="ES with class weights in the loss", balance="class_weights",
        asks="the shares of the planes, corrected in the loss",
    ),
    "logit_adjustment": Control(
        based_on="ES", about="ES with adjusted logits", balance="logit_adjustment",
        asks="the shares of the planes, corrected in the logits",
    ),
    "real_alone": Control(
        based_on="HB", about="HB's real images alone", asks="the choice of real images",
    ),
    "real_repeated": Control(
        based_on="HB", about="HB's real images repeated to HB's size",
        asks="the choice of real images and the number of steps",
    ),
    "base_images": Control(
        based_on="HB", about="HB with images of the base model without an adapter", images="base",
        asks="any synthetic images: the adapter adds nothing",
    ),
    "shuffled_prompts": Control(
        based_on="HB", about="HB with the adapter's images drawn by shuffled prompts", images="adapter",
        asks="the look of ultrasound: what the images show does not matter",
    ),
    "synthetic_only": Control(
        based_on="HB", about="HB's synthetic images alone", images="adapter",
        asks="synthetic images alone: real ones are not needed",
    ),
    "shuffled_labels": Control(
        based_on="HB", about="HB with all labels shuffled", images="adapter", asks="nothing: it must be at chance",
        negative=True,
    ),
}  # fmt: skip
"""Every control by name, in the order of the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Controls:
    """Control experiments beside the grid, in a table of their own."""

    names: tuple[str, ...] = ()
    """Controls to train; none in the paper. hb_priors, class_weights, logit_adjustment: ES without its 42 % of Other.
    real_alone, real_repeated: HB's real images. base_images, shuffled_prompts, synthetic_only: other synthetic images.
    shuffled_labels: must be at chance."""
    models: tuple[str, ...] = ("ResNet18",)
    """Architectures, each also in `grid.models`."""
    augment: bool = True
    """Train with augmentation and compare with ES+DA and HB+DA; else with ES and HB."""

    def regime(self, based_on: Reference) -> str:
        """Return the grid's regime that a control is compared with."""
        return f"{based_on}+DA" if self.augment else based_on

    def validate(self, *, models: Sequence[str], regimes: Sequence[str]) -> list[str]:
        """Return every fault beside the grid's models and regimes, empty when there is none."""
        found = [
            fault("controls.names", name, f"is not one of {', '.join(CONTROLS)}", "Use one of these names.")
            for name in self.names
            if name not in CONTROLS
        ]
        if not self.names:
            return found
        if len(set(self.names)) < len(self.names):
            found.append(fault("controls.names", self.names, "contains a duplicate", "Name each once."))
        for name in self.models:
            if name not in MODELS or name not in models:
                rule = "is not among grid.models, whose ES and HB a control is compared with"
                found.append(fault("controls.models", name, rule, f"Use some of {', '.join(models)}."))
        missing = [r for r in (self.regime("ES"), self.regime("HB")) if r not in regimes]
        if missing or not self.models:
            rule = f"needs a model, and {' and '.join(missing) or 'its regimes'} in grid.regimes to compare with"
            found.append(fault("controls", self.names, rule, "Add them, or leave controls.names empty."))
        return found


def select_control_set(name: str, records: Sequence[ImageRecord], sizes: RegimeSizes, *, seed: int) -> TrainingSet:
    """Return the training images of a control; its synthetic ones are those in `records`.

    An image may be there several times, and its plane is the label it is trained under. Deterministic given the seed.
    Raises InputError where a source has no images.
    """
    based_on, full = CONTROLS[name].based_on, sizes.num_spanish_hybrid + sizes.num_synthetic
    if name in ("real_alone", "real_repeated"):
        sizes = replace(sizes, num_synthetic=0)
    elif name == "synthetic_only":
        sizes = replace(sizes, num_spanish_hybrid=0)
    chosen = select_training_set(based_on, records, sizes, seed=seed)
    images = list(chosen.records)
    rng = numpy_rng(seed, "control", name)
    if name == "hb_priors":
        images = _per_plane(images, len(images) // len(PLANES), rng)
    elif name == "real_repeated":
        images = _per_plane(images, full // len(PLANES), rng)
    elif name == "shuffled_prompts":
        synthetic = [r for r in images if r.source == "synthetic"]
        images = [r for r in images if r.source != "synthetic"] + _shuffled(synthetic, rng)
    elif name == "shuffled_labels":
        images = _shuffled(images, rng)
    return replace(chosen, regime=name, records=tuple(images))


def _per_plane(images: Sequence[ImageRecord], num: int, rng: np.random.Generator) -> list[ImageRecord]:
    """Return `num` images of every plane that has any: some of it, or all of it, as often as each other but for one."""
    found: list[ImageRecord] = []
    for plane in PLANES:
        mine = [r for r in images if r.plane == plane.name]
        order = rng.permutation(len(mine)).tolist()
        found += [mine[order[k % len(mine)]] for k in range(num if mine else 0)]
    return sorted(found, key=lambda r: r.image_id)


def _shuffled(images: Sequence[ImageRecord], rng: np.random.Generator) -> list[ImageRecord]:
    """Return the images with their planes dealt anew: as many of each plane, none of them for what it shows."""
    planes = [images[i].plane for i in rng.permutation(len(images))]
    return [replace(r, plane=plane) for r, plane in zip(images, planes, strict=True)]
