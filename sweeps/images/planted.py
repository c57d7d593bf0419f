"""Copies planted for the near-copy audit: altered training images with their features, made once for all ranks.

In: LoRA's training images as decoded for their features, the judge. Out: features.npy, pixels.npy, planted.parquet. The
alterations are `fulora.evaluate.planted`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fulora.evaluate.planted import PlantedCopies, plant_copies
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.images.features import read_features
from sweeps.images.quality_plan import PlantedConfig

_FEATURES, _PIXELS, _COPIES = "features.npy", "pixels.npy", "planted.parquet"


def take_planted(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Plant the copies and take their features."""
    from fulora.device import resolve_device
    from fulora.evaluate.features import choose_features, features_from_classifier
    from fulora.evaluate.judge import load_judge

    config: PlantedConfig = step.config
    judge, device = load_judge(place.of("judge")), resolve_device("auto")
    own = features_from_classifier(judge.model, judge.name, device=device)
    extractor = choose_features(config.feature_weights, own, device=device)
    planted = plant_copies(read_features(place.of("learned")).pixels, per_kind=config.per_kind, seed=config.seed)
    np.save(place.out / _FEATURES, extractor(planted.pixels))
    np.save(place.out / _PIXELS, planted.pixels)
    pq.write_table(pa.table({"kind": planted.kinds, "source": planted.sources}), place.out / _COPIES)
    return {"features": extractor.name, "num_images": len(planted.kinds), "device": device}


def read_planted(folder: Path) -> tuple[PlantedCopies, np.ndarray]:
    """Return the planted copies in a step's folder, and their features float32 [N, D]."""
    table = pq.read_table(folder / _COPIES).to_pydict()
    pixels, kinds, sources = np.load(folder / _PIXELS), tuple(table["kind"]), tuple(table["source"])
    return PlantedCopies(pixels=pixels, kinds=kinds, sources=sources), np.load(folder / _FEATURES)
