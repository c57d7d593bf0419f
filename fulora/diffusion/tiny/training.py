"""Pre-training of the tiny base, from nothing to the folder that is bundled.

In: a seed and `TinyTraining`. Out: a folder in diffusers' layout with safetensors and a model card.
Same seed, same machine, same number of threads: same weights. Other threads or machines round otherwise.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

from fulora.diffusion.tiny.architecture import Pipeline
from fulora.diffusion.tiny.card import model_card
from fulora.diffusion.tiny.settings import TinyTraining


def train_tiny(
    out: Path,
    *,
    config: TinyTraining | None = None,
    seed: int = 0,
    on_log: Callable[[dict[str, float | str]], None] | None = None,
) -> Path:
    """Return the folder of a tiny base trained from the seed; it is saved over now and then while training goes on.

    Raises FloatingPointError, naming the step, where a loss is not finite.
    """
    import numpy as np

    from fulora.data.phantoms import generic_images, specimen_images
    from fulora.diffusion.tiny.architecture import RESOLUTION_PX, build_tiny
    from fulora.diffusion.tiny.autoencoder import train_autoencoder
    from fulora.diffusion.tiny.denoiser import train_denoiser

    config = config or TinyTraining()
    started = time.monotonic()
    scenes, descriptions = generic_images(config.num_scenes, seed=seed, resolution_px=RESOLUTION_PX)
    specimens, names = specimen_images(config.num_specimens, seed=seed, resolution_px=RESOLUTION_PX)
    images, captions = np.concatenate([scenes, specimens]), [*descriptions, *names]
    pipe = build_tiny(seed)
    shown = np.random.default_rng(seed).permutation(len(images))[: config.num_autoencoder_images]
    train_autoencoder(pipe.vae, images[shown], config, seed=seed, on_log=on_log)

    def save(trained: Pipeline) -> None:
        save_base(trained, out, config=config, seed=seed, seconds=time.monotonic() - started)

    train_denoiser(pipe, images, captions, config, seed=seed, on_log=on_log, on_save=save)
    save(pipe)
    return out


def save_base(pipe: Pipeline, out: Path, *, config: TinyTraining, seed: int, seconds: float) -> None:
    """Write the folder with its model card; autoencoder and U-Net in half precision.

    The text encoder stays in single precision: transformers loads a file in the precision it was saved in, diffusers
    in single, and a pipeline of both cannot run.
    """
    import torch

    # Copies, because halving in place would halve what is being trained.
    halved = {name: copy.deepcopy(getattr(pipe, name)).half() for name in ("vae", "unet")}
    saved = type(pipe)(**{**pipe.components, **halved}, requires_safety_checker=False)
    saved.save_pretrained(out, safe_serialization=True)
    settings = dataclasses.asdict(config)
    card = model_card(settings, seed=seed, minutes=seconds / 60, threads=torch.get_num_threads())
    (out / "README.md").write_text(card)
