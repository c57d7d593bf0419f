"""The bundled tiny base: a latent diffusion model of 64 x 64 pixels in Stable Diffusion's form, and how it was trained.

In: nothing to use it, `TINY_FOLDER` loads with `StableDiffusionPipeline.from_pretrained`. Out of `train_tiny`
(on the command line `fulora train-base DIR`): such a folder, trained on the phantoms' generic scenes and specimens.
Sources: Rombach et al. 2022 (latent diffusion); the published folder layout of Stable Diffusion 1.5.
"""

from __future__ import annotations

from pathlib import Path

from fulora.diffusion.tiny.settings import TinyTraining
from fulora.diffusion.tiny.training import train_tiny

TINY_FOLDER: Path = Path(__file__).resolve().parent.parent / "tiny_base"
"""The weights that come with the package, in diffusers' layout."""

__all__ = ["TINY_FOLDER", "TinyTraining", "train_tiny"]
