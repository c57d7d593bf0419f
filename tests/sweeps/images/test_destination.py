"""Images drawn to an address: Parquet with the bytes inside or files, in a folder or on S3, counted and never twice."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fulora.errors import InputError
from sweeps.core.tables import read_rows
from sweeps.images.destination import Destination
from sweeps.images.elsewhere import DrawingFailed

from .elsewhere import Draw, base_images, rows_of, rows_there


def test_parquet_holds_each_image_once_and_a_larger_set_adds_to_it(draw: Draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"))
    assert draw(there) == 50
    rows = rows_of(tmp_path / "set")
    assert len(rows) == len({row["image_id"] for row in rows}) == 50
    for row in rows:
        assert hashlib.sha256(row["image"]).hexdigest() == row["sha256"]
        assert np.asarray(Image.open(io.BytesIO(row["image"]))).shape == (32, 32, 3)
    names = {file.name for file in (tmp_path / "set" / "data").iterdir()}
    assert "brain-euler-00000000-4.parquet" in names and "brain-euler-00000004-1.parquet" in names
    assert draw(there) == 0
    assert draw(there, images_per_plane=7) == 30, "the last file of each plane and sampler is made anew, and full"
    larger = rows_of(tmp_path / "set")
    assert len(larger) == 70
    old = {row["image_id"]: row["sha256"] for row in rows}
    assert {k: v for k, v in ((r["image_id"], r["sha256"]) for r in larger) if k in old} == old
    assert draw(there) == 0, "a smaller set is there already"
    assert len(rows_of(tmp_path / "set")) == 70


def test_a_torn_or_lost_file_is_drawn_again(draw: Draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"))
    draw(there)
    first, second, *_ = sorted((tmp_path / "set" / "data").glob("*-4.parquet"))
    first.write_bytes(first.read_bytes()[:-10])
    second.unlink()
    with pytest.raises(DrawingFailed, match=r"4 of 50 images are not at"):
        draw(there)
    assert not first.exists() and second.exists()
    assert draw(there) == 4
    assert len(rows_of(tmp_path / "set")) == 50


def test_files_that_are_not_ours_are_left_alone(draw: Draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"))
    (tmp_path / "set" / "data").mkdir(parents=True)
    for name in ("README", "_SUCCESS.parquet", "a-b.parquet"):
        (tmp_path / "set" / "data" / name).touch()
    assert draw(there) == 50
    assert len(list((tmp_path / "set" / "data").iterdir())) == 23


def test_an_address_is_shown_without_its_credentials() -> None:
    assert str(Destination(address="s3://KEY:SECRET@bucket/set?region=x")) == "s3://bucket/set?region=x"
    with pytest.raises(InputError) as raised:
        Destination(address="gopher://KEY:SECRET@x/y").claim(base_images("tiny"))
    assert "SECRET" not in raised.value.faults[0] and "gopher" in raised.value.faults[0]


def test_files_are_an_image_folder(draw: Draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"), form="files")
    assert draw(there) == 50
    rows = read_rows(tmp_path / "set" / "metadata.parquet", "metadata")
    assert len(rows) == 50 and len(list((tmp_path / "set").rglob("*.png"))) == 50
    for row in rows:
        assert hashlib.sha256((tmp_path / "set" / row["file_name"]).read_bytes()).hexdigest() == row["sha256"]
    (tmp_path / "set" / rows[0]["file_name"]).unlink()
    with pytest.raises(DrawingFailed, match="1 images that were drawn are no more at"):
        draw(there)
    assert draw(there) == 4, "its shard"


def test_an_address_that_holds_another_set_is_refused(draw: Draw, tmp_path: Path) -> None:
    draw(Destination(address=str(tmp_path / "set")))
    with pytest.raises(InputError, match=r"to: .* holds another set .its science"):
        draw(Destination(address=str(tmp_path / "set")), guidance=3.0)
    with pytest.raises(InputError, match=r"to: .* holds another set .its form"):
        draw(Destination(address=str(tmp_path / "set"), form="files"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"to: .* cannot be used"):
        draw(Destination(address=str(tmp_path / "file" / "set")))
    with pytest.raises(InputError, match=r"to: .* cannot be used"):
        Destination(address=str(tmp_path / "file" / "set")).remote.check()


def test_a_place_is_checked_by_a_file_that_does_not_stay(tmp_path: Path) -> None:
    Destination(address=str(tmp_path / "set")).remote.check()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("form", ["parquet", "files"])
def test_s3_gets_the_same_images_as_a_folder(draw: Draw, s3: str, tmp_path: Path, form) -> None:
    there = Destination(address=s3, form=form)
    assert draw(there) == 50
    assert draw(there) == 0
    about = json.loads(there.remote.get("set.json") or b"")
    assert about["sampling"]["num_steps"] == 1 and about["form"] == form
    draw(Destination(address=str(tmp_path / "set"), form=form))
    if form == "parquet":
        assert rows_there(there) == rows_of(tmp_path / "set")
    else:
        table = pq.read_table(io.BytesIO(there.remote.get("metadata.parquet") or b""))
        assert table.to_pylist() == read_rows(tmp_path / "set" / "metadata.parquet", "metadata")
        png = there.remote.get(table["file_name"][7].as_py()) or b""
        assert hashlib.sha256(png).hexdigest() == table["sha256"][7].as_py()


def test_an_s3_address_that_cannot_be_used_says_so_before_anything_is_drawn(draw: Draw, s3: str) -> None:
    with pytest.raises(InputError, match=r"to: .* cannot be used .*NO_SUCH_BUCKET.*credentials, region"):
        draw(Destination(address=s3.replace("s3://storage-", "s3://nowhere-")))
    with pytest.raises(InputError, match="to: 'gopher://x/y' cannot be used"):
        draw(Destination(address="gopher://x/y"))
