"""The scores of a run filled by hand: classifiers, attempts, stages; every file through the real writers."""

from __future__ import annotations

from typing import Any

import numpy as np

from fulora.evaluate.decomposition import SHARES
from fulora.evaluate.published import published_table1, published_table2
from fulora.evaluate.scores import confusion_matrix
from fulora.evaluate.trainings import Training
from fulora.planes import PLANES
from sweeps.core.attempts import Attempt
from sweeps.core.hashing import content_hash
from sweeps.core.paths import RunPaths
from sweeps.core.tables import METRICS, read_rows, write_table, write_trials
from sweeps.scores.predictions import read_predictions
from sweeps.scores.subgroups import TestContext
from sweeps.scores.tables import write_measurements

from .fabricated_images import RANKS

REPLICATES = 3
"""Trainings of every cell."""
PROVENANCE = {"commit": "0123456789ab", "host": "example", "python": "3.11.2", "fulora": "0.1.0", "torch": "2.15.0"}


def write_grid(paths: RunPaths, rng: np.random.Generator, test: list[dict[str, Any]]) -> list[Attempt]:
    labels = np.array([p.index for r in test for p in PLANES if p.name == r["plane"]])
    tables: dict[str, list[dict[str, Any]]] = {"table1": [], "table2": []}
    predictions, confusion, attempts = [], [], []
    lift = {"ES": 0.0, "ES+DA": 0.05, "HB": 0.12, "HB+DA": 0.2, "AF": 0.3, "ES+AF": 0.3}
    for name, published in (("table1", published_table1()), ("table2", published_table2())):
        for paper in published:
            regime, model = str(paper["regime"]), str(paper["model"])
            trials, right = [content_hash([name, regime, model, r]) for r in range(REPLICATES)], []
            for replicate, trial_id in enumerate(trials):
                p = _probabilities(rng, labels, 0.5 + lift[regime])
                right.append((p.argmax(1) == labels).mean())
                predictions += [
                    {
                        "trial_id": trial_id, "image_id": r["image_id"], "patient_id": r["patient_id"],
                        "centre": r["centre"], "plane": r["plane"],
                        **{f"p_{plane.name}": float(q[plane.index]) for plane in PLANES},
                    }
                    for r, q in zip(test, p)
                ]  # fmt: skip
                matrix = confusion_matrix(p, labels)
                shared = {"trial_id": trial_id, "regime": regime, "model": model, "replicate": replicate}
                if name == "table1":
                    confusion += [
                        {**shared, "seed_index": 0, "truth": a.name, "prediction": b.name,
                         "count": int(matrix[a.index, b.index])}
                        for a in PLANES
                        for b in PLANES
                    ]  # fmt: skip
                attempts.append((trial_id, f"{regime}, {model}, replicate {replicate}"))
            accuracy = 100 * float(np.mean(right))
            row = {k: paper[k] for k in ("regime", "model")}
            row |= {"num_es": 100 if "HB" in regime else 250, "num_synthetic": 200 if "HB" in regime else 0}
            row |= {
                "num_patients": 70,
                "num_seeds": 1,
                "num_replicates": REPLICATES,
                "num_trainings": REPLICATES,
                "num_collapsed": 0,
                "covers": "patients, replicates and seeds",
                "num_test": len(test),
                "weights": "from scratch",
                "trial_ids": ", ".join(trials),
            }
            for metric in (*METRICS, *SHARES):
                row |= {metric: accuracy, f"{metric}_low": accuracy - 6, f"{metric}_high": accuracy + 6}
            if name == "table2":
                row["num_af"] = 16 if "AF" in regime else 0
            tables[name].append(row)
    for name, rows in tables.items():
        write_table(paths.table(name), name, rows)
    write_table(paths.predictions, "predictions", predictions)
    write_table(paths.table("confusion"), "confusion", confusion)
    _measure_some(paths, tables["table1"] + tables["table2"])
    return _attempts(attempts)


def _probabilities(rng: np.random.Generator, labels: np.ndarray, share: float) -> np.ndarray:
    """Return the probabilities [N, 5] of a classifier that is right in a share of the images."""
    right = rng.random(len(labels)) < share
    answer = np.where(right, labels, rng.integers(0, 5, len(labels)))
    p = rng.dirichlet(np.ones(5), len(labels)) * 0.3
    p[np.arange(len(labels)), answer] += 0.7
    return p


def trainings_of(row: dict[str, Any], predicted: dict[str, np.ndarray]) -> dict[Training, np.ndarray]:
    """Return the probabilities of a row's replicates."""
    return {(i, 0): predicted[trial_id] for i, trial_id in enumerate(row["trial_ids"].split(", "))}


def _measure_some(paths: RunPaths, rows: list[dict[str, Any]]) -> None:
    """Write comparisons, calibration and the like of a few cells: all of them would take a second."""
    test, predicted = read_predictions(paths.predictions)
    cells = {(r["regime"], r["model"]): trainings_of(r, predicted) for r in rows}
    models = ("EfficientNet b0", "ViT b16")
    some = {cell: p for cell, p in cells.items() if cell[0] in ("ES", "HB", "AF") and cell[1] in models}
    context = TestContext(
        catalog=read_rows(paths.catalog, "catalog"), audit=read_rows(paths.audit, "audit"), drop_duplicates=False
    )
    write_measurements(some, test, context, paths.tables, seed=3)


def _attempts(cells: list[tuple[str, str]]) -> list[Attempt]:
    shared: dict[str, Any] = {"device": "cpu", "peak_memory_bytes": 800 * 2**20, "provenance": PROVENANCE}
    done = [
        Attempt(
            trial_id=f"lora{rank:08d}", stage="lora", label=f"rank {rank}", attempt=1, status="SUCCEEDED",
            config={"rank": rank}, metrics={"steps_per_second": 9.5},
            started_at=f"2026-01-01T10:00:0{i}+00:00", seconds=40.0 + i,
            **shared,
        )
        for i, rank in enumerate(RANKS)
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


def write_stages(paths: RunPaths, trials: list[Attempt]) -> None:
    _write_data_scaling(paths)
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


def _write_data_scaling(paths: RunPaths) -> None:
    asked = [("number", 40, 0, 50.0), ("number", 40, 40, 61.0), ("number", 40, 80, 66.0),
             ("share", 40, 0, 50.0), ("share", 20, 20, 47.0), ("share", 0, 40, 31.0)]  # fmt: skip
    rows = []
    for kind, real, synthetic, score in asked:
        ends = {f"{name}{end}": score + add for name in METRICS for end, add in (("", 0), ("_low", -7), ("_high", 7))}
        gain = {f"{name}_gain{end}": score - 50 + add for name in ("accuracy", "f1")
                for end, add in (("", 0), ("_low", -5), ("_high", 5))}  # fmt: skip
        rows.append({
            "kind": kind, "regime": "HB+DA", "model": "ResNet18", "asked_real": real, "asked_synthetic": synthetic,
            "num_es": real, "num_synthetic": synthetic, "num_patients": real // 4, "num_seeds": 1, "num_trainings": 3,
            "num_replicates": 3, "covers": "patients, replicates and seeds", **ends, **gain, "num_test": 160,
            "weights": "from scratch", "trial_ids": f"t{real}{synthetic}",
        })  # fmt: skip
    write_table(paths.table("data_scaling"), "data_scaling", rows)
