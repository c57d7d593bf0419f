"""The LoRA rank sweep: one fine-tuning per rank as parallel trials, and the judge beside them.

In: the catalog. Out: adapters/rank-NNN with loss.parquet, judge/. The work itself is `fulora.diffusion.finetune`
and `fulora.evaluate.judge`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fulora.data.phantoms import spanish_like
from fulora.data.pixels import decode_square, read_rgb
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_heldout_images, select_lora_images
from fulora.device import Footprint
from fulora.diffusion.base_files import fingerprint
from fulora.diffusion.lora_config import LoraConfig
from fulora.evaluate.judge import as_rgb
from fulora.experiment import Experiment
from fulora.planes import PLANES, plane_from_label
from fulora.seeds import derive_seed, numpy_rng
from sweeps.catalog import read_catalog
from sweeps.paths import RunPaths, write_json, written
from sweeps.tables import write_table
from sweeps.trials import Trial, data_hash, latest_success, plain
from sweeps.tuning import Report

UNKNOWN_DATA = "unread"
"""Stands for the data's hash in a plan made without reading data."""


def lora_images(experiment: Experiment, records: Sequence[ImageRecord]) -> tuple[list[ImageRecord], list[str]]:
    """Return the images LoRA learns from, and a note per plane that has too few."""
    return select_lora_images(records, per_plane=experiment.lora.images_per_plane, seed=experiment.seed)


def rank_trials(experiment: Experiment, records: Sequence[ImageRecord] | None) -> list[Trial]:
    """Return one trial per rank; `records` None plans without data."""
    data = UNKNOWN_DATA if records is None else data_hash(lora_images(experiment, records)[0])
    return [
        Trial(
            stage="lora",
            label=f"rank {config.rank}",
            config={
                "base": experiment.base, **plain(config),
                "alpha": config.alpha or float(config.rank), "images_per_plane": experiment.lora.images_per_plane,
            },
            inputs={"data": data, "base": fingerprint(experiment.base)},
            seed=derive_seed(experiment.seed, "lora", config.rank),
            cost=config.rank,
        )
        for config in experiment.lora.trials()
    ]  # fmt: skip


def judge_trial(experiment: Experiment, records: Sequence[ImageRecord] | None) -> Trial:
    """Return the judge's trial: fresh phantoms where the run is on phantoms, else Spanish images LoRA does not see."""
    if experiment.spanish is None:
        data = "phantoms"
    elif records is None:
        data = UNKNOWN_DATA
    else:
        data = data_hash(_judge_records(experiment, records))
    return Trial(
        stage="judge",
        label="judge",
        config=plain(experiment.judge),
        inputs={"data": data},
        seed=derive_seed(experiment.seed, "judge"),
        cost=0,
    )


def in_place(paths: RunPaths, trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials whose adapter or judge is there, succeeded, and is the one this experiment asks for."""
    done = latest_success(paths)
    folder = {t.trial_id: paths.judge if t.stage == "judge" else paths.adapter(t.config["rank"]) for t in trials}
    return [t for t in trials if t.trial_id in done and _trial_of(folder[t.trial_id]) == t.trial_id]


def _trial_of(folder: Path) -> str | None:
    file = folder / "trial.json"
    return json.loads(file.read_text())["trial_id"] if file.is_file() else None


def train_rank(trial: Trial, paths: RunPaths, report: Report, experiment: Experiment) -> dict[str, Any]:
    """Fine-tune one rank and put its folder in place; return its metrics."""
    config = next(c for c in experiment.lora.trials() if c.rank == trial.config["rank"])
    records = read_catalog(paths)
    images, _ = lora_images(experiment, records)
    watched = select_heldout_images(records, images, per_plane=experiment.lora.heldout_per_plane, seed=experiment.seed)

    def on_log(row: dict) -> None:
        note = f"loss {row['loss']:.3f}, {row['steps_per_second']:.1f} steps/s"
        report({"fraction": row["step"] / config.num_steps, "note": note, "step": row["step"], "loss": row["loss"]})

    out = paths.adapter(config.rank)
    return finetune_records(experiment, config, trial, paths, images, watched, out, on_log)


def measure_rank(trial: Trial, paths: RunPaths, experiment: Experiment) -> Footprint:
    """Return what fine-tuning one rank takes of this process's device, from a few steps of it."""
    from fulora.diffusion.finetune import measure_memory

    config = next(c for c in experiment.lora.trials() if c.rank == trial.config["rank"])
    images, _ = lora_images(experiment, read_catalog(paths))
    return measure_memory(
        base=experiment.base, pixels=_decoded(images, config), captions=_captions(images), config=config,
        allow_pickle=experiment.allow_pickle,
    )  # fmt: skip


def finetune_records(
    experiment: Experiment,
    config: LoraConfig,
    trial: Trial,
    paths: RunPaths,
    learned: Sequence[ImageRecord],
    watched: Sequence[ImageRecord],
    out: Path,
    on_log: Callable[[dict], None],
) -> dict[str, Any]:
    """Fine-tune on the records `learned`, watching the loss on others, and put the adapter's folder in place.

    Returns the metrics. Killed and called again, it goes on from its checkpoint.
    """
    from fulora.diffusion.finetune import finetune

    with written(out) as beside:
        result = finetune(
            base=experiment.base,
            pixels=_decoded(learned, config),
            captions=_captions(learned),
            config=config,
            seed=trial.seed,
            out=beside,
            allow_pickle=experiment.allow_pickle,
            heldout=(_decoded(watched, config), _captions(watched)) if watched else None,
            names=[r.image_id for r in learned],
            checkpoints=paths.checkpoints(trial.trial_id),
            on_log=on_log,
        )
        write_table(beside / "loss.parquet", "loss", result.losses)
        write_json(beside / "trial.json", {"trial_id": trial.trial_id, "label": trial.label, "config": trial.config})
        shutil.rmtree(out, ignore_errors=True)  # of another configuration, or a failed attempt
    return {
        "final_loss": result.losses[-1]["loss"],
        "heldout_loss": result.losses[-1].get("heldout_loss"),
        "num_heldout": len(watched),
        "resumed_from": result.resumed_from,
        "steps_per_second": result.steps_per_second,
        "num_trainable": result.num_trainable,
        "adapter_sha256": result.adapter_sha256,
        "base_name": result.base_name,
        "num_images": len(learned),
        "device": result.device,
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def _decoded(records: Sequence[ImageRecord], config: LoraConfig) -> np.ndarray | list[np.ndarray]:
    """Return the pixels a fine-tuning takes: squares, or images as they are for buckets."""
    paths = [r.path for r in records]
    if config.bucket_step_px:
        return [read_rgb(path) for path in paths]
    return decode_square(paths, resolution_px=config.resolution_px, workers=2)


def _captions(records: Sequence[ImageRecord]) -> list[str]:
    return [plane_from_label(r.plane).prompt for r in records]


def _judge_records(experiment: Experiment, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the Spanish training images the judge may see: not LoRA's own, unless nearly all are."""
    spanish = [r for r in records if r.source == "spanish" and r.split == "train"]
    seen = {r.image_id for r in lora_images(experiment, records)[0]}
    unseen = [r for r in spanish if r.image_id not in seen]
    return unseen if len(unseen) >= 10 * len(PLANES) else spanish


def judge_images(
    experiment: Experiment, records: Sequence[ImageRecord], seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], str]:
    """Return (images, planes) to train on, (images, planes) of other patients, and what they are in words."""
    config = experiment.judge
    if experiment.spanish is None:
        size = config.resolution_px
        training = spanish_like(config.num_images, seed=derive_seed(seed, "training"), resolution_px=size)
        heldout = spanish_like(config.num_heldout, seed=derive_seed(seed, "heldout"), resolution_px=size)
        return (
            (as_rgb(training.images), training.planes), (as_rgb(heldout.images), heldout.planes),
            "fresh Spanish-like phantoms",
        )  # fmt: skip
    chosen = sorted(_judge_records(experiment, records), key=lambda r: r.image_id)
    order = numpy_rng(seed, "judge", "images").permutation(len(chosen))[: config.num_images]
    chosen = [chosen[i] for i in sorted(order)]
    images = decode_square([r.path for r in chosen], resolution_px=config.resolution_px, workers=2)
    planes = np.array([plane_from_label(r.plane).index for r in chosen])
    patients = np.array([r.patient_id for r in chosen])
    unique = numpy_rng(seed, "judge", "patients").permutation(np.unique(patients))
    is_heldout = np.isin(patients, unique[: max(1, len(unique) // 5)])
    seen = {r.image_id for r in lora_images(experiment, records)[0]}
    overlap = sum(r.image_id in seen for r, held in zip(chosen, is_heldout) if not held)
    words = "Spanish images" + (f", {overlap} of them LoRA's own" if overlap else " LoRA has not seen")
    return (images[~is_heldout], planes[~is_heldout]), (images[is_heldout], planes[is_heldout]), words


def train_judge_trial(trial: Trial, paths: RunPaths, report: Report, experiment: Experiment) -> dict[str, Any]:
    """Train the judge and put it in place; return its metrics."""
    from fulora.evaluate.judge import save_judge, train_judge

    config = experiment.judge
    training, heldout, words = judge_images(experiment, read_catalog(paths), trial.seed)
    # As many steps on few images as on many: a judge of a small real set would else be hardly trained.
    config = replace(config, epochs=max(1, round(config.epochs * config.num_images / len(training[0]))))

    def on_epoch(row: dict) -> None:
        note = f"{row['accuracy']:.1f} % right"
        report({"fraction": row["epoch"] / config.epochs, "note": note})

    judge = train_judge(*training, config=config, seed=trial.seed, heldout=heldout, what=words, on_epoch=on_epoch)
    with written(paths.judge) as beside:
        save_judge(judge, beside)
        write_json(beside / "trial.json", {"trial_id": trial.trial_id, "label": trial.label, "config": trial.config})
        shutil.rmtree(paths.judge, ignore_errors=True)
    return {
        "heldout_accuracy": judge.heldout_accuracy,
        "num_images": judge.num_images,
        "num_heldout": judge.num_heldout,
        "judge": judge.name,
        "trusted": judge.trusted,
    }
