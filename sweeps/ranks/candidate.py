"""Try one candidate of a search: fine-tune it, reporting its held-out loss, and where asked for sample from it.

In: a step with its selections, and the judge. Out: the adapter, and samples/*.png where KID is the objective.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from fulora.data.pixels import decode_square
from sweeps.core.selections import read_images
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.images.draw import open_sampler
from sweeps.ranks.candidates import CandidateConfig
from sweeps.ranks.finetune import finetune_step


def try_candidate(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Fine-tune one candidate and return its metrics; killed and called again, it resumes from its checkpoint."""
    trial: CandidateConfig = step.config
    num_steps = trial.lora.num_steps

    def on_log(row: dict) -> None:
        if "heldout_loss" in row and row["step"] < num_steps:
            note = f"held-out loss {row['heldout_loss']:.4f}"
            values = {"fraction": row["step"] / num_steps, "note": note}
            # KID comes at the end; Optuna asks for its objective in every report.
            report({"kid": math.nan, **values, "step": row["step"], "heldout_loss": row["heldout_loss"]})

    metrics = finetune_step(step, place, on_log)
    return metrics | (_kid(step, place) if trial.kid is not None else {})


def _kid(step: Step, place: Place) -> dict[str, Any]:
    """Return the KID of images sampled from the adapter, as for comparing ranks; they are kept with it."""
    from fulora.device import resolve_device
    from fulora.diffusion.sampler import plan_samples
    from fulora.evaluate.features import choose_features, features_from_classifier
    from fulora.evaluate.fidelity import kid_full
    from fulora.evaluate.judge import load_judge

    trial: CandidateConfig = step.config
    assert trial.kid is not None
    rows = list(plan_samples(trial.kid.sampling, seed=trial.kid.seed))
    drawn = open_sampler(
        replace(trial.base, spec=place.store.local(trial.base.spec)), place.out, trial.kid.sampling
    ).sample(rows)
    folder = place.out / "samples"
    folder.mkdir()
    files = [folder / f"{row.image_id}.png" for row in rows]
    for file, image in zip(files, drawn, strict=True):
        Image.fromarray(image).save(file)
    judge, device = load_judge(place.of("judge")), resolve_device("auto")
    own = features_from_classifier(judge.model, judge.name, device=device)
    extractor = choose_features(place.local(trial.kid.feature_weights), own, device=device)
    side = trial.kid.judge_resolution_px if extractor.name == judge.name else trial.base.resolution_px
    others = [r.path for group in read_images(place.of("others"), place.store).values() for r in group]

    def features_of(paths: list[Any]) -> np.ndarray:
        return extractor(decode_square(paths, resolution_px=side, workers=2))

    return {
        "kid": kid_full(features_of(others), features_of(files)), "num_generated": len(drawn),
        "num_real": len(others), "features": extractor.name,
    }  # fmt: skip
