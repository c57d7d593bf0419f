"""Pixels of image files: decoded, resized to squares, and kept in a memory-mapped store.

In: paths or records of images (grey, RGB, with alpha, with a palette, 16 bits). Out: uint8 arrays.
Source: paper section 4 (images resized to a square, aspect not kept).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from fulora.errors import InputError, fault

if TYPE_CHECKING:
    from fulora.data.records import ImageRecord

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for a file that is not an image, truncated, corrupt or too large."""

_CHUNK = 64
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_INDEX = "index.json"


def num_threads() -> int:
    """Return the number of threads that decode images: the cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(16, cores or 1))


def reason(error: Exception) -> str:
    """Return why an image cannot be decoded; Pillow's own text for a file of another kind names a memory address."""
    return "not an image file" if isinstance(error, UnidentifiedImageError) else str(error)


def open_verified(data: bytes) -> Image.Image:
    """Return the opened image after checking its checksums and end; raises one of `UNREADABLE`.

    Decoding alone does not detect a PNG without its last chunk, nor any where Pillow is set to load truncated images.
    """
    if data.startswith(_PNG_START) and _PNG_END not in data:
        raise OSError("the PNG file is truncated: it has no end")
    Image.open(io.BytesIO(data)).verify()
    return Image.open(io.BytesIO(data))


def decode(image: Image.Image) -> Image.Image:
    """Return the decoded image in mode L or RGB.

    Sixteen bits are scaled to eight (Pillow would clip them); transparent pixels are laid over black, the background
    of an ultrasound image.
    """
    image.load()
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.size and (deep.min() < 0 or deep.max() > 65535):
            raise ValueError("pixels of more than 16 bits have no known range")
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def grey_of(image: Image.Image) -> np.ndarray:
    """Return uint8 [H, W] of a decoded image; a colour image of equal channels gives exactly that channel."""
    return np.asarray(image if image.mode == "L" else image.convert("L"))


def pixel_hash(pixels: np.ndarray) -> str:
    """Return the SHA-256 of an image's size and grey pixels, in hex; takes uint8 [H, W] or [H, W, 3]."""
    grey = pixels if pixels.ndim == 2 else grey_of(Image.fromarray(pixels))
    height, width = grey.shape
    return hashlib.sha256(f"{width}x{height}:".encode() + grey.tobytes()).hexdigest()


def read_grey(path: Path | str) -> np.ndarray:
    """Return an image file as uint8 [H, W]. Raises InputError naming a file that cannot be decoded."""
    return grey_of(_load(path)).copy()


def read_rgb(path: Path | str) -> np.ndarray:
    """Return an image file as uint8 [H, W, 3]. Raises InputError naming a file that cannot be decoded."""
    return np.array(_load(path).convert("RGB"))


def decode_square(
    paths: Sequence[Path | str], *, resolution_px: int, workers: int, sha256: Sequence[str] = ()
) -> np.ndarray:
    """Return images as uint8 [N, R, R, 3], in the order of the paths, on `workers` threads.

    Pillow's bilinear resize, which averages when it shrinks, to a square; the aspect is not kept. Raises InputError
    naming a file that cannot be decoded, or whose hash is not the one given for it in `sha256`.
    Source: paper section 4; torchvision's `Resize((R, R))`.
    """
    if resolution_px < 1:
        raise InputError(fault("resolution_px", resolution_px, "is not a positive number", "Give at least 1."))
    out = np.empty((len(paths), resolution_px, resolution_px, 3), dtype=np.uint8)

    def place(index: int) -> None:
        image = _load(paths[index], sha256[index] if sha256 else "")
        pixels = np.asarray(image.resize((resolution_px, resolution_px), Image.Resampling.BILINEAR))
        out[index] = pixels[..., None] if pixels.ndim == 2 else pixels

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        list(pool.map(place, range(len(paths))))
    return out


class PixelStore:
    """Square images in one memory-mapped file, found by image id."""

    def __init__(self, pixels: np.ndarray, image_ids: Sequence[str]) -> None:
        """Take uint8 [N, R, R, 3], usually mapped, and the id of each."""
        self.pixels = pixels
        self.image_ids = tuple(image_ids)
        self._row = {image_id: row for row, image_id in enumerate(self.image_ids)}

    @property
    def resolution_px(self) -> int:
        """Return the side of an image."""
        return int(self.pixels.shape[1])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    def rows(self, image_ids: Sequence[str]) -> np.ndarray:
        """Return uint8 [len, R, R, 3] in the order asked for, a copy. Raises InputError for an unknown id."""
        return PixelRows([self], image_ids)[:]


class PixelRows:
    """Images of several stores in a given order, read from the mapped files when indexed.

    Acts as an array uint8 [N, R, R, 3]; indexing by row numbers or a slice gives a copy of those rows.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, stores: Sequence[PixelStore], image_ids: Sequence[str]) -> None:
        """Find each id in the stores. Raises InputError for one that is in none, or stores of different resolutions."""
        sides = {store.resolution_px for store in stores}
        if len(sides) != 1:
            raise InputError(fault("stores", sorted(sides), "are not of one resolution", "Write them at the same."))
        found = {i: (k, row) for k, store in reversed([*enumerate(stores)]) for i, row in store._row.items()}
        missing = [image_id for image_id in image_ids if image_id not in found]
        if missing:
            raise InputError(
                fault(
                    "image_id",
                    missing[0],
                    f"is not in the pixel store ({len(missing)} are not)",
                    "Write the store from the catalog that lists them.",
                )
            )
        self._pixels = [store.pixels for store in stores]
        self._places = np.array([found[image_id] for image_id in image_ids], dtype=np.int64).reshape(-1, 2)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (N, R, R, 3)."""
        return (len(self), *self._pixels[0].shape[1:])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._places)

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return uint8 [len, R, R, 3], a copy of these rows."""
        places = self._places[rows]
        out = np.empty((len(places), *self.shape[1:]), dtype=np.uint8)
        for position, (store, row) in enumerate(places):
            out[position] = self._pixels[store][row]
        return out


def write_store(folder: Path, records: Sequence[ImageRecord], resolution_px: int) -> None:
    """Write a pixel store of the records; a complete store of the same images and resolution is kept.

    The name of the pixel file holds a hash of its content and the index is renamed into place last, so a reader sees
    the old store or the new one, never a partial one. Raises InputError for an image that cannot be decoded or a
    repeated id, OSError where the disk cannot be written.
    """
    ids = [record.image_id for record in records]
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise InputError(fault("image_id", twice, "occurs twice in the records", "Give every image once."))
    folder = Path(folder)
    shape = (len(records), resolution_px, resolution_px, 3)
    content = hashlib.sha256(json.dumps([shape, [(r.image_id, r.sha256) for r in records]]).encode()).hexdigest()
    pixels_name = f"pixels-{content[:16]}.npy"
    if _finished(folder, content):
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{pixels_name}.{uuid.uuid4().hex}"
    try:
        # Written, not mapped: a full disk then raises OSError, not a bus error.
        with temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in _chunks(records, resolution_px):
                file.write(chunk.data)
        os.replace(temporary, folder / pixels_name)
    finally:
        temporary.unlink(missing_ok=True)
    index = {
        "content": content,
        "resolution_px": resolution_px,
        "pixels": pixels_name,
        "image_ids": ids,
        "sha256": [record.sha256 for record in records],
    }
    part = folder / f".{_INDEX}.{uuid.uuid4().hex}"
    try:
        part.write_text(json.dumps(index), encoding="utf-8")
        os.replace(part, folder / _INDEX)
    finally:
        part.unlink(missing_ok=True)
    for old in folder.glob("pixels-*.npy"):
        if old.name != pixels_name:
            old.unlink(missing_ok=True)


def open_store(folder: Path) -> PixelStore:
    """Return the store in a folder, its pixels mapped read-only. Raises InputError where there is no finished store."""
    try:
        index = json.loads((Path(folder) / _INDEX).read_text(encoding="utf-8"))
        return PixelStore(np.load(Path(folder) / index["pixels"], mmap_mode="r"), index["image_ids"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(fault("pixel store", str(folder), f"cannot be opened ({error})", "Write it again.")) from error


def _finished(folder: Path, content: str) -> bool:
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        return index["content"] == content and len(open_store(folder)) == len(index["image_ids"])
    except (OSError, ValueError, KeyError):
        return False


def _chunks(records: Sequence[ImageRecord], resolution_px: int) -> Iterator[np.ndarray]:
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        yield decode_square(
            [record.path for record in chunk],
            resolution_px=resolution_px,
            workers=num_threads(),
            sha256=[record.sha256 for record in chunk],
        )


def _load(path: Path | str, sha256: str = "") -> Image.Image:
    try:
        data = Path(path).read_bytes()
        image = decode(Image.open(io.BytesIO(data)))
    except UNREADABLE as error:
        raise InputError(
            fault("image", str(path), f"cannot be decoded ({reason(error)})", "Get the file again.")
        ) from error
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(fault("image", str(path), "is not the file in the catalog", "Build the catalog again."))
    return image
