"""The last steps of a phantom: what the machine burns into the picture, and the size it is wanted in.

In: grey in 0..1. Out: uint8.
Source: the two published data sets, whose images carry a grey bar, text, a depth ruler, calipers or a maker's sign.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from fulora.data.phantoms.machines import Machine

NATIVE_PX = (96, 128)
"""Height and width of a batch that is not resized to a square."""


def finish(grey: np.ndarray, machine: Machine, rng: np.random.Generator, resolution_px: int | None) -> np.ndarray:
    """Return the image with its markers, as a uint8 square of `resolution_px`, or in NATIVE_PX where that is None."""
    return resized(stored(grey, machine, rng), resolution_px)


def stored(grey: np.ndarray, machine: Machine, rng: np.random.Generator) -> np.ndarray:
    """Return the uint8 image a machine stores: its own size, markers burnt in."""
    image = np.clip(grey * 255.0 + 0.5, 0, 255).astype(np.uint8)
    _burn_in(image, machine, rng)
    return image


def resized(image: np.ndarray, resolution_px: int | None) -> np.ndarray:
    """Return the image as a square (aspect not kept, antialiased bilinear, as the study's decoder), or in NATIVE_PX."""
    height, width = NATIVE_PX if resolution_px is None else (resolution_px, resolution_px)
    if image.shape == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _burn_in(image: np.ndarray, machine: Machine, rng: np.random.Generator) -> None:
    """Write the machine's markers into the image, in place."""
    height, width = image.shape
    if machine.markers == "bar":
        top, bottom = height // 10, height // 2
        image[top:bottom, width - 4 : width - 2] = np.linspace(255, 0, bottom - top)[:, None]
    elif machine.markers == "text":
        for line in range(4):
            _text(image, 3 + 7 * line, width - 22, 5, rng)
    elif machine.markers == "corner":
        image[4:11, 6:8] = image[4:11, 12:14] = image[4:6, 6:14] = 235
    elif machine.markers == "ruler":
        image[4 : height - 4 : 8, 2:5] = 180
        _text(image, 3, 8, 4, rng)
    elif machine.markers == "calipers":
        for _ in range(2):
            row, column = rng.integers(height // 5, 4 * height // 5), rng.integers(width // 5, 4 * width // 5)
            image[row - 2 : row + 3, column] = image[row, column - 2 : column + 3] = 240
        _text(image, height - 8, 3, 6, rng)


def _text(image: np.ndarray, row: int, column: int, length: int, rng: np.random.Generator) -> None:
    """Write a word of random 3 x 5 glyphs: it looks like small print and says nothing."""
    for letter in range(length):
        glyph = rng.random((5, 3)) < 0.6
        part = image[row : row + 5, column + 4 * letter : column + 4 * letter + 3]
        np.maximum(part, (170 * glyph[: part.shape[0], : part.shape[1]]).astype(np.uint8), out=part)
