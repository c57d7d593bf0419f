"""Cache latents and text embeddings for the whole training.

In: a base, images, prompts. Out: float32 tensors on the base's device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fulora.errors import InputError, fault

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fulora.diffusion.base import Base

    Embedder = Callable[[torch.Tensor], torch.Tensor]
    """Maps indices of prompts, int64 [B], to their embeddings [B, 77, D]."""


def check_resolution(base: Base, resolution_px: int) -> None:
    """Raise InputError unless the resolution is a multiple of 8 (diffusers' rule) and of the autoencoder's factor."""
    step = max(8, base.pixels_per_latent)
    if resolution_px < step or resolution_px % step:
        raise InputError(fault("resolution_px", resolution_px, f"must be a multiple of {step}", "Change resolution_px"))


def cache_latents(base: Base, pixels: np.ndarray, *, batch: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each image's latent distribution, scaled for the U-Net, [N, C, h, w].

    `pixels` is uint8 [N, H, W, 3], sides in multiples of 8. Every training step samples a new latent,
    mean + deviation * noise.
    """
    import torch

    for side in pixels.shape[1:3]:
        check_resolution(base, side)
    means, deviations = [], []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch):
            images = torch.tensor(pixels[start : start + batch], device=base.device).permute(0, 3, 1, 2)
            posterior = base.vae.encode((images.float() / 127.5 - 1).to(base.dtype)).latent_dist
            means.append(posterior.mean.float())
            deviations.append(posterior.std.float())
    factor = base.vae.config.scaling_factor
    # Cloned outside inference mode: training saves these tensors for its backward pass.
    return torch.cat(means).clone() * factor, torch.cat(deviations).clone() * factor


def encode_prompts(base: Base, prompts: Sequence[str], clip_skip: int | None = None) -> torch.Tensor:
    """Return the text embeddings [N, 77, D] of prompts, in the base's dtype, padded to the tokenizer's length.

    `clip_skip` counts as in diffusers: None is the last layer, 1 the one before it, then the final layer norm.
    Each distinct prompt is encoded once and alone, so an embedding does not depend on the other prompts.
    """
    import torch

    _check_clip_skip(base, clip_skip)
    with torch.inference_mode():
        known = {
            prompt: text_states(base.text_encoder, *_tokenise(base, [prompt]), clip_skip).to(base.dtype)
            for prompt in dict.fromkeys(prompts)
        }
    return torch.cat([known[prompt] for prompt in prompts]).clone()


def cached_embedder(
    base: Base, prompts: Sequence[str], clip_skip: int | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from indices of prompts, int64 [B], to their embeddings [B, 77, D], computed once."""
    embeddings = encode_prompts(base, prompts, clip_skip)
    return lambda rows: embeddings[rows]


def trained_embedder(base: Base, prompts: Sequence[str], clip_skip: int | None) -> Embedder:
    """Return the same function for a text encoder in training: embeddings are computed at every call."""
    _check_clip_skip(base, clip_skip)
    ids, mask = _tokenise(base, prompts)
    encoder = base.text_encoder
    return lambda rows: text_states(encoder, ids[rows], None if mask is None else mask[rows], clip_skip)


def text_states(encoder: Any, ids: torch.Tensor, mask: torch.Tensor | None, clip_skip: int | None) -> torch.Tensor:
    """Return a text encoder's hidden states [B, 77, D] of token ids [B, 77]."""
    output: Any = encoder(ids, attention_mask=mask, output_hidden_states=clip_skip is not None)
    if clip_skip is None:
        return output.last_hidden_state
    # transformers 5 flattened the model; diffusers 0.42 still asks for the older `text_model`, so not by its pipeline.
    model = getattr(encoder, "text_model", encoder)
    return model.final_layer_norm(output.hidden_states[-(clip_skip + 1)])


def _check_clip_skip(base: Base, clip_skip: int | None) -> None:
    layers = base.text_encoder.config.num_hidden_layers
    if clip_skip is not None and not 0 <= clip_skip < layers:
        raise InputError(fault("clip_skip", clip_skip, f"must be from 0 to {layers - 1} for this base", "Lower it"))


def _tokenise(base: Base, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return token ids [N, 77] and, if the text encoder uses one, the attention mask, on the base's device."""
    length = base.tokenizer.model_max_length
    tokens = base.tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    wanted = getattr(base.text_encoder.config, "use_attention_mask", False)
    return tokens.input_ids.to(base.device), tokens.attention_mask.to(base.device) if wanted else None
