"""Standardised grey thumbnails and nearest-neighbour search, for the near-copy audit.

In: pixels. Out: thumbnails, rows of unit length, nearest rows with their distances.
"""

from __future__ import annotations

import numpy as np

THUMBNAIL_PX = 32
"""Side of thumbnails: small enough that speckle and compression do not hide a copy."""
_LUMA = (np.float32(299), np.float32(587), np.float32(114))
"""Thousandths of the channels in grey (ITU-R BT.601, as Pillow has it): exact in float32, so grey images stay grey."""


def grey_thumbnails(pixels: np.ndarray, block: int) -> np.ndarray:
    """Return area averages float64 [N, 32, 32] of uint8 [N, H, W, 3] or [N, H, W], `block` images at a time at most."""
    down, across = (area_weights(side) for side in pixels.shape[1:3])
    out = np.empty((len(pixels), THUMBNAIL_PX, THUMBNAIL_PX))
    step = max(1, min(block, 64))  # Floats take eight times the memory of the images, more than the products.
    for start in range(0, len(pixels), step):
        part = pixels[start : start + step]
        if part.ndim == 4:
            red, green, blue = (part[..., channel] * _LUMA[channel] for channel in range(3))
            part = (red + green + blue).astype(np.float64) / 1000
        rows = part.reshape(-1, part.shape[2]).astype(np.float64) @ across.T
        out[start : start + step] = down @ rows.reshape(len(part), -1, THUMBNAIL_PX)
    return out


def area_weights(side: int) -> np.ndarray:
    """Return the weights float64 [32, side] that average `side` pixels by area; rows sum to 1."""
    edges = np.linspace(0, side, THUMBNAIL_PX + 1)
    cells = np.arange(side)
    shared = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return np.maximum(shared, 0) * (THUMBNAIL_PX / side)


def normalised(small: np.ndarray) -> np.ndarray:
    """Return rows [N, D] at mean 0 and length 1, [N, D + 1] as `unit_rows`; an image without contrast becomes zeros.

    Between two of them the Euclidean distance is the RMS difference at deviation 1.
    """
    centred = small - small.mean(1, keepdims=True)
    return unit_rows(np.where(centred.std(1, keepdims=True) < 1e-3, 0, centred))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Return rows [N, D] at length 1 in float64 [N, D + 1]; a row of zeros becomes 1 in the added column, and so is
    orthogonal to all other rows."""
    rows = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    flat = lengths <= 1e-9
    out = np.zeros((len(rows), rows.shape[1] + 1))
    out[:, :-1] = np.where(flat[:, None], 0, rows / np.where(flat, 1, lengths)[:, None])
    out[:, -1] = flat
    return out


def nearest_rows(rows: np.ndarray, others: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of the nearest of `others` and the distance to it, int64 and float64 [N], of rows of length 1.

    The nearest has the largest product; its distance is then taken from the difference, so that a copy's is 0.
    """
    nearest = np.empty(len(rows), dtype=np.int64)
    distance = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        nearest[part] = (rows[part] @ others.T).argmax(1)
        distance[part] = np.linalg.norm(rows[part] - others[nearest[part]], axis=1)
    return nearest, distance
