"""A diffusers Stable Diffusion pipeline's weights under the names its authors' code gives them, as in a single file.

Source: the modules of latent-diffusion (Rombach et al. 2022). Its U-Net counts blocks in one row where diffusers counts
stages and layers; its autoencoder counts the decoder's stages from the finest, and has 1x1 convolutions for attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def to_original_layout(pipe: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a pipeline's U-Net, autoencoder and text encoder under their original names."""
    weights = _renamed(pipe.unet, lambda name: f"model.diffusion_model.{_unet_name(name, pipe.unet.config)}")
    stages = len(pipe.vae.config.block_out_channels)
    for name, weight in _renamed(pipe.vae, lambda name: f"first_stage_model.{_vae_name(name, stages)}").items():
        is_attention_matrix = ".attn_1." in name and weight.ndim == 2
        weights[name] = weight[:, :, None, None] if is_attention_matrix else weight
    prefix = "cond_stage_model.transformer.text_model."
    return {**weights, **_renamed(pipe.text_encoder, lambda name: prefix + name.removeprefix("text_model."))}


def _renamed(part: Any, rename: Callable[[str], str]) -> dict[str, torch.Tensor]:
    weights = {rename(name): weight.contiguous() for name, weight in part.state_dict().items()}
    if len(weights) != len(part.state_dict()):
        raise ValueError(f"two weights of {type(part).__name__} got one name")
    return weights


def _unet_name(name: str, config: Any) -> str:
    module, kind = name.rsplit(".", 1)
    if module in _UNET_ENDS:
        return f"{_UNET_ENDS[module]}.{kind}"
    side, *rest = name.split(".")
    if side == "mid_block":
        layer, number, tail = rest[0], int(rest[1]), ".".join(rest[2:])
        # One row again: a resnet, an attention, a resnet.
        place = 2 * number + (layer == "attentions")
        return f"middle_block.{place}.{_unet_tail(layer, tail)}"
    stage, layer, number, tail = int(rest[0]), rest[1], int(rest[2]), ".".join(rest[3:])
    # A stage going down has its layers and a downsampler; one going up has one layer more, the last with the upsampler.
    per_stage = config.layers_per_block + 1
    if layer == "downsamplers":
        return f"input_blocks.{per_stage * (stage + 1)}.0.op.{kind}"
    if layer == "upsamplers":
        place = 2 if "CrossAttn" in config.up_block_types[stage] else 1
        return f"output_blocks.{per_stage * (stage + 1) - 1}.{place}.conv.{kind}"
    row = "output_blocks" if side == "up_blocks" else "input_blocks"
    block = per_stage * stage + number + (side == "down_blocks")
    return f"{row}.{block}.{int(layer == 'attentions')}.{_unet_tail(layer, tail)}"


def _unet_tail(layer: str, tail: str) -> str:
    """Return a weight's name within its resnet or attention; attention has kept its names."""
    if layer == "attentions":
        return tail
    module, kind = tail.rsplit(".", 1)
    return f"{_UNET_RESNET[module]}.{kind}"


def _vae_name(name: str, stages: int) -> str:
    if name.startswith(("quant_conv", "post_quant_conv")):
        return name
    half, block, *rest = name.split(".")
    if block == "mid_block" and rest[0] == "resnets":
        return ".".join([half, "mid", f"block_{int(rest[1]) + 1}", *rest[2:]])
    if block == "mid_block":
        module, kind = ".".join(rest[2:]).rsplit(".", 1)
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[module]}.{kind}"
    if block in ("down_blocks", "up_blocks"):
        stage, layer, number, *tail = rest
        row = block.removesuffix("_blocks")
        place = int(stage) if row == "down" else stages - 1 - int(stage)
        # `downsamplers.0.conv` is `downsample.conv`: there is one.
        path = ["block", number, *tail] if layer == "resnets" else [layer.removesuffix("rs"), *tail]
        return ".".join([half, row, str(place), *path]).replace("conv_shortcut", "nin_shortcut")
    return ".".join([half, block, *rest]).replace("conv_norm_out", "norm_out")
