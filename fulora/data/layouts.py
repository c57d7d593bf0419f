"""The two published layouts, written: a list of images and the images it names.

In: images and what the lists say of them. Out: a folder that `fulora.data.sources.read_source` reads.
Source: Zenodo 3904280 (Burgos-Artizzu et al. 2020) and Zenodo 7540448 (Sendra-Balcells et al. 2023).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fulora.data import african, spanish
from fulora.data.sources import ReadSource


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedImage:
    """An image as the published lists describe it."""

    name: str
    """File name without `.png`."""
    patient: int
    """Patient number; the African numbers restart in each country."""
    plane: str
    """Label of the plane: `Fetal brain`."""
    train: bool
    """Whether it is of the published training split."""
    centre: str = ""
    """Country of an African image; its folder."""
    machine: str = ""
    """Ultrasound machine of a Spanish image."""
    operator: str = "Op. 1"
    """Operator of a Spanish image."""
    brain_plane: str = "Not A Brain"
    """Plane within the brain of a Spanish image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A published layout."""

    list_name: str
    """File name of the list."""
    delimiter: str
    """Between the cells of the list."""
    columns: tuple[str, ...]
    """Column names in their order, spaces included."""
    cells: Callable[[ListedImage], dict[str, str]]
    """Returns the cells of an image's row by column."""
    path: Callable[[ListedImage], str]
    """Returns an image's path below the folder."""


def _spanish_cells(image: ListedImage) -> dict[str, str]:
    return {
        "Image_name": image.name,
        "Patient_num": str(image.patient),
        "Plane": image.plane,
        "Brain_plane": image.brain_plane,
        "Operator": image.operator,
        "US_Machine": image.machine,
        "Train ": str(int(image.train)),
    }


def _african_cells(image: ListedImage) -> dict[str, str]:
    return {
        "Patient_num": str(image.patient),
        "Plane": image.plane,
        "Train": str(int(image.train)),
        "Center": image.centre,
        "Filename": image.name,
    }


LAYOUTS: dict[ReadSource, Layout] = {
    "spanish": Layout(
        list_name=spanish.LIST_NAME,
        delimiter=";",
        columns=("Image_name", "Patient_num", "Plane", "Brain_plane", "Operator", "US_Machine", "Train "),
        cells=_spanish_cells,
        path=lambda image: f"Images/{image.name}.png",
    ),
    "african": Layout(
        list_name=african.LIST_NAME,
        delimiter=",",
        columns=("Patient_num", "Plane", "Train", "Center", "Filename"),
        cells=_african_cells,
        path=lambda image: f"{image.centre}/{image.name}.png",
    ),
}
"""The layout of each source."""


def write_source(folder: Path, source: ReadSource, images: Iterable[tuple[ListedImage, np.ndarray]]) -> None:
    """Write a source in its published layout: images uint8 [H, W] as PNG, and the list of them, in their order.

    The images are taken one at a time. Raises OSError where the folder cannot be written.
    """
    layout = LAYOUTS[source]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for listed, pixels in images:
        path = folder / layout.path(listed)
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows.append(layout.cells(listed))
    write_list(folder / layout.list_name, rows, columns=layout.columns, delimiter=layout.delimiter)


def write_list(
    path: Path,
    rows: Iterable[Mapping[str, str]],
    *,
    columns: Sequence[str],
    delimiter: str,
    encoding: str = "utf-8",
) -> None:
    """Write a list of images: a header and a row per image, cells by column; other cells of a row are left out."""
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
