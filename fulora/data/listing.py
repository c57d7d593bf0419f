"""Verified records from a list of images: the part that all readers share.

In: a CSV, and a function from its cells to a `Listed`. Out: `ImageRecord`s, each image decoded once for its size and
hashes; or one `InputError` with every fault of every row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fulora.data.near_duplicates import perceptual_hash
from fulora.data.pixels import UNREADABLE, decode, grey_of, num_threads, open_verified, pixel_hash, reason
from fulora.data.records import ImageRecord
from fulora.errors import InputError, fault, raise_if_any
from fulora.planes import LEFT_OUT_LABELS, PLANES, plane_from_label

MAX_FAULTS = 20
"""Faults printed before `and N more`; a wrong directory has thousands."""

SEPARATORS = (",", ";", "\t")
"""Separators tried on the header of a CSV; the one that finds most required columns is used."""

_SPLITS = {"1": "train", "1.0": "train", "train": "train", "0": "test", "0.0": "test", "test": "test"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a list of images."""

    where: str
    """File and line, for faults: `African_planes_database.csv line 7`."""
    cells: dict[str, str]
    """Column to text, both stripped; empty where the row has a fault."""
    fault: str = ""
    """What is wrong with the row itself, reported with the faults of all other rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A row as its layout reads it, before the image is opened."""

    file_name: str
    """Path relative to the directory, with `/`: `Images/Patient00004_Plane1_5_of_30.png`."""
    name: str
    """Name within the source: `Algeria/patient007_DZA_plane0`."""
    plane: str
    """Label or short name of the plane, as listed."""
    patient: str
    """Patient within the source: `Algeria/7`."""
    centre: str
    """Country, or empty."""
    machine: str | None
    """Ultrasound machine, or None where unknown."""
    split: str
    """The split as listed: 1 or 0, train or test."""


def check_folder(folder: Path, *, source: str) -> Path:
    """Return the directory as an absolute path. Raises InputError where it does not exist or is not a directory."""
    folder = Path(folder)
    if not folder.is_dir():
        rule = "is not a directory" if folder.exists() else "does not exist"
        raise InputError(fault(f"{source} folder", str(folder), rule, "Give the directory with the list of images."))
    return folder.absolute()


def read_csv(path: Path, *, required: Sequence[str]) -> list[Row]:
    """Return the rows of a CSV, header and cells stripped, blank lines left out.

    Takes a UTF-8 byte-order mark and any of `SEPARATORS`. Raises InputError for a file that is not text, has no
    rows or lacks a required column (naming it and the columns found). A row of another length carries its fault.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            fault("list of images", str(path), f"cannot be read ({error.strerror})", "Check the file.")
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(fault("list of images", str(path), "is not UTF-8 text", "Save it as CSV in UTF-8.")) from error
    header = next((line for line in text.splitlines() if line.strip()), None)
    if header is None:
        raise InputError(fault("list of images", str(path), "is empty", f"It needs the columns {', '.join(required)}."))
    separator = max(SEPARATORS, key=lambda s: len(set(required) & set(_cells(header, s))))
    rows: list[Row] = []
    columns: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if not columns:
                columns = stripped
                check_columns(columns, path, required=required)
                continue
            where = f"{path.name} line {reader.line_num}"
            if len(stripped) < len(columns) or any(stripped[len(columns) :]):
                rule = f"has {len(cells)} cells, the header {len(columns)}"
                wrong = fault(where, separator.join(cells), rule, "Complete or remove the row.")
                rows.append(Row(where=where, cells={}, fault=wrong))
                continue
            rows.append(Row(where=where, cells=dict(zip(columns, stripped, strict=False))))
    except csv.Error as error:
        raise InputError(
            fault("list of images", str(path), f"is not a CSV file ({error})", "Save it again.")
        ) from error
    check_not_empty(rows, path)
    return rows


def check_columns(columns: Sequence[str], path: Path, *, required: Sequence[str]) -> None:
    """Raise InputError naming every missing and every repeated column, and the columns found."""
    found = ", ".join(repr(column) for column in columns)
    faults = [
        fault(f"{path.name} column", name, "is missing", f"Columns found: {found}.")
        for name in required
        if name not in columns
    ]
    faults += [
        fault(f"{path.name} column", name, f"occurs {count} times", f"Keep one. Columns found: {found}.")
        for name, count in Counter(columns).items()
        if count > 1 and name
    ]
    raise_if_any(faults)


def check_not_empty(rows: Sequence[Row], path: Path) -> None:
    """Raise InputError for a list without images."""
    if not rows:
        raise InputError(fault("list of images", str(path), "lists no images", "Add a row per image."))


def records_from_rows(
    rows: Sequence[Row], layout: Callable[[dict[str, str]], Listed], *, folder: Path, source: str
) -> list[ImageRecord]:
    """Return a record per row, in the list's order, without the rows of planes the study leaves out.

    Every row is checked and every image decoded in full, on a pool of threads. Raises InputError with all faults:
    unknown plane or split, no patient, an image listed twice, missing, or not decodable.
    """
    faults: list[str] = []
    seen: dict[str, str] = {}
    kept: list[tuple[Row, Listed]] = []
    for row in rows:
        if row.fault:
            faults.append(row.fault)
            continue
        listed = layout(row.cells)
        if listed.plane in LEFT_OUT_LABELS:
            continue
        faults += _row_faults(row, listed, seen)
        kept.append((row, listed))
    if not kept and not faults:
        raise InputError(
            fault(
                f"{source} folder",
                str(folder),
                "lists no image of the five planes",
                f"Planes: {', '.join(plane.label for plane in PLANES)}.",
            )
        )
    with ThreadPoolExecutor(max_workers=num_threads()) as pool:
        results = list(pool.map(lambda item: _record(*item, folder=folder, source=source), kept))
    faults += [result for result in results if isinstance(result, str)]
    raise_capped(faults)
    return [result for result in results if isinstance(result, ImageRecord)]


def count_left_out(rows: Sequence[Row], *, column: str) -> dict[str, int]:
    """Return how many rows have each label that the study leaves out (maternal cervix)."""
    labels = (row.cells.get(column, "") for row in rows)
    return dict(Counter(label for label in labels if label in LEFT_OUT_LABELS))


def raise_capped(faults: Sequence[str]) -> None:
    """Raise InputError with at most `MAX_FAULTS` faults and a line that counts the others."""
    if len(faults) > MAX_FAULTS:
        faults = [*faults[:MAX_FAULTS], f"and {len(faults) - MAX_FAULTS} more"]
    raise_if_any(faults)


def plain_number(text: str) -> str:
    """Return a whole number without leading zeros or a trailing `.0` (as pandas writes it); other text unchanged."""
    return str(int(float(text))) if re.fullmatch(r"\d{1,15}(\.0+)?", text) else text


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _row_faults(row: Row, listed: Listed, seen: dict[str, str]) -> list[str]:
    faults = []
    try:
        plane_from_label(listed.plane)
    except ValueError as error:
        faults.append(f"{row.where}: {error}")
    if listed.split.lower() not in _SPLITS:
        faults.append(
            fault(f"{row.where}, split", listed.split, "is unknown", f"It must be one of {', '.join(_SPLITS)}.")
        )
    if not listed.patient or listed.patient.endswith("/"):
        faults.append(fault(f"{row.where}, patient", "", "is empty", "Every image needs its patient."))
    first = seen.setdefault(listed.name, row.where)
    if first != row.where:
        faults.append(
            fault(f"{row.where}, image", listed.name, f"is listed twice, first at {first}", "Remove one of the rows.")
        )
    if not _is_below(listed.file_name):
        faults.append(
            fault(
                f"{row.where}, image",
                listed.file_name,
                "is not a path inside the directory",
                "Give a path relative to the directory of the list.",
            )
        )
    return faults


def _is_below(file_name: str) -> bool:
    path = PurePosixPath(file_name)
    return bool(file_name) and not path.is_absolute() and ".." not in path.parts


def _record(row: Row, listed: Listed, *, folder: Path, source: str) -> ImageRecord | str | None:
    """Return the record, a fault of the image, or None where the row has a fault already."""
    if not _is_below(listed.file_name):
        return None
    path = folder / listed.file_name
    if not os.path.isfile(path):  # False, not an error, for a name that no file system accepts
        return fault(f"{row.where}, image", str(path), "does not exist", "Restore the file or remove the row.")
    try:
        data = path.read_bytes()
        grey = grey_of(decode(open_verified(data)))
    except UNREADABLE as error:
        return fault(f"{row.where}, image", str(path), f"cannot be decoded ({reason(error)})", "Get the file again.")
    try:
        plane = plane_from_label(listed.plane)
        split = _SPLITS[listed.split.lower()]
    except (ValueError, KeyError):
        return None
    height, width = grey.shape
    return ImageRecord(
        image_id=f"{source}/{listed.name}",
        path=str(path),
        source=source,
        plane=plane.name,
        patient_id=f"{source}/{listed.patient}",
        centre=listed.centre,
        machine=listed.machine or None,
        split=split,
        width_px=width,
        height_px=height,
        sha256=hashlib.sha256(data).hexdigest(),
        pixel_hash=pixel_hash(grey),
        perceptual_hash=perceptual_hash(grey),
    )
