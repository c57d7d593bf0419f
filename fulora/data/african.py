"""The African set of five countries in its published layout.

In: a directory with `African_planes_database.csv` and `COUNTRY/FILENAME.png`. Out: a record per image. Patient numbers
restart in each country, so a patient is (country, number).
Source: Sendra-Balcells et al., Scientific Reports 13, 2728 (2023); Zenodo 7540448, CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path

from fulora.data.listing import Listed, Row, check_folder, plain_number, read_csv, records_from_rows
from fulora.data.records import ImageRecord

LIST_NAME = "African_planes_database.csv"
COLUMNS = ("Patient_num", "Plane", "Train", "Center", "Filename")
PLANE_COLUMN = "Plane"


def read_african(folder: Path) -> list[ImageRecord]:
    """Return the records of the African set, in the list's order; the machine is unknown.

    Raises InputError with every fault of the directory, the list and the images.
    """
    folder = check_folder(folder, source="african")
    return records_from_rows(list_african(folder), listed, folder=folder, source="african")


def list_african(folder: Path) -> list[Row]:
    """Return the rows of the published list."""
    return read_csv(Path(folder) / LIST_NAME, required=COLUMNS)


def listed(cells: dict[str, str]) -> Listed:
    """Return what a row of the list says of its image."""
    country, name = cells["Center"], cells["Filename"].removesuffix(".png")
    return Listed(
        file_name=f"{country}/{name}.png" if country and name else "",
        name=f"{country}/{name}",
        plane=cells["Plane"],
        patient=f"{country}/{plain_number(cells['Patient_num'])}",
        centre=country,
        machine=None,
        split=cells["Train"],
    )
