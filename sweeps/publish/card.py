"""The model card of an uploaded adapter: base, hyperparameters, training images, files, and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fulora.diffusion.base_files import RANDOM, TINY
from fulora.diffusion.formats import DIFFUSERS_FILE, KOHYA_FILE
from fulora.planes import BRAIN
from sweeps.publish.fingerprint import HashedFile

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LAYERS = {
    "cross_attention": "cross-attention of the U-Net",
    "all_attention": "self-attention and cross-attention of the U-Net",
    "transformer": "every linear layer and 1 x 1 convolution of the U-Net's transformer blocks",
}
NOT_STABLE_DIFFUSION = {
    TINY: "a tiny latent diffusion model bundled with fulora",
    RANDOM: "Stable Diffusion 1.5's architecture with random weights, whose images are noise",
}


def is_path(base: str) -> bool:
    """Return whether a base is a file or folder rather than a hub id or one of fulora's own names."""
    if base in NOT_STABLE_DIFFUSION:
        return False
    return not _HUB_ID.fullmatch(base) or Path(base).expanduser().exists()


def model_card(
    to: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    heldout_loss: float | None,
    files: Sequence[HashedFile],
    settings: Mapping[str, Any],
) -> str:
    """Return the model card, its front matter as `huggingface_hub` writes it.

    `to` is OWNER/NAME; `config` and `metrics` the trial's configuration and recorded results, `heldout_loss` its last
    one or None where none was measured, `settings` the experiment's.
    """
    from huggingface_hub import ModelCard, ModelCardData

    phantoms = "spanish" in settings and not settings["spanish"]
    base, side = config["base"], config["resolution_px"]
    # The path of a base on the author's disk is private.
    ran = str(metrics.get("base") or base).replace(base, public_name(base))
    of_hub = {"base_model": base, "base_model_relation": "adapter"}
    about = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["lora", "diffusers", "fetal-ultrasound"],
        **({} if base in NOT_STABLE_DIFFUSION or is_path(base) else of_hub),
    )
    text_rate = config.get("text_encoder_rate")
    layers = _LAYERS.get(config["targets"], f"modules of the U-Net matching `{config['targets']}`")
    images = str(metrics.get("num_images") or f"at most {config.get('images_per_plane', '?')} per plane")
    facts = {
        "base model": ran,
        "rank": config["rank"],
        "alpha": f"{config['alpha']:g}",
        "steps": f"{config['num_steps']}, of batch size {config['batch_size']}",
        "learning rate": f"{config['learning_rate']:g}" + (f" (text encoder: {text_rate:g})" if text_rate else ""),
        "layers": layers + (", and the text encoder's linear layers" if text_rate else ""),
        "images": f"{images}, {'simulated (phantoms), ' if phantoms else ''}{side} px",
        "held-out loss": "not measured" if heldout_loss is None else f"{heldout_loss:.4f}",
    }
    lines = [
        "", f"# {to.partition('/')[2]}", "",
        "A LoRA for text-to-image synthesis of fetal ultrasound images, trained with fulora following FU-LoRA"
        " ([arXiv 2407.20072](https://arxiv.org/abs/2407.20072)). For research; not for diagnosis.", "",
    ]  # fmt: skip
    if base in NOT_STABLE_DIFFUSION:
        lines += [
            f"> **This is not Stable Diffusion.** The base was `{base}`: {NOT_STABLE_DIFFUSION[base]}."
            " The adapter does not work with Stable Diffusion's own weights.", "",
        ]  # fmt: skip
    lines += ["| setting | value |", "| --- | --- |", *(f"| {key} | {_cell(value)} |" for key, value in facts.items())]
    lines += ["", "## Usage", "", "```python", *_loading(to, config, settings.get("sampling") or {}), "```", ""]
    if any(f.path.name == KOHYA_FILE for f in files):
        lines += [f"`{KOHYA_FILE}` is the same adapter in kohya's format, for web UIs that read it.", ""]
    lines += ["## Files", "", "| file | bytes | sha256 |", "| --- | --- | --- |"]
    lines += [f"| {f.path.name} | {f.size} | `{f.sha256}` |" for f in files]
    body = "\n".join(lines)
    return str(ModelCard(f"---\n{about.to_yaml()}\n---\n{body}\n"))


def _loading(to: str, config: Mapping[str, Any], sampling: Mapping[str, Any]) -> list[str]:
    """Return the lines of Python that sample an image with the adapter, with the steps and guidance of the run."""
    base, side = config["base"], config["resolution_px"]
    options = {"num_inference_steps": sampling.get("num_steps"), "guidance_scale": sampling.get("guidance")}
    options |= {"clip_skip": sampling.get("clip_skip", config.get("clip_skip")), "width": side, "height": side}
    said = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
    if base in NOT_STABLE_DIFFUSION:
        lines = ["from fulora.diffusion.base import load_base, pipeline", "", f'pipe = pipeline(load_base("{base}"))']
    else:
        single = base.endswith((".safetensors", ".ckpt"))
        known = json.dumps(f"PATH/TO/{public_name(base)}" if is_path(base) else base)
        lines = ["from diffusers import StableDiffusionPipeline", ""]
        lines += [f"pipe = StableDiffusionPipeline.from_{'single_file' if single else 'pretrained'}({known})"]
    return [
        *lines,
        f'pipe.load_lora_weights("{to}", weight_name="{DIFFUSERS_FILE}")',
        f'image = pipe("{BRAIN.prompt}", {said}).images[0]',
    ]


def public_name(base: str) -> str:
    """Return what a base is called in public: a file or folder by its name alone."""
    return Path(base).name if is_path(base) else base


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")
