"""Aspect-ratio buckets: the size at which an image is trained.

In: an image's width and height. Out: the size it is resized to, and the size of the centre crop.
Source: kohya-ss/sd-scripts `library/train_util.py`, BucketManager.select_bucket with `bucket_no_upscale`, as the
released FU-LoRA code runs it: sides are multiples of a step, the area is at most the square's, no image is enlarged.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Bucket(NamedTuple):
    """A training size, and the size an image is resized to before the centre crop."""

    width: int
    height: int
    resized_width: int
    resized_height: int


def select_bucket(width: int, height: int, *, resolution_px: int, step_px: int) -> Bucket:
    """Return the bucket of an image; `resolution_px` squared is the maximum area, `step_px` divides both sides.

    Raises ValueError where a side is below one step: such an image would have to be enlarged.
    """
    if min(width, height) < step_px:
        raise ValueError(f"an image of {width} x {height} pixels has a side below the buckets' step of {step_px}")
    aspect = width / height
    resized = (width, height)
    if width * height > resolution_px**2:
        # Two roundings: by the width first or by the height first; the one nearer to the image's aspect ratio wins.
        fit_width = math.sqrt(resolution_px**2 * aspect)
        fit_height = resolution_px**2 / fit_width
        by_width = _floor(fit_width, step_px)
        height_by_width = _floor(by_width / aspect, step_px)
        by_height = _floor(fit_height, step_px)
        width_by_height = _floor(by_height * aspect, step_px)
        error_by_width = abs(by_width / max(height_by_width, 1) - aspect)
        error_by_height = abs(width_by_height / max(by_height, 1) - aspect)
        if error_by_width < error_by_height:
            resized = (by_width, int(by_width / aspect + 0.5))
        else:
            resized = (int(by_height * aspect + 0.5), by_height)
    return Bucket(_floor(resized[0], step_px), _floor(resized[1], step_px), *resized)


def fit_to_bucket(image: np.ndarray, bucket: Bucket) -> np.ndarray:
    """Return an image uint8 [H, W, 3] resized and centre-cropped to a bucket, uint8 [height, width, 3]."""
    from PIL import Image

    resized = (bucket.resized_width, bucket.resized_height)
    if (image.shape[1], image.shape[0]) != resized:
        image = np.asarray(Image.fromarray(image).resize(resized, Image.Resampling.LANCZOS))
    top, left = (image.shape[0] - bucket.height) // 2, (image.shape[1] - bucket.width) // 2
    return image[top : top + bucket.height, left : left + bucket.width]


def _floor(length: float, step_px: int) -> int:
    """Return a length rounded to whole pixels, then down to a multiple of the step."""
    whole = int(length + 0.5)
    return whole - whole % step_px
