"""Reading a source of images in its published layout, or from any directory with a list of images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fulora.data import african, spanish
from fulora.data import folder as plain
from fulora.data.listing import check_folder, count_left_out
from fulora.data.records import ImageRecord
from fulora.errors import InputError, fault

ReadSource = Literal["spanish", "african"]

PUBLISHED = {"spanish": spanish, "african": african}
"""The module of each source's published layout."""


def read_source(folder: Path, *, source: ReadSource) -> list[ImageRecord]:
    """Return the records of a source, in the order of its list.

    Raises InputError with every fault of the directory, its list, rows and images, and for one of the other source.
    """
    folder = check_folder(folder, source=source)
    _check_not_the_other(folder, source)
    if (folder / PUBLISHED[source].LIST_NAME).is_file():
        return african.read_african(folder) if source == "african" else spanish.read_spanish(folder)
    _check_has_list(folder, source)
    return plain.read_folder(folder, source=source)


def count_left_out_rows(folder: Path, *, source: ReadSource) -> dict[str, int]:
    """Return how many rows of each label `read_source` leaves out: `{"Maternal cervix": 1626}`. Decodes nothing."""
    folder = check_folder(folder, source=source)
    if not (folder / PUBLISHED[source].LIST_NAME).is_file():
        return count_left_out(plain.list_folder(folder), column=plain.PLANE_COLUMN)
    rows = african.list_african(folder) if source == "african" else spanish.list_spanish(folder)
    return count_left_out(rows, column=PUBLISHED[source].PLANE_COLUMN)


def _check_not_the_other(folder: Path, source: str) -> None:
    for other, module in PUBLISHED.items():
        if (
            other != source
            and (folder / module.LIST_NAME).is_file()
            and not (folder / PUBLISHED[source].LIST_NAME).is_file()
        ):
            raise InputError(
                fault(
                    f"{source} folder",
                    str(folder),
                    f"is the {other} set (it has {module.LIST_NAME})",
                    f"Give it as the {other} directory.",
                )
            )


def _check_has_list(folder: Path, source: str) -> None:
    """Raise InputError where there is no list, naming one that lies one level deeper, or what is expected."""
    if any(path.suffix.lower() in (".csv", ".parquet") for path in folder.iterdir()):
        return
    name = PUBLISHED[source].LIST_NAME
    deeper = sorted(path.parent for path in folder.glob(f"*/{name}"))
    remedy = (
        f"Did you mean {deeper[0]}?"
        if deeper
        else f"Give the directory with {name}, or one with {' or '.join(plain.LIST_NAMES)} "
        f"(columns {', '.join(plain.COLUMNS)})."
    )
    raise InputError(fault(f"{source} folder", str(folder), "has no list of images", remedy))
