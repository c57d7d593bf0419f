"""Images in any directory, listed by a CSV or a Parquet file.

In: a directory with `images.csv` or `images.parquet` (or a single CSV or Parquet file) of columns `file_name`
(relative to the folder), `plane` (label or short name) and `patient`; optionally `centre`, `machine` and `split`
(train or test; train where it is not given). Out: a record per image. Where a row has a centre, the patient is
(centre, patient), as patient numbers often restart in each centre.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from fulora.data.listing import (
    Listed,
    Row,
    check_columns,
    check_folder,
    check_not_empty,
    plain_number,
    read_csv,
    records_from_rows,
)
from fulora.data.records import ImageRecord
from fulora.errors import InputError, fault

COLUMNS = ("file_name", "plane", "patient")
OPTIONAL_COLUMNS = ("centre", "machine", "split")
LIST_NAMES = ("images.csv", "images.parquet")
PLANE_COLUMN = "plane"


def read_folder(folder: Path, *, source: str) -> list[ImageRecord]:
    """Return the records of a directory, in the list's order, as images of `source`.

    Raises InputError with every fault of the directory, the list and the images.
    """
    folder = check_folder(folder, source=source)
    home = "Spain" if source == "spanish" else ""
    return records_from_rows(list_folder(folder), lambda cells: _listed(cells, home), folder=folder, source=source)


def list_folder(folder: Path) -> list[Row]:
    """Return the rows of the folder's list."""
    path = find_list(Path(folder))
    return _read_parquet(path) if path.suffix.lower() == ".parquet" else read_csv(path, required=COLUMNS)


def find_list(folder: Path) -> Path:
    """Return the folder's list: `images.csv`, `images.parquet`, else the only CSV or Parquet file."""
    named = [folder / name for name in LIST_NAMES if (folder / name).is_file()]
    found = named or sorted(path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".parquet"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        rule = f"has {len(found)} lists ({names})" if found else "has no list of images"
        raise InputError(
            fault(
                "folder",
                str(folder),
                rule,
                f"Put one {' or '.join(LIST_NAMES)} there, with columns {', '.join(COLUMNS)}.",
            )
        )
    return found[0]


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            fault("list of images", str(path), f"is not a Parquet file ({error})", "Write it again.")
        ) from error
    columns = [str(name).strip() for name in table.column_names]
    check_columns(columns, path, required=COLUMNS)
    wanted = [name for name in (*COLUMNS, *OPTIONAL_COLUMNS) if name in columns]
    cells = {name: table.column(columns.index(name)).to_pylist() for name in wanted}
    rows = [
        Row(where=f"{path.name} row {index + 1}", cells={name: _text(cells[name][index]) for name in wanted})
        for index in range(table.num_rows)
    ]
    check_not_empty(rows, path)
    return rows


def _text(value: object) -> str:
    """Return a cell as a CSV would have it; null is empty, and a whole float is an integer that had nulls beside it."""
    if value is None or value != value:
        return ""
    return plain_number(str(value)) if isinstance(value, float) else str(value).strip()


def _listed(cells: dict[str, str], home: str) -> Listed:
    file_name, centre, patient = cells["file_name"], cells.get("centre", ""), cells["patient"]
    path = PurePosixPath(file_name)
    return Listed(
        file_name=file_name,
        name=str(path.with_suffix("")) if path.name else "",
        plane=cells["plane"],
        patient=f"{centre}/{patient}" if centre else patient,
        centre=centre or home,
        machine=cells.get("machine") or None,
        split=cells.get("split") or "train",
    )
