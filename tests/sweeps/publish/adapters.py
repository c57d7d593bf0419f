"""Adapters as the rank sweep leaves them, through the real writers."""

import hashlib
from dataclasses import replace

import pytest

from fulora.diffusion.lora_config import LoraConfig
from sweeps.cli import main
from sweeps.core.attempts import flat_config
from sweeps.core.files import write_json
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.core.tables import write_table
from sweeps.ranks.base import BaseModel
from sweeps.ranks.plan import LORA, LoraTrial
from sweeps.views import link_folder

TO = "jane/fu-lora"


FILES = ["kohya.safetensors", "loss.parquet", "pytorch_lora_weights.safetensors", "trial.json"]


CONFIG = LoraConfig(num_steps=30, learning_rate=1e-3, resolution_px=64)


def call(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return int(stop.value.code or 0), said.out, said.err


def write_adapter(paths: RunPaths, rank: int, base: str = "tiny", **changes) -> Step:
    """Write the files of a fine-tuning and their view, as the sweep leaves them, and return its step."""
    import torch

    from fulora.diffusion.formats import AdapterWeights, save_diffusers, save_kohya

    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    made = torch.Generator().manual_seed(rank)
    down, up = torch.randn(rank, 32, generator=made), torch.randn(32, rank, generator=made)
    weights = AdapterWeights(rank=rank, alpha=float(rank), down={module: down}, up={module: up})
    config = replace(CONFIG, rank=rank, alpha=float(rank), **changes)
    model = BaseModel(spec=base, identity="0123", resolution_px=config.resolution_px, precision=config.precision)
    trial = LoraTrial(lora=config, base=model, images_per_plane=20, seed=0)
    step = Step(kind=LORA, label=f"rank {rank}", config=trial)
    with paths.store.writing(step) as folder:
        file = save_diffusers(weights, folder)
        save_kohya(weights, folder / "kohya.safetensors")
        losses = [(10, None), (20, 0.21), (30, 0.1234)]
        write_table(folder / "loss.parquet", "loss", [{"step": s, "loss": 0.2, "heldout_loss": h} for s, h in losses])
        about = {"base": base, **flat_config(step), "base_identity": model.identity}
        write_json(folder / "trial.json", {"trial_id": step.key, "label": step.label, "config": about})
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        metrics = {"adapter_sha256": sha256, "base_name": f"{base} (of the attempt)", "num_images": 97}
        paths.store.keep(step, folder, metrics=metrics)
    link_folder(paths.adapter(rank), paths.store.folder(step))
    return step
