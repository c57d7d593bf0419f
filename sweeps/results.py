"""Tables of what is not a classifier's score: the ranks, and the embedding (scores: `sweeps.scoring`).

In: a run's files. Out: tables/*.parquet. Everything printed is computed from what trials left, never in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.data.pixels import decode_square
from fulora.data.records import ImageRecord
from fulora.experiment import Experiment
from fulora.planes import TESTED_PLANES, plane_from_label
from fulora.seeds import derive_seed, numpy_rng
from sweeps.image_sets import ImageSet
from sweeps.paths import BASE_LABEL, RunPaths
from sweeps.tables import read_rows, write_table
from sweeps.trials import Trial, latest_success

if TYPE_CHECKING:
    from fulora.evaluate.judge import Judge


def _labels(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return np.array([plane_from_label(row["plane"]).index for row in rows])


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
