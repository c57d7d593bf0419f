"""Selections: manifests of images in roles, written once, known by what they hold and not by where it lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fulora.data.records import ImageRecord
from sweeps.core.paths import RunPaths
from sweeps.core.selections import MANIFEST, Selection, read_selection
from sweeps.core.store import Damaged
from sweeps.core.tables import read_rows

from ..studies import do, made_up

TRAIN = [made_up("spanish", plane, number) for plane in ("brain", "femur") for number in range(3)]
HELD = [made_up("spanish", "other", 7), made_up("african", "thorax", 1)]


def selection(train: list[ImageRecord] = TRAIN, held: list[ImageRecord] = HELD) -> Selection:
    return Selection(label="some images", roles={"train": train, "heldout": held}, notes=("fewer than asked for",))


def moved(records: list[ImageRecord], folder: Path) -> list[ImageRecord]:
    return [replace(r, path=str(folder / Path(r.path).name)) for r in records]


def test_a_manifest_has_a_row_per_image_and_role_and_reads_back_as_the_records(tmp_path: Path) -> None:
    store = RunPaths(tmp_path).store
    step = selection().write(store)
    rows = read_rows(store.folder(step) / MANIFEST, "manifest")
    assert [(r["role"], r["image_id"]) for r in rows] == [
        *(("train", r.image_id) for r in TRAIN), *(("heldout", r.image_id) for r in HELD)
    ]  # fmt: skip
    assert read_selection(store.folder(step), store.root) == {"train": TRAIN, "heldout": HELD}
    record = store.done(step)
    assert record is not None and record.notes == ("fewer than asked for",)
    assert (record.metrics["num_train"], record.metrics["num_heldout"]) == (6, 2)


def test_the_key_holds_images_roles_and_order_and_no_path() -> None:
    key = selection().step.key
    assert selection(moved(TRAIN, Path("/elsewhere"))).step.key == key
    others = [
        selection(TRAIN[::-1]), selection(HELD, TRAIN), selection(TRAIN[:-1]), selection([*TRAIN, *HELD], []),
        selection([replace(TRAIN[0], pixel_hash="other pixels"), *TRAIN[1:]]),
        selection([replace(TRAIN[0], plane="thorax"), *TRAIN[1:]]),
        selection([replace(TRAIN[0], patient_id="of another"), *TRAIN[1:]]),
    ]  # fmt: skip
    assert len({key, *(other.step.key for other in others)}) == 1 + len(others)


def test_images_that_were_moved_are_found_under_the_same_key(tmp_path: Path) -> None:
    store = RunPaths(tmp_path).store
    file = store.folder(selection().write(store)) / MANIFEST
    first = file.stat().st_mtime_ns
    assert selection().write(store) == selection().step and file.stat().st_mtime_ns == first, "nothing is written twice"
    there = selection(moved(TRAIN, tmp_path.parent / "there"), moved(HELD, tmp_path.parent / "there"))
    assert there.write(store).key == selection().step.key and file.stat().st_mtime_ns > first
    found = read_selection(file.parent, store.root)
    assert found == {"train": list(there.roles["train"]), "heldout": list(there.roles["heldout"])}
    assert store.done(there.step) is not None


def test_images_inside_a_run_move_with_it(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    step = selection(moved(TRAIN, before / "phantoms"), moved(HELD, tmp_path / "data")).write(RunPaths(before).store)
    before.rename(after)
    store = RunPaths(after).store
    assert store.done(step) is not None
    found = read_selection(store.folder(step), after)
    assert [r.path for r in found["train"]] == [r.path for r in moved(TRAIN, after / "phantoms")]
    assert [r.path for r in found["heldout"]] == [r.path for r in moved(HELD, tmp_path / "data")]


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_manifest_is_written_again(tmp_path: Path, damage: str) -> None:
    store = RunPaths(tmp_path).store
    step = selection().write(store)
    file = store.folder(step) / MANIFEST
    file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Damaged):
        store.done(step)
    selection().write(store)
    assert store.done(step) is not None
    assert read_selection(file.parent, store.root) == {"train": TRAIN, "heldout": HELD}


def test_no_executor_makes_a_selection(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    (attempt,) = do([selection().step], paths)
    assert attempt.status == "FAILED" and "'some images' is written when the study is planned" in str(
        attempt.error_message
    )
    assert not paths.store.folder(selection().step).exists()
