"""The directory of a trained adapter: diffusers' and kohya's file, written whole.

In: the adapter's matrices and what it was trained with. Out: the directory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from fulora.diffusion.formats import KOHYA_FILE, AdapterWeights, save_diffusers, save_kohya
from fulora.diffusion.lora_config import LoraConfig


def write_adapter(
    weights: AdapterWeights, out: Path, config: LoraConfig, *, base_sha256: str, num_images: int, seed: int
) -> str:
    """Write both files to the directory `out`, in place of what it held, and return the SHA-256 of diffusers'."""
    scratch = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    digest = hashlib.sha256(save_diffusers(weights, scratch).read_bytes()).hexdigest()
    save_kohya(weights, scratch / KOHYA_FILE, _kohya_metadata(config, base_sha256, num_images, seed))
    _replace_folder(scratch, out)
    return digest


def _kohya_metadata(config: LoraConfig, base_sha256: str, num_images: int, seed: int) -> dict[str, object]:
    """Return the metadata that web UIs and kohya's own tools read from a kohya file."""
    side = config.resolution_px
    return {
        "ss_sd_model_hash": base_sha256[:8],
        "ss_new_sd_model_hash": base_sha256,
        "ss_num_train_images": num_images,
        "ss_resolution": f"({side}, {side})",
        "ss_enable_bucket": config.bucket_step_px > 0,
        "ss_max_train_steps": config.num_steps,
        "ss_steps": config.num_steps,
        "ss_total_batch_size": config.batch_size,
        "ss_learning_rate": config.learning_rate,
        "ss_unet_lr": config.learning_rate,
        "ss_text_encoder_lr": config.text_encoder_rate or None,
        "ss_optimizer": config.optimizer,
        "ss_clip_skip": None if config.clip_skip is None else config.clip_skip + 1,
        "ss_seed": seed,
    }


def _replace_folder(scratch: Path, out: Path) -> None:
    """Rename a finished directory to `out`, then delete the previous one."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        os.rename(out, old)
    os.rename(scratch, out)
    shutil.rmtree(old, ignore_errors=True)
