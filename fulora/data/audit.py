"""Duplicate audit: pairs of images in a catalog with equal or nearly equal pixels.

In: records. Out: pairs of images with equal pixels, whatever their files, patients or splits are, and pairs with nearly
equal perceptual hashes (`fulora.data.near_duplicates`); the records without training images that leak test images.
Source: measured: the published African set has pixel-identical images under different patient numbers, some of them in
both its training and its test split. Among its 295 images, 16 pairs are equal and no other pair is nearly equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal

from fulora.data.near_duplicates import NEAR_BITS, RULE, least_distances, near_pairs
from fulora.data.records import ImageRecord

ImageSetName = Literal["train", "test", "lora", "synthetic"]
"""Use of an image. `test`: the published test split; `lora`: the training images LoRA is fine-tuned on; `train`: all
other training images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicatePair:
    """Two images with equal or nearly equal pixels; `image_a` sorts before `image_b`."""

    kind: Literal["pixels", "perceptual"]
    """`pixels`: the decoded grey pixels are equal; `perceptual`: nearly equal by their hashes."""
    distance: int
    """Hamming distance of the perceptual hashes of 512 bits; 0 for equal pixels."""
    image_a: str
    """The first image's id."""
    image_b: str
    """The second image's id."""
    set_a: ImageSetName
    """Use of the first image."""
    set_b: ImageSetName
    """Use of the second image; a pair of `test` and any other use is a leak."""
    split_a: str
    """The first image's published split; `train` for a synthetic image."""
    split_b: str
    """The second image's published split."""
    source_a: str
    """The first image's source."""
    source_b: str
    """The second image's source."""
    patient_a: str
    """The first image's patient."""
    patient_b: str
    """The second image's patient."""
    same_plane: bool
    """Whether both have the same label."""

    @property
    def leak(self) -> bool:
        """Whether exactly one of the two is a test image."""
        return (self.set_a == "test") != (self.set_b == "test")


def find_duplicates(records: Iterable[ImageRecord], *, lora: Collection[str] = ()) -> list[DuplicatePair]:
    """Return every pair of images with equal or nearly equal pixels, sorted; the order of the records does not matter.

    `lora` is the ids of the images LoRA is fine-tuned on. Three equal images make three pairs. A synthetic image is
    paired only with the nearest image of each set, as a model may generate the same image thousands of times.
    """
    # Synthetic images first: each is then the earlier of all its pairs.
    images = sorted(records, key=lambda r: (r.source != "synthetic", r.image_id))
    sets = [_set_of(image, lora) for image in images]
    found = {pair: 0 for pair in _equal_pairs(images, sets)}
    pairs = [_pair(images, sets, places, "pixels", 0) for places in found]
    hashes = [image.perceptual_hash for image in images]
    synthetic = [name == "synthetic" for name in sets]
    for first, second, distance in near_pairs(hashes, nearest_only=synthetic, groups=sets):
        if (first, second) not in found:
            pairs.append(_pair(images, sets, (first, second), "perceptual", distance))
    return sorted(pairs, key=lambda pair: (pair.kind == "perceptual", pair.image_a, pair.image_b))


def describe_pairs(pairs: Sequence[DuplicatePair]) -> list[str]:
    """Return a sentence per kind of pair: the number of pairs, and how many leak a test image into training."""
    sentences = []
    for kind, words in (("pixels", "equal pixels"), ("perceptual", f"nearly equal pixels ({RULE})")):
        of_kind = [pair for pair in pairs if pair.kind == kind]
        leaks = [{pair.set_a, pair.set_b} for pair in of_kind if pair.leak]
        by_set = "".join(
            f", {what}: {count}"
            for name, what in (("lora", "with a LoRA training image"), ("synthetic", "with a synthetic image"))
            if (count := sum(name in leak for leak in leaks))
        )
        if of_kind:
            leaked = f"of a test and a training image: {len(leaks)}{by_set}"
            sentences.append(f"pairs of images with {words}: {len(of_kind)}, {leaked}")
    return sentences


def patients_on_both_sides(records: Iterable[ImageRecord]) -> list[str]:
    """Return the sorted patients with images in both the training and the test split: leakage by patient."""
    sides: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.patient_id:
            sides[record.patient_id].add(record.split)
    return sorted(patient for patient, splits in sides.items() if len(splits) > 1)


def without_duplicates(records: Iterable[ImageRecord]) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return the records to keep, in their order, and the training images left out.

    Left out are training images that are duplicates or near duplicates of a test image of any source, training images
    of test patients, and of training images with equal pixels all but the one whose id sorts first. Training images
    that are only near duplicates of each other are kept: they are frames of one sweep. All test images are kept; the
    table of deduplicated scores leaves test duplicates out.
    """
    records = list(records)
    tested = [record for record in records if record.split != "train"]
    equal, train = {record.pixel_hash for record in tested}, [r for r in records if r.split == "train"]
    nearest = least_distances([r.perceptual_hash for r in train], [r.perceptual_hash for r in tested])
    both = set(patients_on_both_sides(records))
    first: dict[str, str] = {}
    for record in sorted(train, key=lambda r: r.image_id):
        first.setdefault(record.pixel_hash, record.image_id)
    dropped = [
        r
        for r, distance in zip(train, nearest, strict=True)
        if r.pixel_hash in equal or distance <= NEAR_BITS or r.patient_id in both or first[r.pixel_hash] != r.image_id
    ]
    gone = {record.image_id for record in dropped}
    return [record for record in records if record.image_id not in gone], dropped


def _set_of(record: ImageRecord, lora: Collection[str]) -> ImageSetName:
    if record.source == "synthetic":
        return "synthetic"
    if record.split != "train":
        return "test"
    return "lora" if record.image_id in lora else "train"


def _equal_pairs(images: Sequence[ImageRecord], sets: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield positions of images with equal pixels, the earlier first; a synthetic one is paired with one per set."""
    equal: dict[str, list[int]] = defaultdict(list)
    for place, image in enumerate(images):
        equal[image.pixel_hash].append(place)
    for group in equal.values():
        drawn = [place for place in group if sets[place] == "synthetic"]
        real = [place for place in group if sets[place] != "synthetic"]
        yield from pairwise(drawn)
        one_of_each = {sets[place]: place for place in reversed(real)}.values()
        yield from ((place, other) for place in drawn for other in one_of_each)
        yield from combinations(real, 2)


def _pair(
    images: Sequence[ImageRecord],
    sets: Sequence[ImageSetName],
    places: tuple[int, int],
    kind: Literal["pixels", "perceptual"],
    distance: int,
) -> DuplicatePair:
    first, second = sorted(places, key=lambda place: images[place].image_id)
    a, b = images[first], images[second]
    return DuplicatePair(
        kind=kind,
        distance=distance,
        image_a=a.image_id,
        image_b=b.image_id,
        set_a=sets[first],
        set_b=sets[second],
        split_a=a.split,
        split_b=b.split,
        source_a=a.source,
        source_b=b.source,
        patient_a=a.patient_id,
        patient_b=b.patient_id,
        same_plane=a.plane == b.plane,
    )
