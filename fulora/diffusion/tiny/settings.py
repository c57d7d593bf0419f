"""How the tiny base is pre-trained: numbers only, so that a command line can show them without loading torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyTraining:
    """The defaults made the bundled weights. No source but our own trials: no model of this size is published."""

    num_scenes: int = 5000
    """Generic scenes with descriptions to learn from, mirrored ones not counted; drawn from the seed, 4 ms each."""
    num_specimens: int = 12_720
    """Specimens with names to learn from, mirrored ones not counted: 80 of each name."""
    num_autoencoder_images: int = 6000
    """How many of them, drawn, the autoencoder learns from."""
    num_autoencoder_steps: int = 900
    """Steps of the autoencoder, about 0.4 s each on two cores."""
    autoencoder_batch: int = 16
    """Images in a step of the autoencoder."""
    autoencoder_rate: float = 2e-3
    """Highest learning rate of the autoencoder (Adam, cosine to a hundredth)."""
    kl_weight: float = 1e-3
    """Weight of the Kullback-Leibler term per latent number, against a pixel error averaged over pixels."""
    shape_weight: float = 2.0
    """Weight of the error of 2 x 2 means: it counts shapes that speckle would outvote."""
    texture_weight: float = 3.0
    """Weight of the error in the local spectra's magnitude: it keeps speckle where its phase cannot be kept."""
    num_denoiser_steps: int = 4800
    """Steps of U-Net and text encoder together, about 0.6 s each on two cores."""
    denoiser_batch: int = 64
    """Latents in a step of the U-Net."""
    denoiser_rate: float = 1.5e-3
    """Highest learning rate of the U-Net and text encoder (AdamW, cosine to a fiftieth)."""
    ema_decay: float = 0.998
    """Decay of the running mean of the weights, which is what is saved."""
    caption_dropout: float = 0.1
    """Share of captions left empty, so that guidance has an unconditional model. Source: Ho and Salimans 2022."""
    save_every: int = 500
    """Steps of the U-Net between two savings of the folder, so that a stopped training leaves a usable base."""
