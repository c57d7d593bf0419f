"""What the paper and the released code leave open or contradict, and what the recipes take.

In: a recipe's name. Out: its choices; those that are settings name them, the others are how the code works. The
checklist and the methods paragraph of a run print them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One choice."""

    topic: str
    """What is open."""
    said: str
    """What the paper or the released code says of it."""
    taken: str
    """What is done here."""
    setting: str | None = None
    """The setting that holds it, such as `grid.momentum`; None where none does."""
    value: object = None
    """Its value in the recipe."""


_SHARED = (
    Choice(
        topic="time steps of Euler", said="20 steps, their spacing not stated",
        taken="diffusers' EulerDiscreteScheduler as the base configures it: linearly spaced",
    ),
    Choice(
        topic="interpolation", said="images are resized, not how",
        taken="Pillow's bilinear filter with averaging, to a square, the aspect not kept",
    ),
    Choice(
        topic="dropout and stochastic depth of the classifiers", said="torchvision's models are named",
        taken="timm's, without torchvision's dropout (MobileNet v2, EfficientNet b0: 0.2) and stochastic depth (0.2)",
    ),
    Choice(
        topic="initial weights of MobileNet v2, EfficientNet b0 and ViT b16", said="ImageNet weights",
        taken="timm's, as it has no copy of torchvision's; torchvision's by --weights",
    ),
    Choice(
        topic="momentum of SGD", said="not stated in the paper, 0.9 in the released code", taken="0.9",
        setting="grid.momentum", value=0.9,
    ),
    Choice(
        topic="latents in training", said="the released trainer caches one draw of the posterior per image",
        taken="a new draw in every step",
    ),
    Choice(
        topic="weights of the base", said="Stable Diffusion 1.5; the release fine-tunes the weights without averaging",
        taken="the averaged (EMA) weights, which diffusers' layout has", setting="base",
        value="stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    Choice(
        topic="clipping of LoRA's gradients", said="the released trainer clips at norm 1.0, the paper does not say",
        taken="none",
    ),
)  # fmt: skip

CHOICES: dict[str, tuple[Choice, ...]] = {
    "paper": (
        *_SHARED,
        Choice(
            topic="exposure of LoRA", said="10 000 steps at batch 2; 100 images x 100 repeats x 1 epoch is half of it",
            taken="10 000 steps at batch 2: every image 200 times", setting="lora.batch_size", value=2,
        ),
        Choice(topic="guidance", said="not stated", taken="7.5, diffusers' default", setting="sampling.guidance",
               value=7.5),
        Choice(topic="order of UniPC", said="not stated", taken="2, diffusers' default",
               setting="sampling.unipc_order", value=2),
        Choice(topic="B(h) of UniPC", said="not stated", taken="bh2, diffusers' default",
               setting="sampling.unipc_solver", value="bh2"),
        Choice(topic="weight decay of LoRA", said="8-bit Adam, its decay not stated", taken="none: Adam, not AdamW",
               setting="lora.optimizer", value="adam8bit"),
        Choice(topic="deviation of A", said="Gaussian, its deviation not stated", taken="1 / rank, as in peft",
               setting="lora.init", value="gaussian"),
        Choice(topic="precision of the classifiers", said="half precision is named for LoRA alone",
               taken="single, also on a GPU", setting="grid.precision", value="fp32"),
        Choice(
            topic="Spanish images of Table 2's HB", said="6148 in Table 2, 1150 in Table 1 and the text",
            taken="1150; the regime `HB full` has all of them", setting="sizes.num_spanish_hybrid", value=1150,
        ),
        Choice(topic="validation", said="200 of the training images, their use not stated",
               taken="left out of training, the last epoch kept", setting="grid.validation", value="images"),
    ),
    "repo": (
        *_SHARED,
        Choice(topic="guidance", said="not stated; the file names suggest a web UI", taken="7, its default",
               setting="sampling.guidance", value=7.0),
        Choice(topic="order and B(h) of UniPC", said="not stated", taken="3 and bh1, the web UI's",
               setting="sampling.unipc_order", value=3),
        Choice(topic="range of the pixels", said="ToTensor alone", taken="[0, 1]", setting="grid.pixels",
               value="unit"),
        Choice(topic="validation images", said="drawn from the training set", taken="they stay in training",
               setting="grid.validation", value="inside"),
        Choice(topic="Spanish images of Table 2's HB", said="the saved run has 6148 + 5000, augmented",
               taken="the regime `HB full+DA`", setting="grid.table2_regimes",
               value=("AF", "ES", "ES+AF", "HB full+DA")),
        Choice(topic="t-SNE", said="the 1000 logits at 224 px, unseeded", taken="the same, seeded",
               setting="embedding.output", value="logits"),
        Choice(topic="seeds of the synthetic images", said="published as a list",
               taken="--sampling.seeds FILE; without it seeds follow from the master seed", setting="sampling.seeds"),
    ),
}  # fmt: skip
"""Choices by recipe; `fixed` takes the paper's where its own settings do not differ."""


def choices_of(recipe: str) -> tuple[Choice, ...]:
    """Return the choices of a recipe; none for one that reproduces nothing, such as the demo."""
    return CHOICES.get("paper" if recipe == "fixed" else recipe, ())
