"""The nearest training image under small rotations, shifts and scalings: a slightly moved copy is still a copy.

In: grey thumbnails [N, 32, 32]. Out: the nearest training image of each and the distance to it.
The central crop of an image, 80 % of its sides, is matched against every training image at 7 x 7 shifts of up to 6 % of
the side, rotations of -5, 0 and 5 degrees, and three scales (a crop of up to 6 % on each side, enlarged), upright and
mirrored.
Measured by `planted.plant_copies` with half of the patients held out (six draws of them), the percent of copies closer
than every held-out image by the whole thumbnail and by this. 100 Spanish images: crops to 90 % of the sides 24 and 100,
shifts of 5 % 20 and 100, rotations of 5 degrees 87 and 100; blended with 30 % of another image 99 and 88, so both are
used. 295 African images (four draws), by this: 21, 29 and 76 where women filed under two patients are on both sides,
as frames of one sweep then set the least held-out distance; 100, 100 and 100 where patients who share an identical
image are one (`clusters.merge_patients`), blended 65.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fulora.evaluate.thumbnails import THUMBNAIL_PX

WINDOW = 0.8
"""Fraction of an image's sides in the central crop."""
WINDOW_PX = 16
"""Side at which windows are compared: speckle and half a step of a shift do not hide a copy."""
SHIFTS = (-0.06, -0.04, -0.02, 0.0, 0.02, 0.04, 0.06)
"""Shifts tried in each direction, as fractions of the side."""
ROTATIONS = (-5.0, 0.0, 5.0)
"""Rotations tried, in degrees."""
SCALES = (0.88, 0.94, 1.0)
"""Scales tried: size of the window in a training image over that of the central crop."""
_PLACES = len(SHIFTS) ** 2
_MOVES = len(ROTATIONS) * len(SCALES) * _PLACES
_CHUNK = 16
"""Training images whose windows are held at once: 441 windows of 257 numbers each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aligned:
    """The nearest training image of each of N images, at its best alignment."""

    nearest: np.ndarray
    """Row of the training image, int64 [N]."""
    distance: np.ndarray
    """RMS difference of the standardised windows, float64 [N]: 0 a copy, 1.41 unrelated."""
    flipped: np.ndarray
    """Whether the mirrored image is the nearest, bool [N]."""


def nearest_aligned(small: np.ndarray, training: np.ndarray, block: int) -> Aligned:
    """Return the nearest of training thumbnails [M, 32, 32], M at least 1, to each of [N, 32, 32].

    5000 images against 100 take about 600 GFLOP in float32; memory is bounded by `block` and a constant.
    """
    upright, mirrored = (_windows(side, (0.0,), (1.0,), (0.0,))[:, 0] for side in (small, small[:, :, ::-1]))
    num = len(small)
    best, distance = np.full(num, -np.inf), np.full(num, np.inf)
    nearest, flipped = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=bool)
    for first in range(0, len(training), _CHUNK):
        found = _windows(training[first : first + _CHUNK], ROTATIONS, SCALES, SHIFTS)
        windows = found.reshape(-1, found.shape[-1])
        for is_mirrored, own in ((False, upright), (True, mirrored)):
            for start in range(0, num, block):
                part = own[start : start + block]
                products = part @ windows.T
                places = products.argmax(axis=1)
                likeness = products[np.arange(len(part)), places]
                better = np.flatnonzero(likeness > best[start : start + block])
                rows, places = start + better, places[better]
                best[rows] = likeness[better]
                distance[rows] = np.linalg.norm(part[better] - windows[places], axis=1)
                nearest[rows], flipped[rows] = first + places // _MOVES, is_mirrored
    return Aligned(nearest=nearest, distance=distance, flipped=flipped)


def _windows(
    small: np.ndarray, rotations: tuple[float, ...], scales: tuple[float, ...], shifts: tuple[float, ...]
) -> np.ndarray:
    """Return windows [N, moves, 16 * 16 + 1] in float32 of thumbnails, at mean 0 and length 1.

    Without contrast a window is zeros and a 1 in the last column, as in `thumbnails.unit_rows`.
    """
    parts = []
    for degrees in rotations:
        turned = _rotated(small.astype(np.float32), degrees)
        for scale in scales:
            weights = np.concatenate([_weights(scale, shift) for shift in shifts])
            sides = (len(small), len(shifts), WINDOW_PX, len(shifts), WINDOW_PX)
            found = (weights @ turned @ weights.T).reshape(sides).transpose(0, 1, 3, 2, 4)
            parts.append(found.reshape(len(small), len(shifts) ** 2, WINDOW_PX**2))
    rows = np.concatenate(parts, axis=1)
    rows -= rows.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    flat = lengths < 1e-3 * WINDOW_PX
    return np.concatenate([np.where(flat, 0, rows / np.where(flat, 1, lengths)), flat], axis=-1, dtype=np.float32)


def _weights(scale: float, shift: float) -> np.ndarray:
    """Return the weights float32 [16, 32] of a window's pixels along one side, linear between thumbnail pixels."""
    centres = ((np.arange(WINDOW_PX) + 0.5) / WINDOW_PX - 0.5) * WINDOW * scale + 0.5 + shift
    places = np.clip(centres * THUMBNAIL_PX - 0.5, 0, THUMBNAIL_PX - 1)
    apart = np.abs(places[:, None] - np.arange(THUMBNAIL_PX))
    return np.maximum(0, 1 - apart).astype(np.float32)


def _rotated(small: np.ndarray, degrees: float) -> np.ndarray:
    """Return thumbnails [N, 32, 32] rotated about their centre, bilinear; the edge pixels are repeated outside."""
    if degrees == 0:
        return small
    last = THUMBNAIL_PX - 1
    y, x = np.mgrid[: last + 1, : last + 1] - last / 2
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rows, columns = (np.clip(a + last / 2, 0, last) for a in (sine * x + cosine * y, cosine * x - sine * y))
    top, left = np.minimum(rows.astype(int), last - 1), np.minimum(columns.astype(int), last - 1)
    down, across = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    upper = small[:, top, left] * (1 - across) + small[:, top, left + 1] * across
    lower = small[:, top + 1, left] * (1 - across) + small[:, top + 1, left + 1] * across
    return upper * (1 - down) + lower * down
