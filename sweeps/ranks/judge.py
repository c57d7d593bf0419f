"""Train the judge. The work itself is `fulora.evaluate.judge`.

In: a step, and its selection unless it is trained on new phantoms. Out: model.safetensors and judge.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fulora.data.phantoms import spanish_like
from fulora.data.pixels import decode_square
from fulora.data.records import ImageRecord
from fulora.evaluate.judge import as_rgb, save_judge, train_judge
from fulora.planes import plane_from_label
from fulora.seeds import derive_seed
from sweeps.core.selections import read_images
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.ranks.plan import JudgeTrial

Labelled = tuple[np.ndarray, np.ndarray]


def train_judge_step(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Train the judge and return its metrics."""
    trial: JudgeTrial = step.config
    training, heldout, words = _images(step, place)
    # The same number of steps for any number of images, so that a judge of a small real set is trained as well.
    epochs = max(1, round(trial.judge.epochs * trial.judge.num_images / len(training[0])))
    config = replace(trial.judge, epochs=epochs)

    speeds: list[float] = []

    def on_epoch(row: dict) -> None:
        speeds.append(row["images_per_second"])
        report({"fraction": row["epoch"] / config.epochs, "note": f"{row['accuracy']:.1f} % accuracy"})

    judge = train_judge(*training, config=config, seed=trial.seed, heldout=heldout, what=words, on_epoch=on_epoch)
    save_judge(judge, place.out)
    return {
        "heldout_accuracy": judge.heldout_accuracy,
        "num_images": judge.num_images,
        "num_heldout": judge.num_heldout,
        "judge": judge.name,
        "trusted": judge.trusted,
        "images_per_second": speeds[-1],
    }


def _images(step: Step, place: Place) -> tuple[Labelled, Labelled, str]:
    """Return (images, planes) to train on, (images, planes) of other patients, and what they are in words."""
    trial: JudgeTrial = step.config
    config = trial.judge
    if trial.phantoms:
        size = config.resolution_px
        training = spanish_like(config.num_images, seed=derive_seed(trial.seed, "training"), resolution_px=size)
        heldout = spanish_like(config.num_heldout, seed=derive_seed(trial.seed, "heldout"), resolution_px=size)
        return (
            (as_rgb(training.images), training.planes), (as_rgb(heldout.images), heldout.planes),
            "fresh Spanish-like phantoms",
        )  # fmt: skip
    chosen = read_images(place.of("images"), place.store)
    few = place.record_of(step.need("images")).notes
    words = "Spanish images" + (", some of them LoRA's training images" if few else " held out from LoRA")
    return _decoded(chosen["train"], config.resolution_px), _decoded(chosen["heldout"], config.resolution_px), words


def _decoded(records: Sequence[ImageRecord], resolution_px: int) -> Labelled:
    images = decode_square([r.path for r in records], resolution_px=resolution_px, workers=2)
    return images, np.array([plane_from_label(r.plane).index for r in records])
