"""Writing images as PNG: images per second and core, and bytes, of Pillow at several levels and of other encoders.

    python benchmarks/png.py --out benchmarks/results/png.json

The images are ultrasound-like: phantoms with speckle, grey in three channels as the sampler gives them. The first row
is all that a shard does with an image beside the device: PNG by Pillow at level 2, both hashes, the row of metadata; it
must keep up with 10 images/s on 4 cores. Encoders that are not installed are said to be lacking.
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
from fulora.diffusion.sampler import SampleRow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    real: Path | None = None
    """Folder with real images (PNG or JPEG, searched through), to encode their middles; phantoms without it."""
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
    if options.real is None:
        grey, _ = generic_images(options.images, seed=0, resolution_px=options.resolution_px)
        images = [tinted(speckled(image, index), index) for index, image in enumerate(grey)]
    else:
        images = [tinted(image, index) for index, image in enumerate(middles(options))]
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


def speckled(image: np.ndarray, seed: int) -> np.ndarray:
    """Return a grey image float64 [side, side] with speckle, correlated over neighbours as a decoder's is."""
    height, width = image.shape
    noise = np.random.default_rng(seed).normal(0, 10, (height + 2, width + 2))
    return image + sum(noise[y : y + height, x : x + width] for y in range(3) for x in range(3)) / 3


def tinted(image: np.ndarray, seed: int) -> np.ndarray:
    """Return uint8 [side, side, 3] whose channels differ by a level here and there, as a decoder's do."""
    height, width = image.shape
    slow = np.random.default_rng(seed).normal(0, 1.0, (height // 16 + 1, width // 16 + 1, 3))
    tint = np.repeat(np.repeat(slow, 16, 0), 16, 1)[:height, :width]
    return np.ascontiguousarray((image[..., None] + tint).clip(0, 255).round().astype(np.uint8))


def middles(options: Options) -> list[np.ndarray]:
    """Return the middles of real images, grey uint8 [side, side]."""
    from PIL import Image

    files = sorted(file for file in options.real.rglob("*") if file.suffix.lower() in (".png", ".jpg", ".jpeg"))
    side = options.resolution_px
    found = []
    for file in files[: options.images]:
        image = Image.open(file).convert("L")
        if min(image.size) < side:
            image = image.resize((max(side, image.width), max(side, image.height)), Image.Resampling.BICUBIC)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        found.append(np.asarray(image.crop((left, top, left + side, top + side))))
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

    found: dict[str, Callable[[np.ndarray], bytes]] = {}
    if importlib.util.find_spec("pyarrow") is not None:
        from sweeps.images.draw import encoded

        row = SampleRow("brain-euler-00000-1", "brain", "a photo of fetal brain", "euler", 1)
        found["as a shard keeps it"] = lambda image: encoded(row, image, {})[1]
    else:
        results.lacks("pyarrow: what a shard does with an image")
    found |= {f"Pillow, level {level}": pillow(level) for level in (2, 1, 3, 4, 6, 9)}
    if importlib.util.find_spec("cv2") is not None:
        import cv2

        def opencv(level: int) -> Callable[[np.ndarray], bytes]:
            flags: list[Any] = [cv2.IMWRITE_PNG_COMPRESSION, level]
            return lambda image: cv2.imencode(".png", image[..., ::-1], flags)[1].tobytes()

        found |= {f"OpenCV, level {level}": opencv(level) for level in (1, 2, 4, 6)}
    else:
        results.lacks("cv2 (opencv-python-headless)")
    if importlib.util.find_spec("imagecodecs") is not None:
        import imagecodecs

        for level in (1, 2, 4, 6):
            found[f"libpng by imagecodecs, level {level}"] = lambda image, level=level: imagecodecs.png_encode(
                image, level
            )
            found[f"libspng by imagecodecs, level {level}"] = lambda image, level=level: imagecodecs.spng_encode(
                image, level
            )
    else:
        results.lacks("imagecodecs")
    return found


if __name__ == "__main__":
    main()
