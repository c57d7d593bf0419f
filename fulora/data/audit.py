"""Images that are in a catalog twice.

In: records. Out: pairs of images with equal pixels, whatever their files, patients or splits say; the records without
training images that are elsewhere too.
Source: measured: the published African set has pixel-identical images under different patient numbers, some of them in
both its training and its test split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from fulora.data.records import ImageRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicatePair:
    """Two images that are one; `image_a` sorts before `image_b`."""

    kind: Literal["pixels"]
    """How they are equal: `pixels` = the decoded grey pixels are the same."""
    image_a: str
    """The first image's id."""
    image_b: str
    """The second image's id."""
    split_a: str
    """The first image's published split."""
    split_b: str
    """The second image's published split; a pair of train and test is a leak."""
    source_a: str
    """The first image's source."""
    source_b: str
    """The second image's source."""
    patient_a: str
    """The first image's patient."""
    patient_b: str
    """The second image's patient."""
    same_plane: bool
    """Whether both carry the same label."""


def find_duplicates(records: Iterable[ImageRecord]) -> list[DuplicatePair]:
    """Return every pair of images with equal pixels, sorted; the order of the records does not matter.

    Three equal images are three pairs.
    """
    equal: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        equal[record.pixel_hash].append(record)
    pairs = [
        _pair(a, b)
        for group in equal.values()
        if len(group) > 1
        for a, b in combinations(sorted(group, key=lambda record: record.image_id), 2)
    ]
    return sorted(pairs, key=lambda pair: (pair.image_a, pair.image_b))


def without_duplicates(records: Iterable[ImageRecord]) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return the records to keep, in their order, and the training images left out.

    Of images with equal pixels a test image stays, and of training images alone the one whose id sorts first. Test
    images all stay: which of them a score counts is the score's matter.
    """
    records = list(records)
    tested = {record.pixel_hash for record in records if record.split != "train"}
    first: dict[str, str] = {}
    for record in sorted((r for r in records if r.split == "train"), key=lambda r: r.image_id):
        first.setdefault(record.pixel_hash, record.image_id)
    dropped = [
        r for r in records if r.split == "train" and (r.pixel_hash in tested or first[r.pixel_hash] != r.image_id)
    ]
    gone = {record.image_id for record in dropped}
    return [record for record in records if record.image_id not in gone], dropped


def _pair(a: ImageRecord, b: ImageRecord) -> DuplicatePair:
    return DuplicatePair(
        kind="pixels",
        image_a=a.image_id,
        image_b=b.image_id,
        split_a=a.split,
        split_b=b.split,
        source_a=a.source,
        source_b=b.source,
        patient_a=a.patient_id,
        patient_b=b.patient_id,
        same_plane=a.plane == b.plane,
    )
