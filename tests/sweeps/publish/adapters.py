"""Adapters as the rank sweep leaves them, through the real writers."""

import hashlib
from pathlib import Path

import pytest

from sweeps.cli import main
from sweeps.paths import RunPaths, write_json
from sweeps.tables import write_table
from sweeps.trials import Attempt

TO = "jane/fu-lora"


FILES = ["kohya.safetensors", "loss.parquet", "pytorch_lora_weights.safetensors", "trial.json"]


CONFIG = {
    "base": "tiny", "rank": 4, "alpha": 4.0, "num_steps": 30, "batch_size": 2, "learning_rate": 1e-3,
    "text_encoder_rate": 0.0, "targets": "cross_attention", "resolution_px": 64, "clip_skip": None,
    "images_per_plane": 20,
}  # fmt: skip


def call(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return int(stop.value.code or 0), said.out, said.err


def write_adapter(paths: RunPaths, rank: int, **changes) -> Path:
    """Write the folder of an adapter and the record of its training, as the sweep leaves them."""
    import torch

    from fulora.diffusion.formats import AdapterWeights, save_diffusers, save_kohya

    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    made = torch.Generator().manual_seed(rank)
    down, up = torch.randn(rank, 32, generator=made), torch.randn(32, rank, generator=made)
    weights = AdapterWeights(rank=rank, alpha=float(rank), down={module: down}, up={module: up})
    folder, trial_id = paths.adapter(rank), f"{rank:012x}"
    file = save_diffusers(weights, folder)
    save_kohya(weights, folder / "kohya.safetensors")
    losses = [(10, None), (20, 0.21), (30, 0.1234)]
    write_table(folder / "loss.parquet", "loss", [{"step": s, "loss": 0.2, "heldout_loss": h} for s, h in losses])
    config = CONFIG | {"rank": rank, "alpha": float(rank)} | changes
    write_json(folder / "trial.json", {"trial_id": trial_id, "label": f"rank {rank}", "config": config})
    metrics = {
        "adapter_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "base_name": f"{config['base']} (of the attempt)",
        "num_images": 97,
    }
    Attempt(
        trial_id=trial_id, stage="lora", label=f"rank {rank}", attempt=1, status="SUCCEEDED", config=config,
        metrics=metrics,
    ).save(paths)  # fmt: skip
    return folder
