"""Every reader, on small folders written here: what each bad one says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ImageFile

from fulora.data.listing import MAX_FAULTS
from fulora.data.records import ImageRecord
from fulora.data.sources import read_source
from fulora.errors import InputError

from .readers import AFRICAN, FOLDER, SPANISH, Reader, faults


def test_missing_folder(read: Callable[[Path], list[ImageRecord]], tmp_path: Path) -> None:
    (fault,) = faults(read, tmp_path / "nowhere")
    assert "nowhere" in fault
    assert "does not exist" in fault


def test_file_instead_of_folder(read: Callable[[Path], list[ImageRecord]], layout: Reader, tmp_path: Path) -> None:
    (fault,) = faults(read, layout.write(tmp_path) / layout.list_name)
    assert "is not a directory" in fault


def test_empty_folder(read: Callable[[Path], list[ImageRecord]], tmp_path: Path) -> None:
    (fault,) = faults(read, tmp_path)
    assert str(tmp_path) in fault


def test_missing_column_is_named_and_the_found_ones_listed(
    read: Callable[[Path], list[ImageRecord]], layout: Reader, tmp_path: Path
) -> None:
    layout.write(tmp_path, columns=tuple(name for name in layout.columns if name != layout.plane))
    (fault,) = faults(read, tmp_path)
    assert f"{layout.plane!r} is missing" in fault
    for name in layout.columns:
        assert name == layout.plane or repr(name.strip()) in fault


def test_wrong_column_and_all_missing_ones_at_once(layout: Reader, tmp_path: Path) -> None:
    (tmp_path / layout.list_name).write_text("name,kind\na,b\n")
    found = faults(layout.read, tmp_path)
    assert len(found) >= 3
    assert all("'name', 'kind'" in fault for fault in found)


def test_repeated_column(layout: Reader, tmp_path: Path) -> None:
    layout.write(tmp_path, columns=(*layout.columns, layout.plane))
    (fault,) = faults(layout.read, tmp_path)
    assert "occurs 2 times" in fault


def test_listed_image_that_is_not_there(
    read: Callable[[Path], list[ImageRecord]], layout: Reader, tmp_path: Path
) -> None:
    rows = layout.rows()
    layout.write(tmp_path, rows)
    (tmp_path / rows[2][1]).unlink()
    (fault,) = faults(read, tmp_path)
    assert rows[2][1] in fault
    assert "does not exist" in fault
    assert "line 4" in fault


@pytest.mark.parametrize("keep", [0, 20, 60, 0.5, -1, -12])
@pytest.mark.parametrize("forgiving", [False, True])
def test_truncated_png(
    layout: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: float, forgiving: bool
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


def test_corrupt_png_of_full_length(layout: Reader, tmp_path: Path) -> None:
    rows = layout.rows()
    layout.write(tmp_path, rows)
    path = tmp_path / rows[0][1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))
    assert "cannot be decoded" in faults(layout.read, tmp_path)[0]


def test_unknown_plane(read: Callable[[Path], list[ImageRecord]], layout: Reader, tmp_path: Path) -> None:
    rows = layout.rows()
    rows[3][0][layout.plane] = "Fetal hand"
    (fault,) = faults(read, layout.write(tmp_path, rows))
    assert "'Fetal hand' is unknown" in fault
    assert "Fetal brain" in fault
    assert "line 5" in fault


def test_unknown_split(layout: Reader, tmp_path: Path) -> None:
    rows = layout.rows()
    rows[0][0][layout.split] = "maybe"
    (fault,) = faults(layout.read, layout.write(tmp_path, rows))
    assert "'maybe' is unknown" in fault


def test_empty_list(layout: Reader, tmp_path: Path) -> None:
    (tmp_path / layout.list_name).write_bytes(b"")
    assert "is empty" in faults(layout.read, tmp_path)[0]
    assert "lists no images" in faults(layout.read, layout.write(tmp_path, []))[0]


def test_duplicate_rows(read: Callable[[Path], list[ImageRecord]], layout: Reader, tmp_path: Path) -> None:
    rows = layout.rows()
    (fault,) = faults(read, layout.write(tmp_path, [*rows, rows[1]]))
    assert "is listed twice" in fault
    assert "line 3" in fault
    assert "line 8" in fault


def test_short_row(layout: Reader, tmp_path: Path) -> None:
    rows = layout.rows()
    layout.write(tmp_path, rows)
    (tmp_path / rows[0][1]).unlink()
    with (tmp_path / layout.list_name).open("a") as file:
        file.write(f"a{layout.separator}b\n")
    short, missing = faults(layout.read, tmp_path)
    assert f"has 2 cells, the header {len(layout.columns)}" in short
    assert "does not exist" in missing
    (tmp_path / layout.list_name).write_text(layout.separator.join(layout.columns) + f"\na{layout.separator}b\n")
    assert "has 2 cells" in faults(layout.read, tmp_path)[0]


def test_no_text_in_the_list(layout: Reader, tmp_path: Path) -> None:
    (tmp_path / layout.list_name).write_bytes("Plane;Train\nä".encode("utf-16"))
    assert "not UTF-8" in faults(layout.read, tmp_path)[0]


def test_all_faults_at_once_and_capped(layout: Reader, tmp_path: Path) -> None:
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
        assert "not a path inside the directory" in fault


def test_the_other_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is the african set"):
        read_source(AFRICAN.write(tmp_path / "a"), source="spanish")
    with pytest.raises(InputError, match="is the spanish set"):
        read_source(SPANISH.write(tmp_path / "s"), source="african")


def test_list_one_folder_deeper(tmp_path: Path) -> None:
    AFRICAN.write(tmp_path / "Zenodo_dataset")
    with pytest.raises(InputError, match=r"Did you mean .*Zenodo_dataset"):
        read_source(tmp_path, source="african")
