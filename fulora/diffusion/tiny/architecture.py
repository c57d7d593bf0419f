"""The tiny base's parts, untrained: the classes Stable Diffusion 1.5 uses, at a size for a CPU.

In: a seed. Out: a `StableDiffusionPipeline`. 64 x 64 pixels become 4 x 16 x 16 latents. The U-Net has a narrow level of
convolutions at 16 squares, and wide ones with self- and cross-attention, for LoRA to teach, at 8 and 4: about 5 ms an
image on one core.
Source: the configurations of Stable Diffusion 1.5.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fulora.diffusion.tiny.tokenizer import MAX_LENGTH, build_tokenizer

Pipeline = Any
"""diffusers' StableDiffusionPipeline, whose parts no type checker sees."""

RESOLUTION_PX = 64
"""Side of an image."""
TEXT_WIDTH = 128
"""Width of the text encoder and of the U-Net's cross-attention."""
VAE_CHANNELS = (16, 32, 64)
UNET_CHANNELS = (32, 96, 128)
LATENT_CHANNELS = 4

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}
"""Stable Diffusion 1.5's noise schedule."""


def build_tiny(seed: int) -> Pipeline:
    """Return the untrained pipeline with weights drawn from the seed; the global random state stays as it was."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = build_tokenizer(Path(scratch) / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                projection_dim=TEXT_WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=MAX_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae = AutoencoderKL(
            sample_size=RESOLUTION_PX,
            latent_channels=LATENT_CHANNELS,
            block_out_channels=VAE_CHANNELS,
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * len(VAE_CHANNELS),
            up_block_types=("UpDecoderBlock2D",) * len(VAE_CHANNELS),
            norm_num_groups=8,
            # The decoder stays local: attention among pixels costs more than it gives at this size.
            mid_block_add_attention=False,
        )
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION_PX // 2 ** (len(VAE_CHANNELS) - 1),
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            block_out_channels=UNET_CHANNELS,
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,  # number of heads, by diffusers' naming
            norm_num_groups=16,
            use_linear_projection=True,
        )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=PNDMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
