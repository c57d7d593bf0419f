"""Test material shared by the tests of sweeps: a run folder filled by hand, every file through the real writers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fulora.evaluate.published import published_table1, published_table2
from fulora.evaluate.scores import confusion_matrix
from fulora.planes import PLANES, TESTED_PLANES
from fulora.recipes import demo
from sweeps.core.paths import RunPaths, write_json
from sweeps.core.tables import METRICS, read_rows, write_table, write_trials
from sweeps.predictions import read_predictions
from sweeps.scoring import write_measurements
from sweeps.trials import Attempt, plain, short_hash

_RANKS = (8, 32, 128)
_PROVENANCE = {"commit": "0123456789ab", "host": "example", "python": "3.11.2", "fulora": "0.1.0", "torch": "2.15.0"}


@pytest.fixture
def fabricated_run() -> Callable[..., RunPaths]:
    """Return a function that fills a folder with a finished run's files; its numbers are made up."""
    return _fabricate


def _fabricate(root: Path) -> RunPaths:
    paths = RunPaths(root)
    rng = np.random.default_rng(0)
    catalog = _catalog(paths, rng)
    _generated(paths, rng)
    _plan(paths)
    _adapters(paths, rng)
    trials = _grid(paths, rng, [r for r in catalog if r["source"] == "african" and r["split"] == "test"])
    _ranks(paths)
    _quality(paths, catalog[0]["image_id"])
    _embedding(paths, rng)
    _stages(paths, trials)
    return paths


def _picture(path: Path, rng: np.random.Generator, size: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = rng.integers(0, 120, (size[1] // 4, size[0] // 4), dtype=np.uint8)
    Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC).save(path)


def _catalog(paths: RunPaths, rng: np.random.Generator) -> list[dict[str, Any]]:
    write_json(paths.phantoms / "phantoms.json", {"seed": 0})
    rows = []
    for source, split, planes, count in (
        ("spanish", "train", PLANES, 12),
        ("african", "train", TESTED_PLANES, 4),
        ("african", "test", TESTED_PLANES, 30),
    ):
        for plane in planes:
            for i in range(count):
                path = paths.phantoms / source / f"{split}-{plane.name}-{i:03d}.png"
                _picture(path, rng, (96, 72))
                centre = "Spain" if source == "spanish" else ("Algeria", "Egypt", "Ghana", "Malawi", "Uganda")[i % 5]
                rows.append(
                    {
                        "image_id": f"{source}/{split}-{plane.name}-{i:03d}", "path": str(path), "source": source,
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


def _generated(paths: RunPaths, rng: np.random.Generator) -> None:
    sets = [("synthetic", 128, 3), ("base", None, 2), *((f"rank-{rank:03d}", rank, 2) for rank in _RANKS[:2])]
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


def _plan(paths: RunPaths) -> None:
    experiment = plain(replace(demo(), seed=3))
    write_json(
        paths.plan,
        {"recipe": "demo", "seed": 3, "data_hash": "aa00bb11cc22", "experiment": experiment, "provenance": _PROVENANCE},
    )


def _adapters(paths: RunPaths, rng: np.random.Generator) -> None:
    for rank in _RANKS:
        steps = np.arange(20, 401, 20)
        values = 0.3 * np.exp(-steps / (500 - rank)) + 0.1 + rng.normal(0, 0.01, len(steps))
        rows = [
            {"step": int(s), "loss": float(v), "learning_rate": 1e-3, "seconds": float(s) / 10}
            for s, v in zip(steps, values)
        ]
        write_table(paths.adapter(rank) / "loss.parquet", "loss", rows)


def _ranks(paths: RunPaths) -> None:
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
        for rank, share in zip(_RANKS, (61.3, 78.8, 91.5))
    ]  # fmt: skip
    write_table(paths.table("ranks"), "ranks", rows)


def _grid(paths: RunPaths, rng: np.random.Generator, test: list[dict[str, Any]]) -> list[Attempt]:
    labels = np.array([p.index for r in test for p in PLANES if p.name == r["plane"]])
    tables: dict[str, list[dict[str, Any]]] = {"table1": [], "table2": []}
    predictions, confusion, attempts = [], [], []
    lift = {"ES": 0.0, "ES+DA": 0.05, "HB": 0.12, "HB+DA": 0.2, "AF": 0.3, "ES+AF": 0.3}
    for name, published in (("table1", published_table1()), ("table2", published_table2())):
        for paper in published:
            regime, model = str(paper["regime"]), str(paper["model"])
            trial_id = short_hash([name, regime, model])
            right = rng.random(len(test)) < 0.5 + lift[regime]
            answer = np.where(right, labels, rng.integers(0, 5, len(test)))
            p = rng.dirichlet(np.ones(5), len(test)) * 0.3
            p[np.arange(len(test)), answer] += 0.7
            accuracy = 100 * float((p.argmax(1) == labels).mean())
            row = {k: paper[k] for k in ("regime", "model")}
            row |= {"num_es": 100 if "HB" in regime else 250, "num_synthetic": 200 if "HB" in regime else 0}
            row |= {
                "num_patients": 70,
                "num_seeds": 1,
                "num_test": len(test),
                "weights": "from scratch",
                "trial_ids": trial_id,
            }
            for metric in METRICS:
                row |= {metric: accuracy, f"{metric}_low": accuracy - 6, f"{metric}_high": accuracy + 6}
            if name == "table2":
                row["num_af"] = 16 if "AF" in regime else 0
            tables[name].append(row)
            predictions += [
                {
                    "trial_id": trial_id, "image_id": r["image_id"], "patient_id": r["patient_id"],
                    "centre": r["centre"], "plane": r["plane"],
                    **{f"p_{plane.name}": float(q[plane.index]) for plane in PLANES},
                }
                for r, q in zip(test, p)
            ]  # fmt: skip
            matrix = confusion_matrix(p, labels)
            shared = {"trial_id": trial_id, "regime": regime, "model": model, "seed_index": 0}
            if name == "table1":
                confusion += [
                    {**shared, "truth": a.name, "prediction": b.name, "count": int(matrix[a.index, b.index])}
                    for a in PLANES
                    for b in PLANES
                ]
            attempts.append((trial_id, f"{regime}, {model}"))
    for name, rows in tables.items():
        write_table(paths.table(name), name, rows)
    write_table(paths.predictions, "predictions", predictions)
    write_table(paths.table("confusion"), "confusion", confusion)
    _measure_some(paths, tables["table1"] + tables["table2"])
    return _attempts(attempts)


def _measure_some(paths: RunPaths, rows: list[dict[str, Any]]) -> None:
    """Write comparisons, calibration and the like of a few cells: all of them would take a second."""
    test, predicted = read_predictions(paths)
    cells = {(r["regime"], r["model"]): predicted[r["trial_ids"]][None] for r in rows}
    models = ("EfficientNet b0", "ViT b16")
    some = {cell: p for cell, p in cells.items() if cell[0] in ("ES", "HB", "AF") and cell[1] in models}
    write_measurements(some, test, paths, seed=3, drop_duplicates=False)


def _attempts(cells: list[tuple[str, str]]) -> list[Attempt]:
    shared: dict[str, Any] = {"device": "cpu", "peak_memory_bytes": 800 * 2**20, "provenance": _PROVENANCE}
    done = [
        Attempt(
            trial_id=f"lora{rank:08d}", stage="lora", label=f"rank {rank}", attempt=1, status="SUCCEEDED",
            config={"rank": rank}, metrics={"steps_per_second": 9.5},
            started_at=f"2026-01-01T10:00:0{i}+00:00", seconds=40.0 + i,
            **shared,
        )
        for i, rank in enumerate(_RANKS)
    ]  # fmt: skip
    done.append(
        Attempt(
            trial_id=cells[0][0], stage="grid", label=cells[0][1], attempt=1, status="FAILED",
            config={"model": "DenseNet169"}, started_at="2026-01-01T10:02:30+00:00", seconds=3.0,
            error_type="FloatingPointError", error_message="loss is <nan> at step 7", **shared,
        )
    )  # fmt: skip
    done += [
        Attempt(
            trial_id=trial_id, stage="grid", label=label, attempt=2 if i == 0 else 1, status="SUCCEEDED",
            config={"model": "x"}, metrics={"images_per_second": 210.0},
            started_at=f"2026-01-01T10:{3 + i // 6:02d}:{i % 6 * 10:02d}+00:00",
            seconds=18.0, **shared,
        )
        for i, (trial_id, label) in enumerate(cells)
    ]  # fmt: skip
    return done


def _quality(paths: RunPaths, learned: str) -> None:
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
    }  # fmt: skip
    write_table(paths.table("copies"), "copies", [audit])
    first = read_rows(paths.synthetic / "metadata.parquet", "metadata")[0]
    worst = {
        "image_id": first["image_id"], "nearest_pixels": learned, "distance_pixels": 0.0, "flipped": True,
        "nearest_features": "spanish/lost", "distance_features": 0.1, "closer_than_real": True, "ratio": 0.0,
    }  # fmt: skip
    write_table(paths.table("worst_copies"), "worst_copies", [worst])


def _embedding(paths: RunPaths, rng: np.random.Generator) -> None:
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


def _stages(paths: RunPaths, trials: list[Attempt]) -> None:
    _write_amounts(paths)
    write_trials(paths.trials, trials)
    where = "1 node, 2 cores, 0 GPUs: 2 trials at once"
    rows = [
        ("sources", 6.1, 228, "driver", "09:59:50"),
        ("lora", 60.2, 3, where, "10:00:00"),
        ("sample", 55.0, 130, where, "10:01:10"),
    ]
    rows += [("grid", 171.0, 24, where, "10:02:30"), ("report", 4.2, 1, "driver", "10:06:00")]
    write_table(
        paths.table("stages"),
        "stages",
        [
            {
                "stage": s,
                "seconds": t,
                "num_done": n,
                "num_reused": 0,
                "where": w,
                "started_at": f"2026-01-01T{at}+00:00",
            }
            for s, t, n, w, at in rows
        ],
    )
    note = "ES asks for 6148 Spanish images; there are 100, all are taken"
    write_table(paths.table("notes"), "notes", [{"stage": "grid", "note": note}])


def _write_amounts(paths: RunPaths) -> None:
    asked = [("number", 40, 0, 50.0), ("number", 40, 40, 61.0), ("number", 40, 80, 66.0),
             ("share", 40, 0, 50.0), ("share", 20, 20, 47.0), ("share", 0, 40, 31.0)]  # fmt: skip
    rows = []
    for kind, real, synthetic, score in asked:
        ends = {f"{name}{end}": score + add for name in METRICS for end, add in (("", 0), ("_low", -7), ("_high", 7))}
        gain = {f"{name}_gain{end}": score - 50 + add for name in ("accuracy", "f1")
                for end, add in (("", 0), ("_low", -5), ("_high", 5))}  # fmt: skip
        rows.append({
            "kind": kind, "regime": "HB+DA", "model": "ResNet18", "asked_real": real, "asked_synthetic": synthetic,
            "num_es": real, "num_synthetic": synthetic, "num_patients": real // 4, "num_seeds": 1, **ends, **gain,
            "num_test": 160, "weights": "from scratch", "trial_ids": f"t{real}{synthetic}",
        })  # fmt: skip
    write_table(paths.table("amounts"), "amounts", rows)
