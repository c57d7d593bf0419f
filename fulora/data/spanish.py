"""The Spanish maternal-fetal set in its published layout.

In: a directory with `FETAL_PLANES_DB_data.csv` (`;`-separated, the last column named `Train ` with a space) and
`Images/NAME.png`. Out: a record per image of the five planes.
Source: Burgos-Artizzu et al., Scientific Reports 10, 10200 (2020); Zenodo 3904280, CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path

from fulora.data.listing import Listed, Row, check_folder, plain_number, read_csv, records_from_rows
from fulora.data.records import ImageRecord

LIST_NAME = "FETAL_PLANES_DB_data.csv"
COLUMNS = ("Image_name", "Patient_num", "Plane", "US_Machine", "Train")
PLANE_COLUMN = "Plane"


def read_spanish(folder: Path) -> list[ImageRecord]:
    """Return the records of the Spanish set, in the list's order, images of the maternal cervix left out.

    Raises InputError with every fault of the directory, the list and the images.
    """
    folder = check_folder(folder, source="spanish")
    return records_from_rows(list_spanish(folder), listed, folder=folder, source="spanish")


def list_spanish(folder: Path) -> list[Row]:
    """Return the rows of the published list, all labels."""
    return read_csv(Path(folder) / LIST_NAME, required=COLUMNS)


def listed(cells: dict[str, str]) -> Listed:
    """Return what a row of the list says of its image."""
    name = cells["Image_name"].removesuffix(".png")
    return Listed(
        file_name=f"Images/{name}.png" if name else "",
        name=name,
        plane=cells["Plane"],
        patient=plain_number(cells["Patient_num"]),
        centre="Spain",
        machine=cells["US_Machine"] or None,
        split=cells["Train"],
    )
