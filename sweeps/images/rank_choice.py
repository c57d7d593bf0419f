"""Choose the rank that samples the training images, by a score of sampled images.

In: features of a small set of every rank, with the same prompts and seeds. Out: choice.json with the rank and why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fulora.errors import InputError, fault
from sweeps.core.files import write_json
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.images.features import read_features
from sweeps.images.quality import fidelity_rows, records_of
from sweeps.images.quality_plan import ChoiceConfig
from sweeps.images.rank_table import recognised

CHOICE_FILE = "choice.json"


def choose_rank(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Choose. Raises InputError if KID is the score and there are no held-out real images."""
    config: ChoiceConfig = step.config
    sets = list(zip(config.sets, map(read_features, place.all("sets")), strict=True))
    if config.choose_rank == "kid":
        extractor = str(place.record_of(step.need("others_features")).metrics["features"])
        real, others = read_features(place.of("others_features")), records_of(place, "others")
        rows, notes = fidelity_rows(sets, real, others, extractor, seed=config.seed)
        if not rows:
            remedy = "Choose by recognised, or name sampling.rank."
            raise InputError(fault("choose_rank", "kid", "; ".join(notes), remedy))
        kids = {which.rank: [r["kid"] for r in rows if r["adapter"] == which.label] for which, _ in sets}
        scores = {rank: sum(values) / len(values) for rank, values in kids.items() if rank is not None}
        what, shown = (
            "the lowest KID to patients LoRA is not trained on",
            {rank: f"{v:.4f}" for rank, v in scores.items()},
        )
    else:
        found = {which.rank: recognised(images, which.samplers)["recognised"] for which, images in sets}
        scores = {rank: -share for rank, share in found.items() if rank is not None}
        what, shown = "most often recognised by the judge", {rank: f"{-v:.1f} %" for rank, v in scores.items()}
    best = min(scores, key=lambda rank: (scores[rank], rank))
    others_text = ", ".join(f"rank {rank}: {text}" for rank, text in shown.items() if rank != best)
    number = len(sets[0][1].image_ids)
    why = f"rank {best} is sampled: {what} ({shown[best]}; {others_text}; {number} images each)"
    write_json(place.out / CHOICE_FILE, {"rank": best, "why": why})
    return {"rank": best, "notes": [why]}


def read_choice(folder: Path) -> int:
    """Return the rank that was chosen."""
    return int(json.loads((folder / CHOICE_FILE).read_text())["rank"])
