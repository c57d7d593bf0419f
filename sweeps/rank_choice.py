"""Which rank samples the training images: the one asked for, or the best by a named score of comparison images.

In: the adapters of a rank sweep. Out: the experiment with that rank, and a sentence that says which and why. Every rank
is sampled a little first (`compare_per_plane`), with the same prompts and seeds; then one is sampled in full.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from fulora.data.records import ImageRecord
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from sweeps import synthesis
from sweeps.engine.resources import Cluster
from sweeps.image_sets import ImageSet
from sweeps.paths import RunPaths, write_json
from sweeps.progress import Progress
from sweeps.quality import judge_identity, measure_quality
from sweeps.results import recognised
from sweeps.tables import read_rows
from sweeps.trials import data_hash, short_hash


def choose_rank(
    experiment: Experiment,
    sets: Sequence[ImageSet],
    records: Sequence[ImageRecord],
    *,
    paths: RunPaths,
    cluster: Cluster,
    progress: Progress,
) -> tuple[Experiment, str]:
    """Return the experiment that samples the best rank, and why; `sets` are those of any choice of rank.

    Raises InputError where KID was asked for and there are no real images to compare with.
    """
    compared = [_compared(which, experiment) for which in sets if which.rank is not None]
    ids = [shard_id for which in compared for shard_id, _ in which.shards()]
    weights = str(experiment.embedding.feature_weights)
    judged_by = [judge_identity(paths), data_hash(records), weights]
    key, file = short_hash([experiment.choose_rank, ids, judged_by]), paths.rank
    if file.is_file() and (before := json.loads(file.read_text()))["key"] == key:
        return _with_rank(experiment, before["rank"]), before["why"]
    progress.say(f"sampling every rank a little, to choose by {experiment.choose_rank}")
    synthesis.sample_shards(experiment, compared, paths=paths, cluster=cluster, progress=progress)
    for which in compared:
        synthesis.assemble(which, paths)
    scores = _scores(experiment, compared, records, paths)
    best = min(scores, key=lambda rank: (scores[rank], rank))
    number = compared[0].num_images
    if experiment.choose_rank == "kid":
        what, shown = "the least KID to patients LoRA does not see", {rank: f"{v:.4f}" for rank, v in scores.items()}
    else:
        what, shown = "most often recognised by the judge", {rank: f"{-v:.1f} %" for rank, v in scores.items()}
    others = ", ".join(f"rank {rank}: {text}" for rank, text in shown.items() if rank != best)
    why = f"rank {best} is sampled: {what} ({shown[best]}; {others}; {number} images each)"
    write_json(file, {"key": key, "rank": best, "why": why})
    return _with_rank(experiment, best), why


def _compared(which: ImageSet, experiment: Experiment) -> ImageSet:
    """Return a rank's set as if another rank were chosen."""
    config = replace(which.config, images_per_plane=experiment.compare_per_plane)
    return replace(which, config=config, chosen=False)


def _scores(
    experiment: Experiment, sets: Sequence[ImageSet], records: Sequence[ImageRecord], paths: RunPaths
) -> dict[int, float]:
    """Return each rank's score, less is better."""
    if experiment.choose_rank == "recognised":
        from fulora.evaluate.judge import load_judge

        judge = load_judge(paths.judge)
        found = {which.rank: recognised(judge, which, experiment, paths)["recognised"] for which in sets}
        return {rank: -share for rank, share in found.items() if rank is not None}
    notes = measure_quality(experiment, sets, records, paths)
    rows = read_rows(paths.table("fidelity"), "fidelity")
    kids = {which.rank: [r["kid"] for r in rows if r["adapter"] == which.label] for which in sets}
    if not rows:
        raise InputError(fault("choose_rank", "kid", "; ".join(notes), "Choose by recognised, or name sampling.rank."))
    return {rank: sum(values) / len(values) for rank, values in kids.items() if rank is not None}


def _with_rank(experiment: Experiment, rank: int) -> Experiment:
    return replace(experiment, sampling=replace(experiment.sampling, rank=rank))
