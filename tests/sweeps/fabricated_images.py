"""The images of a run filled by hand: catalog, synthetic sets, their quality; every file through the real writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fulora.planes import PLANES, TESTED_PLANES
from sweeps.core.files import write_json
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, write_table

RANKS = (8, 32, 128)


def _picture(path: Path, rng: np.random.Generator, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = rng.integers(0, 120, (size[1] // 4, size[0] // 4), dtype=np.uint8)
    Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC).save(path)


def write_catalog(paths: RunPaths, rng: np.random.Generator) -> list[dict[str, Any]]:
    write_json(paths.phantoms / "phantoms.json", {"seed": 0})
    rows = []
    for source, split, planes, count in (
        ("spanish", "train", PLANES, 12),
        ("african", "train", TESTED_PLANES, 4),
        ("african", "test", TESTED_PLANES, 30),
    ):
        for plane in planes:
            for i in range(count):
                path = f"phantoms/{source}/{split}-{plane.name}-{i:03d}.png"
                _picture(paths.root / path, rng, (96, 72))
                centre = "Spain" if source == "spanish" else ("Algeria", "Egypt", "Ghana", "Malawi", "Uganda")[i % 5]
                rows.append(
                    {
                        "image_id": f"{source}/{split}-{plane.name}-{i:03d}", "path": path, "source": source,
                        "plane": plane.name, "patient_id": f"{source}/{split}/{i // 2}", "centre": centre,
                        "machine": "Voluson E6" if source == "spanish" else None, "split": split, "width_px": 96,
                        "height_px": 72, "sha256": f"{len(rows):064d}", "pixel_hash": f"{len(rows):064d}",
                    }
                )  # fmt: skip
    write_table(paths.catalog, "catalog", rows)
    pair = {
        "kind": "pixels", "distance": 0, "image_a": "african/test-brain-001", "image_b": "african/train-brain-000",
        "set_a": "test", "set_b": "train", "split_a": "test", "split_b": "train", "source_a": "african",
        "source_b": "african", "patient_a": "african/test/0", "patient_b": "african/train/0", "same_plane": True,
    }  # fmt: skip
    write_table(paths.audit, "audit", [pair])
    return rows


def write_generated(paths: RunPaths, rng: np.random.Generator) -> None:
    sets = [("synthetic", 128, 3), ("base", None, 2), *((f"rank-{rank:03d}", rank, 2) for rank in RANKS[:2])]
    for label, rank, count in sets:
        folder = paths.synthetic if label == "synthetic" else paths.images(label)
        rows = []
        for plane in PLANES:
            for sampler in ("euler", "unipc"):
                for i in range(count):
                    name = f"{plane.name}/{plane.name}-{sampler}-{i:05d}-{i}.png"
                    _picture(folder / name, rng)
                    rows.append(
                        {
                            "file_name": name, "image_id": name, "plane": plane.name, "prompt": plane.prompt,
                            "sampler": sampler, "seed": i, "adapter": label, "rank": rank, "num_steps": 20,
                            "guidance": 3.0, "sha256": "0", "base": "tiny (bundled, sha256 0011aabb)",
                            "pixel_hash": name, "device": "cpu",
                        }
                    )  # fmt: skip
        write_table(folder / "metadata.parquet", "metadata", rows)


def write_losses(paths: RunPaths, rng: np.random.Generator) -> None:
    for rank in RANKS:
        steps = np.arange(20, 401, 20)
        values = 0.3 * np.exp(-steps / (500 - rank)) + 0.1 + rng.normal(0, 0.01, len(steps))
        rows = [
            {"step": int(s), "loss": float(v), "learning_rate": 1e-3, "seconds": float(s) / 10}
            for s, v in zip(steps, values)
        ]
        write_table(paths.adapter(rank) / "loss.parquet", "loss", rows)


def write_ranks(paths: RunPaths) -> None:
    rows = [
        {
            "adapter": f"rank-{rank:03d}", "rank": rank, "alpha": float(rank), "chosen": rank == 128,
            "base": "tiny (bundled, sha256 0011aabb)", "num_trainable": 3000 * rank, "num_steps": 400,
            "final_loss": 0.19 - rank / 2000, "heldout_loss": 0.21 - rank / 4000,
            "recognised": share, "recognised_euler": share - 1,
            "recognised_unipc": share + 1, "num_images": 200 if rank == 128 else 80, "recognised_base": 27.5,
            "num_base_images": 80, "judge": "ResNet18 trained on 2000 fresh Spanish-like phantoms",
            "judge_accuracy": 98.6, "judge_num_heldout": 500, "seconds": 41.0 + rank / 10,
            "peak_memory_bytes": 900 * 2**20, "device": "cpu", "adapter_sha256": "ab12", "trial_id": f"lora{rank:08d}",
        }
        for rank, share in zip(RANKS, (61.3, 78.8, 91.5))
    ]  # fmt: skip
    write_table(paths.table("ranks"), "ranks", rows)


def write_quality(paths: RunPaths, learned: str) -> None:
    """Scores of two sets and of real images; one image that is an exact copy, turned."""
    scores = {
        "fid": 24.4, "kid": 0.0014, "kid_deviation": 0.063, "precision": 55.0, "recall": 65.0, "num_real": 40,
        "num_generated": 40, "features": "the judge",
    }  # fmt: skip
    rows = [
        {"adapter": "rank-128", "rank": 128, "sampler": "euler", **scores},
        {"adapter": "base", "sampler": "euler", **scores, "fid": 115.6},
        {"adapter": "real", **scores, "fid": 11.6},
    ]
    write_table(paths.table("fidelity"), "fidelity", rows)
    audit = {
        "adapter": "rank-128", "rank": 128, "chosen": True, "share_closer": 1.25, "share_by_chance": 2.6,
        "num_synthetic": 80, "num_training": 100, "num_heldout": 160, "num_heldout_patients": 77, "features": "x",
        "planted_found": 91.0, "membership_auc": 53.1, "membership_auc_low": 44.0, "membership_auc_high": 62.0,
    }  # fmt: skip
    write_table(paths.table("copies"), "copies", [audit])
    planted = {"num_planted": 20, "share_below_percentile": 100.0, "share_traced": 95.0}
    found = [{"kind": kind, "share_found": share, **planted} for kind, share in (("exact", 100.0), ("shifted", 82.0))]
    write_table(paths.table("planted_copies"), "planted_copies", found)
    first = read_rows(paths.synthetic / "metadata.parquet", "metadata")[0]
    worst = {
        "image_id": first["image_id"], "nearest_pixels": learned, "distance_pixels": 0.0, "flipped": True,
        "nearest_features": "spanish/lost", "distance_features": 0.1, "closer_than_real": True, "ratio": 0.0,
    }  # fmt: skip
    write_table(paths.table("worst_copies"), "worst_copies", [worst])


def write_embedding(paths: RunPaths, rng: np.random.Generator) -> None:
    centres = {"spanish": (0, 0), "synthetic": (2, 1), "african": (8, -3)}
    rows = [
        {
            "plane": plane.name, "source": source, "image_id": f"{source}-{plane.name}-{i}", "x": float(x),
            "y": float(y), "features": "ResNet18 judge trained on phantoms",
        }
        for plane in TESTED_PLANES
        for source, centre in centres.items()
        for i, (x, y) in enumerate(rng.normal(centre, 2, (35 if source != "african" else 30, 2)))
    ]  # fmt: skip
    write_table(paths.table("embedding"), "embedding", rows)
