"""Fine-tune one rank, or all in one pass. The work itself is `fulora.diffusion.finetune` and `.finetune_ranks`.

In: a step with its selections. Out: the adapter in diffusers' and in kohya's form, and loss.parquet; of all ranks, in a
directory each, which the steps of the ranks take over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fulora.data.pixels import decode_square, read_rgb
from fulora.data.records import ImageRecord
from fulora.device import Footprint
from fulora.diffusion.lora_config import LoraConfig
from fulora.planes import plane_from_label
from sweeps.core.attempts import flat_config
from sweeps.core.files import write_json
from sweeps.core.selections import read_images
from sweeps.core.step import Report, Step
from sweeps.core.store import Place, Store
from sweeps.core.tables import write_table
from sweeps.ranks.plan import LoraTrial

if TYPE_CHECKING:
    from fulora.diffusion.finetune import FinetuneResult

LOSS_FILE, TRIAL_FILE = "loss.parquet", "trial.json"
_METRICS_FILE = "metrics.json"
"""Metrics of a rank that was trained with others, beside its files."""


def train_rank(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Fine-tune one rank; killed and called again, it resumes from its checkpoint."""
    num_steps = step.config.lora.num_steps

    def on_log(row: dict) -> None:
        note = f"loss {row['loss']:.3f}, {row['steps_per_second']:.1f} steps/s"
        report({"fraction": row["step"] / num_steps, "note": note, "step": row["step"], "loss": row["loss"]})

    return finetune_step(step, place, on_log)


def finetune_step(step: Step, place: Place, on_log: Callable[[dict], None]) -> dict[str, Any]:
    """Fine-tune on a step's images, measuring the loss on others, and return the metrics."""
    from fulora.diffusion.finetune import finetune

    trial: LoraTrial = step.config
    learned, heldout = _records(place, "images"), _records(place, "heldout")
    base = place.store.local(trial.base.spec)
    result = finetune(
        base=base,
        pixels=_decoded(learned, trial.lora),
        captions=_captions(learned),
        config=trial.lora,
        seed=trial.seed,
        out=place.out,
        allow_pickle=trial.base.allow_pickle,
        heldout=(_decoded(heldout, trial.lora), _captions(heldout)) if heldout else None,
        names=[r.image_id for r in learned],
        checkpoints=place.scratch,
        on_log=on_log,
    )
    write_table(place.out / LOSS_FILE, "loss", result.losses)
    _describe(step, place)
    return _metrics(result, learned, heldout) | {"base_name": result.base_name.replace(base, trial.base.spec)}


def _describe(step: Step, place: Place) -> None:
    """Write trial.json."""
    trial: LoraTrial = step.config
    about = {"base": trial.base.spec, **flat_config(step), "base_identity": trial.base.identity}
    write_json(place.out / TRIAL_FILE, {"trial_id": step.key, "label": step.label, "config": about})


def _metrics(result: FinetuneResult, learned: Sequence[ImageRecord], heldout: Sequence[ImageRecord]) -> dict[str, Any]:
    return {
        "final_loss": result.losses[-1]["loss"],
        "heldout_loss": result.losses[-1].get("heldout_loss"),
        "num_heldout": len(heldout),
        "resumed_from": result.resumed_from,
        "steps_per_second": result.steps_per_second,
        "num_trainable": result.num_trainable,
        "adapter_sha256": result.adapter_sha256,
        "base_name": result.base_name,
        "num_images": len(learned),
        "device": result.device,
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def train_together(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Fine-tune several ranks in one pass; killed and called again, all resume from their checkpoint."""
    from fulora.diffusion.finetune_ranks import finetune_ranks

    trials: Sequence[LoraTrial] = step.config.trials
    first, num_steps = trials[0], trials[0].lora.num_steps

    def on_log(row: dict) -> None:
        note = f"rank {first.lora.rank}: loss {row['loss']:.3f}, {row['steps_per_second']:.1f} steps/s of all ranks"
        report({"fraction": row["step"] / num_steps, "note": note})

    learned, heldout = _records(place, "images"), _records(place, "heldout")
    folders, base = [place.out / _folder(trial) for trial in trials], place.store.local(first.base.spec)
    results = finetune_ranks(
        base=base,
        pixels=_decoded(learned, first.lora),
        captions=_captions(learned),
        configs=[trial.lora for trial in trials],
        seeds=[trial.seed for trial in trials],
        outs=folders,
        allow_pickle=first.base.allow_pickle,
        heldout=(_decoded(heldout, first.lora), _captions(heldout)) if heldout else None,
        names=[r.image_id for r in learned],
        checkpoints=place.scratch,
        on_logs=[on_log, *(None for _ in trials[1:])],
    )
    for folder, result in zip(folders, results, strict=True):
        write_table(folder / LOSS_FILE, "loss", result.losses)
        named = {"base_name": result.base_name.replace(base, first.base.spec)}
        write_json(folder / _METRICS_FILE, _metrics(result, learned, heldout) | named)
    own = ("resumed_from", "steps_per_second", "device", "peak_memory_bytes")
    return {"num_ranks": len(trials), **{name: getattr(results[0], name) for name in own}}


def take_over(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Copy a rank's files from the step that trained it with others, and return its metrics."""
    (joint,) = step.in_role("together")
    folder = place.folder_of(joint) / _folder(step.config)
    for file in folder.iterdir():
        if file.name != _METRICS_FILE:
            shutil.copyfile(file, place.out / file.name)
    _describe(step, place)
    note = f"trained in one pass ({joint.label}): steps per second and memory are those of the pass"
    return {**json.loads((folder / _METRICS_FILE).read_text()), "notes": [note]}


def _folder(trial: LoraTrial) -> str:
    return f"rank-{trial.lora.rank:03d}"


def measure_ranks(steps: Sequence[Step], store: Store) -> Footprint:
    """Return the device memory of fine-tuning the largest of some ranks, measured on a few steps."""
    from fulora.diffusion.finetune import measure_memory

    largest = max(steps, key=lambda step: step.config.lora.rank)
    trial: LoraTrial = largest.config
    images = _records(Place(store, largest, store.root), "images")
    return measure_memory(
        base=store.local(trial.base.spec), pixels=_decoded(images, trial.lora), captions=_captions(images),
        config=trial.lora, allow_pickle=trial.base.allow_pickle,
    )  # fmt: skip


def _records(place: Place, role: str) -> list[ImageRecord]:
    """Return the images of a role's selection; none where the step has no such role."""
    return [r for folder in place.all(role) for group in read_images(folder, place.store).values() for r in group]


def _decoded(records: Sequence[ImageRecord], config: LoraConfig) -> np.ndarray | list[np.ndarray]:
    """Return the pixels for fine-tuning: squares, or images in their own size for buckets."""
    paths: list[str | Path] = [r.path for r in records]
    if config.bucket_step_px:
        return [read_rgb(path) for path in paths]
    return decode_square(paths, resolution_px=config.resolution_px, workers=2)


def _captions(records: Sequence[ImageRecord]) -> list[str]:
    return [plane_from_label(r.plane).prompt for r in records]
