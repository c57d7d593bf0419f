"""Aspect buckets are those of the released code's trainer."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.diffusion.buckets import fit_to_bucket, select_bucket


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((959, 661), (576, 384)),  # the commonest size of the Spanish set
        ((512, 512), (512, 512)),
        ((1024, 1024), (512, 512)),
        ((300, 200), (256, 192)),  # nothing is enlarged: cut down to steps instead
        ((64, 64), (64, 64)),
    ],
)
def test_known_sizes(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert select_bucket(*size, resolution_px=512, step_px=64)[:2] == bucket


def test_any_bucket_fits_the_area_and_the_step_and_is_cut_from_a_resized_image() -> None:
    rng = np.random.default_rng(0)
    for width, height in rng.integers(64, 1500, (300, 2)).tolist():
        found = select_bucket(width, height, resolution_px=512, step_px=64)
        assert found.width * found.height <= 512**2
        assert found.width % 64 == found.height % 64 == 0 and found.width > 0
        assert found.width <= found.resized_width <= width and found.height <= found.resized_height <= height


def test_an_image_is_resized_and_its_middle_cut_out() -> None:
    image = np.zeros((661, 959, 3), np.uint8)
    image[:, 470:490] = 255
    found = select_bucket(959, 661, resolution_px=512, step_px=64)
    fitted = fit_to_bucket(image, found)
    assert fitted.shape == (384, 576, 3)
    assert abs(float(np.flatnonzero(fitted[200, :, 0] > 128).mean()) - 288) < 2


def test_an_image_below_one_step_is_refused() -> None:
    with pytest.raises(ValueError, match="63 x 500"):
        select_bucket(63, 500, resolution_px=512, step_px=64)


@pytest.mark.skipif("FULORA_REAL_DATA" not in os.environ, reason="FULORA_REAL_DATA is not set: no real images here")
def test_the_100_real_images_fall_into_the_buckets_of_the_release() -> None:
    """REFERENCE section 2."""
    files = sorted((Path(os.environ["FULORA_REAL_DATA"]) / "spanish" / "Images").glob("*.png"))
    sizes = [Image.open(file).size for file in files]
    counts = Counter(select_bucket(*size, resolution_px=512, step_px=64)[:2] for size in sizes)
    assert len(files) == 100
    assert (counts.pop((576, 384)), counts.pop((640, 384)), sum(counts.values())) == (66, 28, 6)
    assert (512, 512) not in counts
