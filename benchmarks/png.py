"""Writing images as PNG: images per second and core, and bytes, of Pillow at several levels and of other encoders.

    python benchmarks/png.py --out benchmarks/results/png.json

The images are ultrasound-like: phantoms with speckle, grey in three channels as the sampler gives them. The sampler's
own writing (`level 4` of Pillow) is the first row. Encoders that are not installed are said to be lacking.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from command_line import options_of
from recording import Results
from turns import Turns

from fulora.data.phantoms import generic_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    resolution_px: int = 512
    """Side of the images."""
    images: int = 16
    """Images in a round."""
    rounds: int = 3
    """Rounds of each encoder."""
    seconds: float = 0.0
    """Time for the encoders, the first of them first; 0: as long as it takes."""
    device: str = "cpu"
    """Not used: encoding is the CPU's."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, print a table, write the JSON as it grows."""
    options = options_of(Options, __doc__)
    results = Results(options)
    images = speckled(options.images, options.resolution_px)
    turns = Turns(
        results, device="cpu", unit="images", per_round=len(images), rounds=options.rounds, seconds=options.seconds
    )
    makers = encoders(results)
    turns.measure(
        {name: lambda encode=encode: lambda: [encode(image) for image in images] for name, encode in makers.items()}
    )
    for name, files in turns.first.items():
        row = results.found["contenders"][name]
        results.row("contenders", name, row | {"bytes_per_image": float(np.mean([len(file) for file in files]))})
    print(results.text())


def speckled(count: int, side: int) -> list[np.ndarray]:
    """Return images uint8 [side, side, 3] of grey speckle, correlated over neighbours as a decoder's are."""
    grey, _ = generic_images(count, seed=0, resolution_px=side)
    found = []
    for index, image in enumerate(grey):
        noise = np.random.default_rng(index).normal(0, 10, (side + 2, side + 2))
        smooth = sum(noise[y : y + side, x : x + side] for y in range(3) for x in range(3)) / 3
        tinted = image[..., None] + smooth[..., None] + np.array([0.0, 0.4, -0.4])  # a decoder's greys differ a little
        found.append(np.ascontiguousarray(tinted.clip(0, 255).astype(np.uint8)))
    return found


def encoders(results: Results) -> dict[str, Callable[[np.ndarray], bytes]]:
    """Return the encoders that are installed, by name, this project's setting first."""
    from PIL import Image

    def pillow(level: int) -> Callable[[np.ndarray], bytes]:
        def encode(image: np.ndarray) -> bytes:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG", compress_level=level)
            return buffer.getvalue()

        return encode

    found: dict[str, Callable[[np.ndarray], bytes]] = {
        f"Pillow, level {level}": pillow(level) for level in (4, 1, 2, 3, 6, 9)
    }
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        def opencv(level: int) -> Callable[[np.ndarray], bytes]:
            flags: list[Any] = [cv2.IMWRITE_PNG_COMPRESSION, level]
            return lambda image: cv2.imencode(".png", image[..., ::-1], flags)[1].tobytes()

        found |= {f"OpenCV, level {level}": opencv(level) for level in (1, 4, 6)}
    else:
        results.lacks("cv2 (opencv-python-headless)")
    if importlib.util.find_spec("imagecodecs") is not None:
        import imagecodecs

        found |= {
            f"imagecodecs, level {level}": lambda image, level=level: imagecodecs.png_encode(image, level=level)
            for level in (1, 4, 6)
        }
    else:
        results.lacks("imagecodecs")
    return found


if __name__ == "__main__":
    main()
