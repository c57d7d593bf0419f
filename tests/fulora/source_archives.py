"""Small sources in their published layouts, and archives of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fulora.data.layouts import ListedImage, write_source
from fulora.data.sources import ReadSource

SOURCES: tuple[ReadSource, ...] = ("spanish", "african")


def noise(number: int, side_px: int = 96) -> np.ndarray:
    """Return an image of noise, uint8 [side, side], which does not compress."""
    return np.random.default_rng(number).integers(0, 256, (side_px, side_px), dtype=np.uint8)


def tree(source: ReadSource, num_images: int = 6) -> dict[str, bytes]:
    """Return the files of a small source in its published layout, by path."""
    planes = ("Fetal abdomen", "Fetal brain", "Fetal femur", "Fetal thorax")
    images = [
        ListedImage(
            name={"spanish": f"Patient{number:05d}_Plane1_1_of_1", "african": f"patient{number:03d}_plane"}[source],
            patient=number, plane=planes[number % 4], train=number % 2 == 1, machine="Aloka",
            centre=("Ghana", "Malawi")[number % 2],
        )
        for number in range(num_images)
    ]  # fmt: skip
    with TemporaryDirectory() as made:
        folder = Path(made)
        write_source(folder, source, [(listed, noise(listed.patient)) for listed in images])
        written = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {"README.md": b"CC BY 4.0", **written}


def zip_of(files: dict[str, bytes], *, inside: str = "") -> bytes:
    """Return a zip, deflated."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(inside + name, content)
    return out.getvalue()


def tar_of(
    files: dict[str, bytes], *, inside: str = "Zenodo_dataset/", more: tuple[tarfile.TarInfo, ...] = ()
) -> bytes:
    """Return a tar.xz, as published: in a folder of its own; `more` are members without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(inside + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in more:
            archive.addfile(info)
    return out.getvalue()


PACK: dict[str, Callable[[dict[str, bytes]], bytes]] = {"spanish": zip_of, "african": tar_of}


def left_in(folder: Path) -> list[str]:
    """Return the names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
