"""Decoding of every kind of image, and the pixel store."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.pixels import PixelRows, decode_square, open_store, read_grey, read_rgb, write_store
from fulora.data.records import ImageRecord
from fulora.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)


def record(path: Path, index: int) -> ImageRecord:
    """Write a grey image of its own and return its record."""
    Image.fromarray(np.random.default_rng(index).integers(0, 256, (20, 30), dtype=np.uint8)).save(path)
    return ImageRecord(
        image_id=f"spanish/{path.stem}",
        path=str(path),
        source="spanish",
        plane="brain",
        patient_id="spanish/1",
        centre="Spain",
        machine=None,
        split="train",
        width_px=30,
        height_px=20,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        pixel_hash="",
    )


@pytest.fixture
def records(tmp_path: Path) -> list[ImageRecord]:
    return [record(tmp_path / f"{index}.png", index) for index in range(5)]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16"])
def test_every_mode_gives_the_same_grey(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    (deep if mode == "I;16" else Image.fromarray(GREY).convert(mode)).save(path)
    assert Image.open(path).mode == mode
    np.testing.assert_array_equal(read_grey(path), GREY)
    np.testing.assert_array_equal(read_rgb(path), np.repeat(GREY[..., None], 3, axis=2))
    assert read_grey(path).flags.writeable


def test_sixteen_bits_are_rounded_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 128, 129, 32768, 65535]], dtype=np.uint16)).save(path)
    assert read_grey(path).tolist() == [[0, 0, 1, 128, 255]]


def test_transparent_is_black(tmp_path: Path) -> None:
    rgba = np.full((2, 2, 4), 200, dtype=np.uint8)
    rgba[..., 3] = [[0, 255], [255, 0]]
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_grey(tmp_path / "a.png").tolist() == [[0, 200], [200, 0]]
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 255, 255, 90, 90, 90])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_grey(tmp_path / "p.png").tolist() == [[0, 90]]


def test_colour_is_kept(tmp_path: Path) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "c.png"), colour)


def test_floats_and_text_are_no_images(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "f.tiff")
    (tmp_path / "t.png").write_text("hello")
    Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(tmp_path / "i.tiff")
    for name in ("f.tiff", "t.png", "i.tiff", "missing.png"):
        with pytest.raises(InputError, match=name):
            read_grey(tmp_path / name)


def test_square_keeps_order_and_averages(tmp_path: Path) -> None:
    columns = np.zeros((64, 128), dtype=np.uint8)
    columns[:, ::2] = 255  # a pattern finer than the target: without averaging it would come out black or white
    paths = []
    for index in range(9):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(columns if index == 0 else np.full((7, 30), index * 20, dtype=np.uint8)).save(paths[-1])
    square = decode_square(paths, resolution_px=16, workers=3)
    assert square.shape == (9, 16, 16, 3)
    assert square.dtype == np.uint8
    assert abs(int(square[0].min()) - 127) < 8 and abs(int(square[0].max()) - 127) < 8
    assert [int(image.min()) for image in square[1:]] == [int(image.max()) for image in square[1:]]
    assert square[1:, 0, 0, 0].tolist() == [20, 40, 60, 80, 100, 120, 140, 160]
    np.testing.assert_array_equal(square, decode_square(paths, resolution_px=16, workers=1))


def test_square_of_nothing_and_of_bad_size(tmp_path: Path) -> None:
    assert decode_square([], resolution_px=8, workers=2).shape == (0, 8, 8, 3)
    with pytest.raises(InputError, match="resolution_px"):
        decode_square([], resolution_px=0, workers=2)


def test_store_gives_back_rows_in_the_order_asked_for(tmp_path: Path, records: list[ImageRecord]) -> None:
    write_store(tmp_path / "store", records, 16)
    store = open_store(tmp_path / "store")
    assert (len(store), store.resolution_px) == (5, 16)
    asked = ["spanish/3", "spanish/0", "spanish/3"]
    rows = store.rows(asked)
    expected = decode_square([tmp_path / "3.png", tmp_path / "0.png", tmp_path / "3.png"], resolution_px=16, workers=1)
    np.testing.assert_array_equal(rows, expected)
    rows[:] = 0  # a copy: the store is as it was
    np.testing.assert_array_equal(store.rows(asked), expected)
    assert isinstance(store.pixels, np.memmap)
    assert not store.pixels.flags.writeable
    with pytest.raises(InputError, match="spanish/9"):
        store.rows(["spanish/0", "spanish/9"])
    assert store.rows([]).shape == (0, 16, 16, 3)


def test_rows_of_two_stores_stay_mapped_until_asked_for(tmp_path: Path, records: list[ImageRecord]) -> None:
    for name, chosen in (("a", records[:3]), ("b", records[3:])):
        write_store(tmp_path / name, chosen, 16)
    stores = [open_store(tmp_path / name) for name in ("a", "b")]
    asked = [f"spanish/{i}" for i in (4, 0, 3, 1, 0)]
    rows = PixelRows(stores, asked)
    expected = decode_square([tmp_path / f"{i}.png" for i in (4, 0, 3, 1, 0)], resolution_px=16, workers=1)
    assert (rows.shape, rows.dtype, len(rows)) == ((5, 16, 16, 3), np.uint8, 5)
    np.testing.assert_array_equal(rows[np.array([3, 0, 2, 2])], expected[[3, 0, 2, 2]])
    np.testing.assert_array_equal(rows[1:4], expected[1:4])
    assert rows[np.array([], dtype=np.int64)].shape == (0, 16, 16, 3)
    assert type(rows[:]) is np.ndarray and rows[:].flags.writeable
    assert PixelRows(stores, []).shape == (0, 16, 16, 3)
    with pytest.raises(InputError, match=r"spanish/7.*2 are not"):
        PixelRows(stores, ["spanish/0", "spanish/7", "spanish/8"])
    write_store(tmp_path / "b", records[3:], 8)
    with pytest.raises(InputError, match="one resolution"):
        PixelRows([stores[0], open_store(tmp_path / "b")], ["spanish/0"])


def test_mapped_rows_take_no_memory_of_their_own(tmp_path: Path) -> None:
    """In a process of its own: what is private to it grows by a batch, not by the store (47 MB)."""
    program = """
import re, sys, numpy as np
from pathlib import Path
from fulora.data.pixels import PixelRows, PixelStore
if sys.argv[2] == "write":
    pixels = np.random.default_rng(0).integers(0, 256, (240, 256, 256, 3), dtype=np.uint8)
    np.save(sys.argv[1], pixels)
    raise SystemExit
def private():  # file pages this process alone maps are not its own: they can be dropped, and are shared with others
    return int(re.search(r"^Anonymous: +(\\d+)", Path("/proc/self/smaps_rollup").read_text(), re.M)[1]) / 1024
pixels = np.load(sys.argv[1], mmap_mode="r")
ids = [str(i) for i in range(len(pixels))]
rows = PixelRows([PixelStore(pixels, ids)], ids)
before = private()
kept = rows if sys.argv[2] == "rows" else rows[:]
checksum = sum(int(kept[np.arange(i, i + 24)].sum(dtype=np.int64)) for i in range(0, 240, 24))
print(checksum, private() - before)
"""
    found = {}
    for way in ("write", "rows", "array"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "pixels.npy"), way], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found[way] = done.stdout.split()
    assert found["rows"][0] == found["array"][0]
    assert float(found["array"][1]) > 40, "the measure sees a copy where there is one"
    assert float(found["rows"][1]) < 15


def test_a_store_of_many_images_is_what_decoding_them_gives(tmp_path: Path) -> None:
    many = [record(tmp_path / f"{number}.png", number) for number in range(150)]  # more than are decoded at once
    write_store(tmp_path / "many", many, 8)
    expected = decode_square([one.path for one in many], resolution_px=8, workers=1)
    np.testing.assert_array_equal(open_store(tmp_path / "many").pixels, expected)
    assert len(np.unique(expected.reshape(150, -1), axis=0)) == 150


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_finished_store_is_reused_and_another_replaces_it(tmp_path: Path, records: list[ImageRecord]) -> None:
    folder = tmp_path / "store"
    write_store(folder, records, 16)
    first = stamps(folder)
    write_store(folder, records, 16)
    assert stamps(folder) == first
    for other, resolution_px in ((records, 8), (records[:4], 8), (records[::-1], 8)):
        write_store(folder, other, resolution_px)
        assert open_store(folder).image_ids == tuple(one.image_id for one in other)
        assert open_store(folder).resolution_px == resolution_px
        assert len(stamps(folder)) == 2  # the old pixels are gone
    changed = [record(tmp_path / "4.png", 99), *records[:4]]
    write_store(folder, changed, 8)
    np.testing.assert_array_equal(
        open_store(folder).rows(["spanish/4"]), decode_square([tmp_path / "4.png"], resolution_px=8, workers=1)
    )


@pytest.mark.parametrize("name", ["pixels", "index"])
def test_half_a_store_is_written_again(tmp_path: Path, records: list[ImageRecord], name: str) -> None:
    folder = tmp_path / "store"
    write_store(folder, records, 16)
    whole = open_store(folder).rows(["spanish/1"])
    (path,) = folder.glob(f"{name}*")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match="pixel store"):
        open_store(folder)
    write_store(folder, records, 16)
    np.testing.assert_array_equal(open_store(folder).rows(["spanish/1"]), whole)


def test_failed_write_leaves_the_old_store_and_no_rubbish(tmp_path: Path, records: list[ImageRecord]) -> None:
    folder = tmp_path / "store"
    write_store(folder, records, 16)
    before = stamps(folder)
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2\.png"):
        write_store(folder, records, 8)
    assert stamps(folder) == before
    assert len(open_store(folder)) == 5


def test_image_changed_since_the_catalog(tmp_path: Path, records: list[ImageRecord]) -> None:
    record(tmp_path / "1.png", 77)
    with pytest.raises(InputError, match="not the file in the catalog"):
        write_store(tmp_path / "store", records, 8)
    unknown = [dataclasses.replace(one, sha256="") for one in records]
    write_store(tmp_path / "store", unknown, 8)
    assert len(open_store(tmp_path / "store")) == 5


def test_store_that_cannot_be(tmp_path: Path, records: list[ImageRecord]) -> None:
    with pytest.raises(InputError, match=r"spanish/0.*twice"):
        write_store(tmp_path / "store", [*records, records[0]], 8)
    with pytest.raises(InputError, match="pixel store"):
        open_store(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_store(tmp_path / "file" / "store", records, 8)


def test_index_is_plain_json(tmp_path: Path, records: list[ImageRecord]) -> None:
    write_store(tmp_path, records, 8)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["image_ids"] == [one.image_id for one in records]
    assert index["sha256"] == [one.sha256 for one in records]
    assert np.load(tmp_path / index["pixels"]).shape == (5, 8, 8, 3)
