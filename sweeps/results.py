"""From predictions to tables: Table 1, Table 2, ranks, confusion matrices, embedding.

In: a run's files. Out: tables/*.parquet. Everything printed is computed here from what trials left, never in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.data.pixels import decode_square
from fulora.data.records import ImageRecord
from fulora.evaluate.intervals import mean_scores
from fulora.evaluate.scores import confusion_matrix
from fulora.experiment import Experiment
from fulora.planes import PLANES, TESTED_PLANES, plane_from_label
from fulora.seeds import derive_seed, numpy_rng
from sweeps.paths import BASE_LABEL, RunPaths
from sweeps.synthesis import ImageSet
from sweeps.tables import METRICS, read_rows, write_table
from sweeps.trials import Attempt, Trial, latest_success

if TYPE_CHECKING:
    from fulora.evaluate.judge import Judge

_COLUMNS = [f"p_{plane.name}" for plane in PLANES]


def _cell_of(trial: Trial) -> tuple[str, str]:
    return trial.config["regime"], trial.config["model"]


def write_score_tables(experiment: Experiment, trials: Sequence[Trial], paths: RunPaths) -> None:
    """Write table1, table2 and confusion from predictions.parquet; a cell whose trials all failed has null scores."""
    done = latest_success(paths)
    by_trial: dict[str, list[dict]] = {}
    for row in read_rows(paths.predictions, "predictions"):
        by_trial.setdefault(row["trial_id"], []).append(row)
    cells: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        cells.setdefault(_cell_of(trial), []).append(trial)
    rows = {cell: _table_row(cell, group, done, by_trial, experiment) for cell, group in cells.items()}
    grid = experiment.grid
    first = [rows[regime, model] for regime in grid.regimes for model in grid.models]
    second = [rows[regime, grid.table2_model] for regime in grid.table2_regimes]
    write_table(paths.table("table1"), "table1", [{k: v for k, v in r.items() if k != "num_af"} for r in first])
    write_table(paths.table("table2"), "table2", second)
    write_table(paths.table("confusion"), "confusion", _confusion_rows(trials, by_trial))


def _table_row(
    cell: tuple[str, str],
    group: Sequence[Trial],
    done: Mapping[str, Attempt],
    by_trial: Mapping[str, list[dict]],
    experiment: Experiment,
) -> dict[str, Any]:
    finished = [t for t in group if t.trial_id in done and t.trial_id in by_trial]
    row: dict[str, Any] = {"regime": cell[0], "model": cell[1], "num_seeds": len(finished)}
    if not finished:
        return row
    facts = done[finished[0].trial_id].metrics
    row |= {name: facts[name] for name in ("num_es", "num_af", "num_synthetic", "num_patients")}
    images = by_trial[finished[0].trial_id]
    scores = mean_scores(
        np.stack([_probabilities(by_trial[t.trial_id]) for t in finished]),
        _labels(images),
        [r["patient_id"] for r in images],
        seed=derive_seed(experiment.seed, "intervals"),
    )
    for name in METRICS:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = scores[name]
    weights = sorted({str(done[t.trial_id].metrics["weights"]) for t in finished})
    return row | {
        "num_test": len(images), "weights": ", ".join(weights), "trial_ids": ", ".join(t.trial_id for t in finished)
    }  # fmt: skip


def _probabilities(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([[row[name] for name in _COLUMNS] for row in rows])


def _labels(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([plane_from_label(row["plane"]).index for row in rows])


def _confusion_rows(trials: Sequence[Trial], by_trial: Mapping[str, list[dict]]) -> list[dict[str, Any]]:
    rows = []
    for trial in trials:
        if predicted := by_trial.get(trial.trial_id):
            matrix = confusion_matrix(_probabilities(predicted), _labels(predicted))
            regime, model = _cell_of(trial)
            shared = {
                "trial_id": trial.trial_id,
                "regime": regime,
                "model": model,
                "seed_index": trial.config["seed_index"],
            }
            rows += [
                {**shared, "truth": t.name, "prediction": p.name, "count": int(matrix[t.index, p.index])}
                for t in PLANES
                for p in PLANES
            ]
    return rows


def write_rank_table(
    experiment: Experiment,
    trials: Sequence[Trial],
    judge_trial: Trial,
    sets: Sequence[ImageSet],
    paths: RunPaths,
) -> list[dict[str, Any]]:
    """Write ranks.parquet: per adapter what it cost and how often the judge sees the plane that was asked for."""
    from fulora.evaluate.judge import load_judge

    done = latest_success(paths)
    judge = load_judge(paths.judge)
    verdicts = {s.label: recognised(judge, s, experiment, paths) for s in sets}
    about_judge = {
        "judge": judge.name,
        "judge_accuracy": judge.heldout_accuracy,
        "judge_num_heldout": done[judge_trial.trial_id].metrics["num_heldout"],
    }
    base = verdicts[BASE_LABEL]
    rows = []
    for which in sorted((s for s in sets if s.rank is not None), key=lambda s: s.rank or 0):
        trial = next(t for t in trials if t.config["rank"] == which.rank)
        attempt = done[trial.trial_id]
        rows.append(
            {
                "adapter": which.label, "rank": which.rank, "alpha": trial.config["alpha"], "chosen": which.chosen,
                "base": attempt.metrics["base_name"], "num_trainable": attempt.metrics["num_trainable"],
                "num_steps": trial.config["num_steps"], "final_loss": attempt.metrics["final_loss"],
                "heldout_loss": attempt.metrics.get("heldout_loss"),
                **verdicts[which.label], "recognised_base": base["recognised"], "num_base_images": base["num_images"],
                **about_judge, "seconds": attempt.seconds, "peak_memory_bytes": attempt.peak_memory_bytes,
                "device": attempt.device, "adapter_sha256": attempt.metrics["adapter_sha256"],
                "trial_id": trial.trial_id,
            }
        )  # fmt: skip
    write_table(paths.table("ranks"), "ranks", rows)
    return rows


def recognised(judge: Judge, which: ImageSet, experiment: Experiment, paths: RunPaths) -> dict[str, Any]:
    """Return the share of a set's images in which the judge sees the plane asked for, in percent, also per sampler."""
    from fulora.classify.training import predict

    folder = which.folder(paths)
    rows = read_rows(folder / "metadata.parquet", "metadata")
    images = decode_square(
        [folder / r["file_name"] for r in rows], resolution_px=experiment.judge.resolution_px, workers=2
    )
    right = predict(judge.model, images).argmax(1) == _labels(rows)
    by_sampler = {
        f"recognised_{name}": 100.0 * float(right[[r["sampler"] == name for r in rows]].mean())
        for name in which.config.samplers
    }
    return {"recognised": 100.0 * float(right.mean()), "num_images": len(rows), **by_sampler}


def write_embedding(experiment: Experiment, records: Sequence[ImageRecord], paths: RunPaths) -> list[str]:
    """Write embedding.parquet, per-plane t-SNE of Spanish, synthetic and African images; return notes on shortages."""
    from fulora.evaluate.features import choose_features, features_from_classifier
    from fulora.evaluate.judge import load_judge
    from fulora.evaluate.tsne import SourceFeatures, embed_planes

    config, judge = experiment.embedding, load_judge(paths.judge)
    extractor = choose_features(config.feature_weights, features_from_classifier(judge.model, judge.name))
    chosen: list[ImageRecord] = []
    for plane in TESTED_PLANES:
        for source in ("spanish", "synthetic", "african"):
            pool = sorted((r for r in records if (r.plane, r.source) == (plane.name, source)), key=lambda r: r.image_id)
            if source == "african":  # the paper's figure shows test images; fall back to all where there are few
                pool = [r for r in pool if r.split == "test"] or pool
            order = numpy_rng(experiment.seed, "embedding", plane.name, source).permutation(len(pool))
            chosen += [pool[i] for i in order[: config.images_per_source]]
    features = extractor(
        decode_square([r.path for r in chosen], resolution_px=experiment.judge.resolution_px, workers=2)
    )
    sources = {}
    for source in ("spanish", "synthetic", "african"):
        mine = [i for i, r in enumerate(chosen) if r.source == source]
        ids = [chosen[i].image_id for i in mine]
        sources[source] = SourceFeatures(features[mine], _labels([{"plane": chosen[i].plane} for i in mine]), ids)
    embedding = embed_planes(
        sources, per_source=config.images_per_source, seed=derive_seed(experiment.seed, "embedding")
    )
    write_table(paths.table("embedding"), "embedding", ({**row, "features": extractor.name} for row in embedding.rows))
    return embedding.notes
