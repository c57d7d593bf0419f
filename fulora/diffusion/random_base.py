"""Stable Diffusion 1.5's architecture with seeded random weights, built offline, to measure time and memory.

In: nothing. Out: a `StableDiffusionPipeline` of 1.07 billion parameters whose images are noise.
Source: the configurations published with Stable Diffusion 1.5 (unet, vae, text_encoder, scheduler). The tokenizer is
the tiny base's, because the published vocabulary is not available offline; it yields 77 tokens like the published one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SEED = 0
"""Seed of the weights."""

UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
"""859.5 million weights."""
VAE: dict[str, Any] = {
    "sample_size": 512,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
"""83.7 million weights."""
TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
}
"""123.1 million weights."""


def build_random(dtype: torch.dtype) -> Any:
    """Return the pipeline, its weights drawn from SEED in float32 and stored as `dtype`.

    Leaves the global random state unchanged.
    """
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from fulora.diffusion.tiny.architecture import SCHEDULER
    from fulora.diffusion.tiny.tokenizer import build_tokenizer

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = build_tokenizer(Path(scratch) / "tokenizer")
    tokenizer.model_max_length = TEXT_ENCODER["max_position_embeddings"]
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        parts = {
            "unet": UNet2DConditionModel(**UNET).to(dtype),
            "vae": AutoencoderKL(**VAE).to(dtype),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER, **special)).to(dtype),
        }
    return StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=PNDMScheduler.from_config(SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def fingerprint() -> str:
    """Return 16 hexadecimal digits over the configurations and the seed, which determine the weights."""
    text = json.dumps([SEED, UNET, VAE, TEXT_ENCODER], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
