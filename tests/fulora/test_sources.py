"""Every reader, on small folders written here: what a good one gives, and what each bad one says."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from fulora.data.african import read_african
from fulora.data.folder import read_folder
from fulora.data.listing import MAX_FAULTS
from fulora.data.records import ImageRecord
from fulora.data.sources import count_left_out_rows, read_source
from fulora.data.spanish import read_spanish
from fulora.errors import InputError
from fulora.planes import plane_from_label

PLANE_LABELS = ("Other", "Fetal abdomen", "Fetal brain", "Fetal femur", "Fetal thorax")


@dataclass(frozen=True)
class Layout:
    """One reader with all a test needs to write and break its folder."""

    name: str
    source: str
    list_name: str
    columns: tuple[str, ...]
    separator: str
    plane: str
    split: str
    file: str
    read: Callable[[Path], list[ImageRecord]]

    def row(self, number: int, label: str, split: int, centre: str) -> tuple[dict[str, str], str]:
        """Return a row of the list and the image's path below the folder."""
        if self.name == "spanish":
            stem = f"Patient{number:05d}_Plane1_1_of_{number}"
            cells = {
                "Image_name": stem,
                "Patient_num": str(number),
                "Plane": label,
                "Brain_plane": "Not A Brain",
                "Operator": "Op. 1",
                "US_Machine": "Aloka",
                "Train ": str(split),
            }
            return cells, f"Images/{stem}.png"
        if self.name == "african":
            stem = f"patient{number:03d}_plane"
            cells = {
                "Patient_num": str(number),
                "Plane": label,
                "Train": str(split),
                "Center": centre,
                "Filename": stem,
            }
            return cells, f"{centre}/{stem}.png"
        path = f"{centre}/{number}.png"
        return {
            "file_name": path,
            "plane": label,
            "patient": str(number),
            "centre": centre,
            "machine": "Aloka",
            "split": "train" if split else "test",
        }, path

    def rows(self) -> list[tuple[dict[str, str], str]]:
        """Return six rows: five planes from one centre, and patient 1 of another."""
        good = [self.row(index + 1, label, 1 if index < 3 else 0, "Ghana") for index, label in enumerate(PLANE_LABELS)]
        return [*good, self.row(6 if self.name == "spanish" else 1, "Fetal brain", 1, "Egypt")]

    def write(
        self,
        folder: Path,
        rows: list[tuple[dict[str, str], str]] | None = None,
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
        with (folder / self.list_name).open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(
                file, columns or self.columns, delimiter=separator or self.separator, extrasaction="ignore"
            )
            writer.writeheader()
            writer.writerows(cells for cells, _ in rows)
        return folder


def picture(path: Path, index: int) -> None:
    """Write a grey image of 24 x 16 that no other index has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (16, 24), dtype=np.uint8)).save(path)


SPANISH = Layout(
    "spanish",
    "spanish",
    "FETAL_PLANES_DB_data.csv",
    ("Image_name", "Patient_num", "Plane", "Brain_plane", "Operator", "US_Machine", "Train "),
    ";",
    "Plane",
    "Train ",
    "Image_name",
    read_spanish,
)
AFRICAN = Layout(
    "african",
    "african",
    "African_planes_database.csv",
    ("Patient_num", "Plane", "Train", "Center", "Filename"),
    ",",
    "Plane",
    "Train",
    "Filename",
    read_african,
)
FOLDER = Layout(
    "folder",
    "african",
    "images.csv",
    ("file_name", "plane", "patient", "centre", "machine", "split"),
    ",",
    "plane",
    "split",
    "file_name",
    lambda folder: read_folder(folder, source="african"),
)
LAYOUTS = (SPANISH, AFRICAN, FOLDER)


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.name)
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


@pytest.fixture(params=["itself", "read_source"])
def read(request: pytest.FixtureRequest, layout: Layout) -> Callable[[Path], list[ImageRecord]]:
    """Each layout by its own reader and by `read_source`: the same must come out."""
    if request.param == "itself":
        return layout.read
    return lambda folder: read_source(folder, source=layout.source)  # type: ignore[arg-type]


def faults(read: Callable[[Path], list[ImageRecord]], folder: Path) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        read(folder)
    return caught.value.faults


# What every reader gives


def test_conformance(layout: Layout, read: Callable[[Path], list[ImageRecord]], tmp_path: Path) -> None:
    rows = layout.rows()
    records = read(layout.write(tmp_path / "data", rows))
    assert len(records) == len(rows)
    assert len({record.image_id for record in records}) == len(rows)
    assert [record.plane for record in records] == [plane_from_label(cells[layout.plane]).name for cells, _ in rows]
    assert [record.split for record in records] == ["train"] * 3 + ["test"] * 2 + ["train"]
    for record, (_, path) in zip(records, rows, strict=True):
        assert record.source == layout.source
        assert record.image_id.startswith(f"{layout.source}/")
        assert not record.image_id.endswith(".png")
        assert record.patient_id.startswith(f"{layout.source}/")
        assert Path(record.path) == tmp_path / "data" / path
        assert (record.width_px, record.height_px) == (24, 16)
        assert record.sha256 == hashlib.sha256(Path(record.path).read_bytes()).hexdigest()
    assert len({record.pixel_hash for record in records}) == len(rows)
    assert read(tmp_path / "data") == records


def test_relative_folder_gives_absolute_paths(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert all(Path(record.path).is_absolute() for record in layout.read(Path("data")))


def test_ids_as_published(tmp_path: Path) -> None:
    spanish = SPANISH.read(SPANISH.write(tmp_path / "spanish"))[0]
    assert (spanish.image_id, spanish.patient_id) == ("spanish/Patient00001_Plane1_1_of_1", "spanish/1")
    assert (spanish.centre, spanish.machine) == ("Spain", "Aloka")
    african = AFRICAN.read(AFRICAN.write(tmp_path / "african"))[0]
    assert (african.image_id, african.patient_id) == ("african/Ghana/patient001_plane", "african/Ghana/1")
    assert (african.centre, african.machine) == ("Ghana", None)


@pytest.mark.parametrize("layout", [AFRICAN, FOLDER], ids=lambda layout: layout.name)
def test_patient_numbers_restart_in_each_centre(layout: Layout, tmp_path: Path) -> None:
    records = layout.read(layout.write(tmp_path))
    first = [record.patient_id for record in records if record.patient_id.endswith("/1")]
    assert sorted(first) == ["african/Egypt/1", "african/Ghana/1"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_and_byte_order_mark(layout: Layout, tmp_path: Path, encoding: str, separator: str) -> None:
    plain = layout.read(layout.write(tmp_path))
    assert layout.read(layout.write(tmp_path, encoding=encoding, separator=separator)) == plain


def test_spaces_around_names_and_cells(layout: Layout, tmp_path: Path) -> None:
    plain = layout.read(layout.write(tmp_path))
    path = tmp_path / layout.list_name
    lines = path.read_text().splitlines()
    separator = layout.separator
    path.write_text("\n\n".join(f" {separator} ".join(line.split(separator)) for line in lines) + "\n\n  \n")
    assert layout.read(tmp_path) == plain


def test_windows_line_ends_and_unused_columns(layout: Layout, tmp_path: Path) -> None:
    plain = layout.read(layout.write(tmp_path))
    path = tmp_path / layout.list_name
    lines = path.read_text().splitlines()
    separator = layout.separator
    path.write_bytes("\r\n".join(f"{line}{separator}x" for line in lines).encode())
    assert layout.read(tmp_path) == plain


def test_suffix_in_the_list_makes_no_difference(tmp_path: Path) -> None:
    for layout in (SPANISH, AFRICAN):
        rows = layout.rows()
        plain = layout.read(layout.write(tmp_path / layout.name, rows))
        for cells, _ in rows:
            cells[layout.file] += ".png"
        assert layout.read(layout.write(tmp_path / layout.name, rows)) == plain


def test_maternal_cervix_is_left_out_and_counted(layout: Layout, tmp_path: Path) -> None:
    rows = layout.rows()
    rows[1][0][layout.plane] = "Maternal cervix"
    layout.write(tmp_path, rows)
    (tmp_path / rows[1][1]).unlink()  # what is left out is not asked for
    assert len(layout.read(tmp_path)) == len(rows) - 1
    assert count_left_out_rows(tmp_path, source=layout.source) == {"Maternal cervix": 1}  # type: ignore[arg-type]


def test_only_left_out_planes_is_an_error(layout: Layout, tmp_path: Path) -> None:
    rows = layout.rows()
    for cells, _ in rows:
        cells[layout.plane] = "Maternal cervix"
    assert "no image of the five planes" in faults(layout.read, layout.write(tmp_path, rows))[0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_every_mode_of_image(layout: Layout, tmp_path: Path, mode: str) -> None:
    layout.write(tmp_path)
    path = tmp_path / layout.rows()[0][1]
    grey = Image.open(path)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    before = layout.read(tmp_path)[0]
    (deep if mode == "I;16" else grey.convert(mode)).save(path)
    assert Image.open(path).mode == mode
    after = layout.read(tmp_path)[0]
    assert (after.width_px, after.height_px) == (24, 16)
    # One bit loses pixels; every other mode holds the same grey image, and its hash says so.
    assert (after.pixel_hash == before.pixel_hash) == (mode != "1")


# What each bad input says


def test_missing_folder(read: Callable[[Path], list[ImageRecord]], tmp_path: Path) -> None:
    (fault,) = faults(read, tmp_path / "nowhere")
    assert "nowhere" in fault
    assert "does not exist" in fault


def test_file_instead_of_folder(read: Callable[[Path], list[ImageRecord]], layout: Layout, tmp_path: Path) -> None:
    (fault,) = faults(read, layout.write(tmp_path) / layout.list_name)
    assert "not a folder" in fault


def test_empty_folder(read: Callable[[Path], list[ImageRecord]], tmp_path: Path) -> None:
    (fault,) = faults(read, tmp_path)
    assert str(tmp_path) in fault


def test_missing_column_is_named_and_the_found_ones_listed(
    read: Callable[[Path], list[ImageRecord]], layout: Layout, tmp_path: Path
) -> None:
    layout.write(tmp_path, columns=tuple(name for name in layout.columns if name != layout.plane))
    (fault,) = faults(read, tmp_path)
    assert f"{layout.plane!r} is missing" in fault
    for name in layout.columns:
        assert name == layout.plane or repr(name.strip()) in fault


def test_wrong_column_and_all_missing_ones_at_once(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / layout.list_name).write_text("name,kind\na,b\n")
    found = faults(layout.read, tmp_path)
    assert len(found) >= 3
    assert all("'name', 'kind'" in fault for fault in found)


def test_repeated_column(layout: Layout, tmp_path: Path) -> None:
    layout.write(tmp_path, columns=(*layout.columns, layout.plane))
    (fault,) = faults(layout.read, tmp_path)
    assert "is there 2 times" in fault


def test_listed_image_that_is_not_there(
    read: Callable[[Path], list[ImageRecord]], layout: Layout, tmp_path: Path
) -> None:
    rows = layout.rows()
    layout.write(tmp_path, rows)
    (tmp_path / rows[2][1]).unlink()
    (fault,) = faults(read, tmp_path)
    assert rows[2][1] in fault
    assert "is not there" in fault
    assert "line 4" in fault


@pytest.mark.parametrize("keep", [0, 20, 60, 0.5, -1, -12])
@pytest.mark.parametrize("forgiving", [False, True])
def test_truncated_png(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: float, forgiving: bool
) -> None:
    # -12 lacks only the end marker: the pixels are all there, the file is not. Other libraries set the global flag.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", forgiving)
    rows = layout.rows()
    layout.write(tmp_path, rows)
    path = tmp_path / rows[4][1]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    (fault,) = faults(layout.read, tmp_path)
    assert rows[4][1] in fault
    assert "cannot be decoded" in fault
    assert "0x" not in fault


def test_corrupt_png_of_full_length(layout: Layout, tmp_path: Path) -> None:
    rows = layout.rows()
    layout.write(tmp_path, rows)
    path = tmp_path / rows[0][1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    assert "cannot be decoded" in faults(layout.read, tmp_path)[0]


def test_unknown_plane(read: Callable[[Path], list[ImageRecord]], layout: Layout, tmp_path: Path) -> None:
    rows = layout.rows()
    rows[3][0][layout.plane] = "Fetal hand"
    (fault,) = faults(read, layout.write(tmp_path, rows))
    assert "'Fetal hand' is unknown" in fault
    assert "Fetal brain" in fault
    assert "line 5" in fault


def test_unknown_split(layout: Layout, tmp_path: Path) -> None:
    rows = layout.rows()
    rows[0][0][layout.split] = "maybe"
    (fault,) = faults(layout.read, layout.write(tmp_path, rows))
    assert "'maybe' is unknown" in fault


def test_empty_list(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / layout.list_name).write_bytes(b"")
    assert "is empty" in faults(layout.read, tmp_path)[0]
    assert "lists no images" in faults(layout.read, layout.write(tmp_path, []))[0]


def test_duplicate_rows(read: Callable[[Path], list[ImageRecord]], layout: Layout, tmp_path: Path) -> None:
    rows = layout.rows()
    (fault,) = faults(read, layout.write(tmp_path, [*rows, rows[1]]))
    assert "is listed twice" in fault
    assert "line 3" in fault
    assert "line 8" in fault


def test_short_row(layout: Layout, tmp_path: Path) -> None:
    rows = layout.rows()
    layout.write(tmp_path, rows)
    (tmp_path / rows[0][1]).unlink()
    with (tmp_path / layout.list_name).open("a") as file:
        file.write(f"a{layout.separator}b\n")
    short, missing = faults(layout.read, tmp_path)
    assert f"has 2 cells, the header {len(layout.columns)}" in short
    assert "is not there" in missing
    (tmp_path / layout.list_name).write_text(layout.separator.join(layout.columns) + f"\na{layout.separator}b\n")
    assert "has 2 cells" in faults(layout.read, tmp_path)[0]


def test_no_text_in_the_list(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / layout.list_name).write_bytes("Plane;Train\nä".encode("utf-16"))
    assert "not UTF-8" in faults(layout.read, tmp_path)[0]


def test_all_faults_at_once_and_capped(layout: Layout, tmp_path: Path) -> None:
    rows = [layout.row(number, "Fetal hand", 1, "Ghana") for number in range(1, MAX_FAULTS + 6)]
    layout.write(tmp_path, rows)
    for _, path in rows:
        (tmp_path / path).unlink()
    found = faults(layout.read, tmp_path)
    assert len(found) == MAX_FAULTS + 1
    assert found[-1] == f"and {2 * len(rows) - MAX_FAULTS} more"


def test_path_outside_the_folder(tmp_path: Path) -> None:
    for name in ("../secret.png", "/etc/secret.png"):
        cells = {"file_name": name, "plane": "brain", "patient": "1", "centre": "", "machine": "", "split": ""}
        rows = [(cells, "x.png")]
        (fault,) = faults(FOLDER.read, FOLDER.write(tmp_path, rows))
        assert "no path below the folder" in fault


def test_the_other_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the african set"):
        read_source(AFRICAN.write(tmp_path / "a"), source="spanish")
    with pytest.raises(InputError, match="is the spanish set"):
        read_source(SPANISH.write(tmp_path / "s"), source="african")


def test_list_one_folder_deeper(tmp_path: Path) -> None:
    AFRICAN.write(tmp_path / "Zenodo_dataset")
    with pytest.raises(InputError, match=r"Did you mean .*Zenodo_dataset"):
        read_source(tmp_path, source="african")


# The plain folder's own


def test_plain_folder_with_few_columns(tmp_path: Path) -> None:
    FOLDER.write(tmp_path, columns=("file_name", "plane", "patient"))
    records = read_folder(tmp_path, source="spanish")[:5]
    assert {(record.split, record.centre, record.machine) for record in records} == {("train", "Spain", None)}
    assert [record.patient_id for record in records] == [f"spanish/{number}" for number in range(1, 6)]


@pytest.mark.parametrize("name", ["images.parquet", "mine.parquet"])
def test_parquet_gives_what_the_csv_gives(tmp_path: Path, name: str) -> None:
    import pandas

    plain = FOLDER.read(FOLDER.write(tmp_path))
    frame = pandas.read_csv(tmp_path / "images.csv")
    assert frame["patient"].dtype == np.int64
    frame["machine"] = frame["machine"].astype(object)
    (tmp_path / "images.csv").unlink()
    frame.to_parquet(tmp_path / name)
    assert FOLDER.read(tmp_path) == plain
    frame["patient"] = frame["patient"].astype(float)
    frame.to_parquet(tmp_path / name)
    assert FOLDER.read(tmp_path) == plain


def test_bad_parquet(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "images.parquet"
    path.write_bytes(b"PAR1 no")
    assert "no Parquet file" in faults(FOLDER.read, tmp_path)[0]
    pandas.DataFrame({"file_name": ["a.png"], "plane": ["brain"]}).to_parquet(path)
    (fault,) = faults(FOLDER.read, tmp_path)
    assert "'patient' is missing" in fault
    pandas.DataFrame({"file_name": ["a.png"], "plane": [None], "patient": [None]}).to_parquet(path)
    found = faults(FOLDER.read, tmp_path)
    assert [word for word in ("plane", "patient", "not there") if any(word in f for f in found)] == [
        "plane",
        "patient",
        "not there",
    ]


def test_two_lists(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file_name,plane,patient\n")
    (tmp_path / "b.csv").write_text("file_name,plane,patient\n")
    assert "has 2 lists (a.csv, b.csv)" in faults(FOLDER.read, tmp_path)[0]


def test_importing_the_readers_is_light() -> None:
    code = (
        "import sys; import fulora.data.sources, fulora.data.audit, fulora.data.regimes, fulora.data.pixels; "
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'ray', 'sweeps') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
