"""The three readers of image sources, each with what a test needs to write and break its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.african import read_african
from fulora.data.folder import read_folder
from fulora.data.layouts import LAYOUTS as PUBLISHED
from fulora.data.layouts import ListedImage, write_list
from fulora.data.records import ImageRecord
from fulora.data.spanish import read_spanish
from fulora.errors import InputError

PLANE_LABELS = ("Other", "Fetal abdomen", "Fetal brain", "Fetal femur", "Fetal thorax")

Rows = list[tuple[dict[str, str], str]]
"""The cells of an image's row by column, and the image's path below the folder."""


@dataclass(frozen=True)
class Reader:
    """One reader with all a test needs to write and break its folder."""

    name: str
    source: str
    list_name: str
    columns: tuple[str, ...]
    separator: str
    plane: str
    """Column of the plane's label."""
    split: str
    """Column of the split."""
    file: str
    """Column of the file's name."""
    read: Callable[[Path], list[ImageRecord]]

    def row(self, number: int, label: str, split: int, centre: str) -> tuple[dict[str, str], str]:
        """Return a row of the list and the image's path below the folder."""
        if self.name in PUBLISHED:
            layout = PUBLISHED[self.name]  # type: ignore[index]
            stems = {"spanish": f"Patient{number:05d}_Plane1_1_of_{number}", "african": f"patient{number:03d}_plane"}
            image = ListedImage(
                name=stems[self.name], patient=number, plane=label, train=bool(split), centre=centre, machine="Aloka"
            )
            return layout.cells(image), layout.path(image)
        path = f"{centre}/{number}.png"
        return {
            "file_name": path,
            "plane": label,
            "patient": str(number),
            "centre": centre,
            "machine": "Aloka",
            "split": "train" if split else "test",
        }, path

    def rows(self) -> Rows:
        """Return six rows: five planes from one centre, and patient 1 of another."""
        good = [self.row(index + 1, label, 1 if index < 3 else 0, "Ghana") for index, label in enumerate(PLANE_LABELS)]
        return [*good, self.row(6 if self.name == "spanish" else 1, "Fetal brain", 1, "Egypt")]

    def write(
        self,
        folder: Path,
        rows: Rows | None = None,
        *,
        encoding: str = "utf-8",
        separator: str | None = None,
        columns: tuple[str, ...] | None = None,
    ) -> Path:
        """Write images and list, and return the folder."""
        rows = self.rows() if rows is None else rows
        for index, (_, path) in enumerate(rows):
            picture(folder / path, index)
        folder.mkdir(parents=True, exist_ok=True)
        write_list(
            folder / self.list_name, (cells for cells, _ in rows), columns=columns or self.columns,
            delimiter=separator or self.separator, encoding=encoding,
        )  # fmt: skip
        return folder


def picture(path: Path, index: int) -> None:
    """Write a grey image of 24 x 16 that no other index has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 24), dtype=np.uint8)).save(path)


def published(name: str, *, split: str, file: str, read: Callable[[Path], list[ImageRecord]]) -> Reader:
    layout = PUBLISHED[name]  # type: ignore[index]
    return Reader(
        name=name, source=name, list_name=layout.list_name, columns=layout.columns, separator=layout.delimiter,
        plane="Plane", split=split, file=file, read=read,
    )  # fmt: skip


SPANISH = published("spanish", split="Train ", file="Image_name", read=read_spanish)
AFRICAN = published("african", split="Train", file="Filename", read=read_african)
FOLDER = Reader(
    name="folder",
    source="african",
    list_name="images.csv",
    columns=("file_name", "plane", "patient", "centre", "machine", "split"),
    separator=",",
    plane="plane",
    split="split",
    file="file_name",
    read=lambda folder: read_folder(folder, source="african"),
)
READERS = (SPANISH, AFRICAN, FOLDER)


def faults(read: Callable[[Path], list[ImageRecord]], folder: Path) -> tuple[str, ...]:
    """Return what a reader says of a folder that it refuses."""
    with pytest.raises(InputError) as caught:
        read(folder)
    return caught.value.faults
