"""Every reader, on small folders written here: what a good one gives."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.folder import read_folder
from fulora.data.records import ImageRecord
from fulora.data.sources import count_left_out_rows
from fulora.planes import plane_from_label

from .readers import AFRICAN, FOLDER, SPANISH, Reader, faults


def test_conformance(layout: Reader, read: Callable[[Path], list[ImageRecord]], tmp_path: Path) -> None:
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


def test_relative_folder_gives_absolute_paths(layout: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_patient_numbers_restart_in_each_centre(layout: Reader, tmp_path: Path) -> None:
    records = layout.read(layout.write(tmp_path))
    first = [record.patient_id for record in records if record.patient_id.endswith("/1")]
    assert sorted(first) == ["african/Egypt/1", "african/Ghana/1"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_and_byte_order_mark(layout: Reader, tmp_path: Path, encoding: str, separator: str) -> None:
    plain = layout.read(layout.write(tmp_path))
    assert layout.read(layout.write(tmp_path, encoding=encoding, separator=separator)) == plain


def test_spaces_around_names_and_cells(layout: Reader, tmp_path: Path) -> None:
    plain = layout.read(layout.write(tmp_path))
    path = tmp_path / layout.list_name
    lines = path.read_text().splitlines()
    separator = layout.separator
    path.write_text("\n\n".join(f" {separator} ".join(line.split(separator)) for line in lines) + "\n\n  \n")
    assert layout.read(tmp_path) == plain


def test_windows_line_ends_and_unused_columns(layout: Reader, tmp_path: Path) -> None:
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


def test_maternal_cervix_is_left_out_and_counted(layout: Reader, tmp_path: Path) -> None:
    rows = layout.rows()
    rows[1][0][layout.plane] = "Maternal cervix"
    layout.write(tmp_path, rows)
    (tmp_path / rows[1][1]).unlink()  # what is left out is not asked for
    assert len(layout.read(tmp_path)) == len(rows) - 1
    assert count_left_out_rows(tmp_path, source=layout.source) == {"Maternal cervix": 1}  # type: ignore[arg-type]


def test_only_left_out_planes_is_an_error(layout: Reader, tmp_path: Path) -> None:
    rows = layout.rows()
    for cells, _ in rows:
        cells[layout.plane] = "Maternal cervix"
    assert "no image of the five planes" in faults(layout.read, layout.write(tmp_path, rows))[0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_every_mode_of_image(layout: Reader, tmp_path: Path, mode: str) -> None:
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
    assert "not a Parquet file" in faults(FOLDER.read, tmp_path)[0]
    pandas.DataFrame({"file_name": ["a.png"], "plane": ["brain"]}).to_parquet(path)
    (fault,) = faults(FOLDER.read, tmp_path)
    assert "'patient' is missing" in fault
    pandas.DataFrame({"file_name": ["a.png"], "plane": [None], "patient": [None]}).to_parquet(path)
    found = faults(FOLDER.read, tmp_path)
    assert [word for word in ("plane", "patient", "does not exist") if any(word in f for f in found)] == [
        "plane",
        "patient",
        "does not exist",
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
