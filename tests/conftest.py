"""Test material shared by the tests of fulora: a small random base in the published Stable Diffusion folder layout.

Every class is the one Stable Diffusion 1.5 uses, built from a small configuration with random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BASE_RESOLUTION_PX = 32
"""Small enough for a test to train and sample in a second."""

SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""scheduler/scheduler_config.json of Stable Diffusion 1.5."""


def write_tokenizer(folder: Path) -> None:
    """Write a CLIP tokenizer of the 256 bytes, no merges: every letter is a token."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    settings = {**special, "pad_token": "<|endoftext|>", "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def build_small_pipeline(scratch: Path, *, seed: int = 0):
    """Return an untrained StableDiffusionPipeline of about 0.5 million weights."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    write_tokenizer(scratch / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = CLIPTokenizer.from_pretrained(scratch / "tokenizer")
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=BASE_RESOLUTION_PX,
        )
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(text),
            tokenizer=tokenizer,
            unet=unet,
            scheduler=PNDMScheduler.from_config(SD15_SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small random base, loadable with StableDiffusionPipeline.from_pretrained."""
    folder = tmp_path_factory.mktemp("base") / "small-sd"
    build_small_pipeline(tmp_path_factory.mktemp("scratch")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def mini_flags(small_base: Path) -> list[str]:
    """Return the flags that make the demo a study of seconds; every stage stays the real one."""
    return [
        "--base", str(small_base), "--lora.ranks", "2", "4", "--lora.num-steps", "8", "--lora.batch-size", "2",
        "--lora.log-every", "4", "--lora.images-per-plane", "8", "--sampling.rank", "4",
        "--sampling.images-per-plane", "2",
        "--sampling.batch-size", "2", "--sampling.num-steps", "2", "--compare-per-plane", "1",
        "--grid.models", "MobileNet v2", "ResNet18", "--grid.num-seeds", "1",
        "--grid.table2-model", "ResNet18", "--grid.epochs", "1", "--grid.resolution-px", "32",
        "--grid.pretrained", "none", "--sizes.num-spanish", "40", "--sizes.num-spanish-hybrid", "20",
        "--sizes.num-synthetic", "20", "--amounts.numbers", "0", "20", "--amounts.shares",
        "--judge.num-images", "60", "--judge.num-heldout", "20", "--judge.epochs", "1",
        "--phantoms.num-spanish", "120", "--phantoms.num-african-train", "20", "--phantoms.num-african-test", "40",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def mini_experiment(mini_flags: list[str]):
    """Return the study of `mini_flags`, parsed as the command line does."""
    from sweeps.launch import launch_of

    return launch_of("run", ["demo", *mini_flags]).experiment


@pytest.fixture(scope="module")
def local_ray():
    """Start Ray on this machine for a module's tests; runs inside use it."""
    from sweeps.engine.connection import connected
    from sweeps.engine.options import ClusterOptions

    with connected(ClusterOptions(num_cpus=2)) as cluster:
        yield cluster
