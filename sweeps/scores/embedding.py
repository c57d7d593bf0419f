"""t-SNE of Spanish, synthetic and African images, plane by plane. The work itself is `fulora.evaluate.tsne`.

In: a selection of real images, shards, the judge. Out: embedding.parquet.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fulora.data.pixels import decode_square
from fulora.data.records import ImageRecord
from fulora.planes import TESTED_PLANES, plane_from_label
from fulora.seeds import derive_seed
from sweeps.core.selections import read_images
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import write_table
from sweeps.images.rows import drawn_rows, record_of
from sweeps.scores.plan import EmbeddingConfig


def write_embedding(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Embed the images; the notes say where there are fewer than asked for."""
    from fulora.device import resolve_device
    from fulora.evaluate.features import choose_features, features_from_classifier
    from fulora.evaluate.judge import load_judge
    from fulora.evaluate.tsne import SourceFeatures, embed_planes

    config: EmbeddingConfig = step.config
    judge, device = load_judge(place.of("judge")), resolve_device("auto")
    own = features_from_classifier(judge.model, judge.name, device=device)
    extractor = choose_features(place.local(config.feature_weights), own, device=device, output=config.output)
    chosen = _in_order(step, place)
    side = extractor.resolution_px or config.resolution_px
    features = extractor(decode_square([r.path for r in chosen], resolution_px=side, workers=2))
    sources = {}
    for source in ("spanish", "synthetic", "african"):
        mine = [i for i, r in enumerate(chosen) if r.source == source]
        planes = np.array([plane_from_label(chosen[i].plane).index for i in mine])
        sources[source] = SourceFeatures(features[mine], planes, [chosen[i].image_id for i in mine])
    seed = derive_seed(config.seed, "embedding")
    embedding = embed_planes(sources, per_source=config.images_per_source, seed=seed)
    rows = ({**row, "features": extractor.name} for row in embedding.rows)
    write_table(place.out / "embedding.parquet", "embedding", rows)
    return {"features": extractor.name, "notes": list(embedding.notes), "device": device}


def _in_order(step: Step, place: Place) -> list[ImageRecord]:
    """Return the images plane by plane: Spanish, synthetic, African."""
    config: EmbeddingConfig = step.config
    real = [r for group in read_images(place.of("images"), place.store).values() for r in group]
    drawn: dict[str, ImageRecord] = {}
    for need in step.in_role("shards"):
        folder = place.folder_of(need)
        drawn |= {(r := record_of(row, folder)).image_id: r for row in drawn_rows(folder)}
    every = [*real, *(drawn[image_id] for image_id in config.synthetic)]
    return [
        r
        for plane in TESTED_PLANES
        for source in ("spanish", "synthetic", "african")
        for r in every
        if (r.plane, r.source) == (plane.name, source)
    ]
