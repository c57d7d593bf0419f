"""Images that are in a catalog twice."""

from __future__ import annotations

from fulora.data.audit import find_duplicates, without_duplicates
from fulora.data.records import ImageRecord


def record(name: str, pixel_hash: str, *, split: str = "train", plane: str = "brain") -> ImageRecord:
    return ImageRecord(
        image_id=f"african/{name}",
        path="",
        source="african",
        plane=plane,
        patient_id=f"african/{name[0]}",
        centre="",
        machine=None,
        split=split,
        width_px=1,
        height_px=1,
        sha256=name,
        pixel_hash=pixel_hash,
    )


def test_pairs_name_the_leak_and_the_label_conflict() -> None:
    records = [
        record("b1", "x", split="test"),
        record("a1", "x"),
        record("c1", "y"),
        record("c2", "z"),
        record("d1", "z", plane="femur"),
    ]
    first, second = find_duplicates(records)
    assert (first.image_a, first.image_b) == ("african/a1", "african/b1")
    assert (first.split_a, first.split_b) == ("train", "test")
    assert (first.patient_a, first.patient_b) == ("african/a", "african/b")
    assert (first.source_a, first.source_b, first.kind) == ("african", "african", "pixels")
    assert first.same_plane
    assert not second.same_plane
    assert find_duplicates(reversed(records)) == [first, second]


def test_three_equal_images_are_three_pairs_and_none_is_none() -> None:
    assert len(find_duplicates([record(name, "x") for name in "abc"])) == 3
    assert find_duplicates([record("a", "x"), record("b", "y")]) == []
    assert find_duplicates([]) == []


def test_of_equal_images_the_test_image_stays_and_else_the_first() -> None:
    records = [
        record("b1", "x", split="test"),
        record("b2", "x", split="test"),
        record("a1", "x"),
        record("d2", "z"),
        record("c1", "y"),
        record("d1", "z"),
    ]
    kept, dropped = without_duplicates(records)
    assert [r.image_id for r in kept] == [f"african/{name}" for name in ("b1", "b2", "c1", "d1")]
    assert {r.image_id for r in dropped} == {"african/a1", "african/d2"}
    assert without_duplicates(kept) == (kept, [])
