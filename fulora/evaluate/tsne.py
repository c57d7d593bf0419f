"""t-SNE embedding of real and synthetic images, per plane.

In: features, planes and image ids per source. Out: one point per image, and notes on missing images.
Source: van der Maaten and Hinton, JMLR 9 (2008) 2579; paper Figure 3 (35 images per source and plane, because the
African thorax has 40). Deviates: seeded, while the released code's is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fulora.planes import PLANES, TESTED_PLANES
from fulora.seeds import derive_seed, numpy_rng

PERPLEXITY = 30.0
"""scikit-learn's default; lower for planes with too few points."""
_TESTED = tuple(plane.name for plane in TESTED_PLANES)

LEAST_POINTS = 4
"""Planes with fewer points are left out."""


class SourceFeatures(NamedTuple):
    """The images of one source."""

    features: np.ndarray
    """float32 [N, D]."""
    planes: Sequence[int] | np.ndarray
    """Plane index per image."""
    image_ids: Sequence[str]
    """Id per image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TsneEmbedding:
    """The points of all planes."""

    rows: list[dict[str, str | float]]
    """One row per image: plane, source, image_id, x, y. Each plane is embedded separately."""
    notes: list[str]
    """Sentences on missing images."""


def embed_planes(
    sources: Mapping[str, SourceFeatures],
    *,
    per_source: int = 35,
    seed: int,
    planes: Sequence[str] = _TESTED,
) -> TsneEmbedding:
    """Return the t-SNE of each plane: `per_source` images of each source, drawn by the seed, or all if there are fewer.

    The order of the images does not matter. A source without images of a plane is noted and left out of it; so is a
    plane with fewer than LEAST_POINTS images in all.
    """
    rows: list[dict[str, str | float]] = []
    notes: list[str] = []
    short: dict[str, list[str]] = {}
    index = {plane.name: plane.index for plane in PLANES}
    for plane in planes:
        names: list[tuple[str, str]] = []
        parts: list[np.ndarray] = []
        for source, given in sources.items():
            found = np.flatnonzero(np.asarray(given.planes) == index[plane])
            found = np.array(sorted(found, key=[str(name) for name in given.image_ids].__getitem__), dtype=np.int64)
            if len(found) < per_source:
                short.setdefault(source, []).append(f"{plane} {len(found)}")
            rng = numpy_rng(seed, "tsne", plane, source)
            taken = np.sort(rng.permutation(len(found))[:per_source])
            names += [(source, given.image_ids[int(row)]) for row in found[taken]]
            parts.append(np.asarray(given.features)[found[taken]].astype(np.float64))
        if len(names) < LEAST_POINTS:
            notes.append(f"t-SNE of {plane} is left out: {len(names)} images are too few.")
            continue
        points = _embedded(np.concatenate(parts), derive_seed(seed, "tsne", plane))
        for (source, image_id), (x, y) in zip(names, points, strict=True):
            rows.append({"plane": plane, "source": source, "image_id": image_id, "x": float(x), "y": float(y)})
    wanted = f"t-SNE uses {per_source} images per source and plane; there are fewer"
    notes += [f"{wanted} {source} ones: {', '.join(counts)}" for source, counts in short.items()]
    return TsneEmbedding(rows=rows, notes=notes)


def _embedded(features: np.ndarray, seed: int) -> np.ndarray:
    """Return the points [N, 2] of features [N, D]; the perplexity is at most a third of N."""
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # Equal features have no principal axes to start from.
    start = "pca" if np.ptp(features, axis=0).max() > 0 and min(features.shape) >= 2 else "random"
    return TSNE(perplexity=perplexity, init=start, random_state=seed).fit_transform(features)
