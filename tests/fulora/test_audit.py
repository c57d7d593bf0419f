"""Images that are in a catalog twice, by their pixels or nearly so."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fulora.cli import main
from fulora.data.audit import DuplicatePair, describe_pairs, find_duplicates, patients_on_both_sides, without_duplicates
from fulora.data.near_duplicates import (
    NEAR_BITS,
    NUM_BITS,
    distances,
    hash_words,
    least_distances,
    near_pairs,
    perceptual_hash,
)
from fulora.data.phantoms import PhantomConfig, write_phantoms
from fulora.data.pixels import read_grey
from fulora.data.records import ImageRecord
from fulora.data.sources import read_source

BITS = np.random.default_rng(0).integers(0, 2, NUM_BITS, dtype=np.uint8)


def record(
    name: str,
    pixels: str,
    *,
    split: str = "train",
    plane: str = "brain",
    source: str = "african",
    flipped: int | None = None,
) -> ImageRecord:
    """Return a record whose perceptual hash is `flipped` bits from that of the others; none where that is not given."""
    return ImageRecord(
        image_id=f"{source}/{name}",
        path="",
        source=source,
        plane=plane,
        patient_id="" if source == "synthetic" else f"{source}/{name[0]}",
        centre="",
        machine=None,
        split=split,
        width_px=1,
        height_px=1,
        sha256=name,
        pixel_hash=pixels,
        perceptual_hash="" if flipped is None else flip(flipped),
    )


def flip(count: int) -> str:
    bits = BITS.copy()
    bits[:count] ^= 1
    return np.packbits(bits).tobytes().hex()


def ids(pairs: list[DuplicatePair]) -> list[tuple[str, str, str, int]]:
    return [(p.image_a.split("/")[1], p.image_b.split("/")[1], p.kind, p.distance) for p in pairs]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "made"
    write_phantoms(folder, PhantomConfig(num_spanish=20, num_african_train=40, num_african_test=20), seed=0)
    return folder


def test_pairs_name_the_leak_and_the_label_conflict() -> None:
    records = [
        record("b1", "x", split="test"),
        record("a1", "x"),
        record("c1", "y"),
        record("c2", "z"),
        record("d1", "z", plane="femur"),
    ]
    first, second = find_duplicates(records, lora={"african/c2"})
    assert (first.image_a, first.image_b) == ("african/a1", "african/b1")
    assert (first.split_a, first.split_b) == (first.set_a, first.set_b) == ("train", "test")
    assert (first.patient_a, first.patient_b) == ("african/a", "african/b")
    assert (first.source_a, first.source_b, first.kind, first.distance) == ("african", "african", "pixels", 0)
    assert first.same_plane and first.leak
    assert not second.same_plane and not second.leak
    assert (second.set_a, second.set_b) == ("lora", "train")
    assert find_duplicates(reversed(records), lora={"african/c2"}) == [first, second]


def test_three_equal_images_are_three_pairs_and_none_is_none() -> None:
    assert len(find_duplicates([record(name, "x") for name in "abc"])) == 3
    assert find_duplicates([record("a", "x"), record("b", "y")]) == []
    assert find_duplicates([]) == []


def test_near_pairs_end_at_the_threshold_and_equal_pixels_are_one_pair() -> None:
    records = [
        record("a", "1", flipped=0),
        record("b", "1", flipped=0),
        record("c", "2", flipped=NEAR_BITS),
        record("d", "3", flipped=NEAR_BITS + 1, split="test"),
        record("e", "4"),
        record("f", "5"),
    ]
    found = find_duplicates(records)
    near = [("a", "c", "perceptual", 40), ("b", "c", "perceptual", 40), ("c", "d", "perceptual", 1)]
    assert ids(found) == [("a", "b", "pixels", 0), *near]
    assert [pair.leak for pair in found] == [False, False, False, True]
    random.Random(0).shuffle(records)
    assert find_duplicates(records) == found
    exact, nearly = describe_pairs(find_duplicates(records, lora={"african/c"}))
    assert "equal pixels: 1, of a test and a training image: 0" in exact
    assert nearly.endswith(": 3, of a test and a training image: 1, with a LoRA training image: 1")
    assert describe_pairs([]) == []


def test_a_synthetic_image_is_paired_with_the_nearest_of_each_set_however_many_are_alike() -> None:
    drawn = [record(f"s{i:03d}", "black", source="synthetic", flipped=i % 3) for i in range(300)]
    real = [record("t1", "1", split="test", flipped=9), record("t2", "2", split="test", flipped=5)]
    real += [record("l", "3", flipped=20), record("u", "black", flipped=200)]
    found = find_duplicates([*real, *drawn], lora={"african/l"})
    assert {p.image_a for p in found if p.image_b == "synthetic/s000"} == {"african/l", "african/t2", "african/u"}
    per_image = [sum(pair.image_b == image.image_id for pair in found if pair.set_a != "synthetic") for image in drawn]
    assert set(per_image) == {3}
    assert sum(pair.set_a == pair.set_b == "synthetic" for pair in found) < 2 * len(drawn)
    assert {p.distance for p in found if p.image_a == "african/t2"} == {3, 4, 5}
    assert "with a synthetic image: 300" in describe_pairs(found)[1]


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


def test_what_nearly_equals_a_test_image_of_any_source_goes_and_frames_of_a_sweep_stay() -> None:
    records = [
        record("t", "1", split="test", source="spanish", flipped=0),
        record("a", "2", flipped=NEAR_BITS),
        record("b", "3", flipped=NEAR_BITS + 1),
        record("c", "4", flipped=NEAR_BITS + 2),
        record("d", "5"),
    ]
    kept, dropped = without_duplicates(records)
    assert [r.image_id for r in dropped] == ["african/a"]
    assert not [pair for pair in find_duplicates(kept) if pair.leak]
    assert ids(find_duplicates(kept)) == [("b", "c", "perceptual", 1)]


def test_pairs_and_least_distances_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    seeds = rng.integers(0, 2, (40, NUM_BITS), dtype=np.uint8)
    bits = seeds[rng.integers(0, 40, 700)] ^ (rng.random((700, NUM_BITS)) < 0.04)
    hashes = [np.packbits(row).tobytes().hex() for row in bits]
    for place in range(0, 700, 50):
        hashes[place] = ""
    apart = (bits[:, None] != bits[None]).sum(2)
    wanted = {
        (i, j, int(apart[i, j]))
        for i in range(700)
        for j in range(i + 1, 700)
        if hashes[i] and hashes[j] and apart[i, j] <= NEAR_BITS
    }
    found = list(near_pairs(hashes, nearest_only=[False] * 700, groups=[""] * 700))
    assert 1000 < len(found) == len(set(found)) and set(found) == wanted
    least = least_distances(hashes[:300], hashes[300:])
    there = [j for j in range(300, 700) if hashes[j]]
    assert least == [int(apart[i, there].min()) if hashes[i] else NUM_BITS + 1 for i in range(300)]
    assert least_distances(hashes[:2], ["", ""]) == [NUM_BITS + 1] * 2 and least_distances([], hashes) == []


def _jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return Image.open(buffer)


def _text(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((5, 5), "GA 24w3d", fill=255, font_size=9)
    return image


ALTERED = {
    "re-encoded": _jpeg,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "0.9 of the size": lambda image: image.resize((round(image.width * 0.9), round(image.height * 0.9))),
    "brighter": lambda image: image.point(lambda level: min(255, level * 1.15)),
    "less contrast": lambda image: image.point(lambda level: 128 + (level - 128) * 0.9),
    "cropped": lambda image: image.crop((0, 1, image.width, image.height)),
    "text": _text,
}


@pytest.mark.parametrize("name", ALTERED)
def test_altered_copies_are_found_and_other_phantoms_are_not(phantoms: Path, name: str) -> None:
    images = [Image.fromarray(read_grey(path)) for path in sorted((phantoms / "african").glob("*/*.png"))[:60]]
    hashes = [perceptual_hash(np.asarray(image)) for image in images]
    copies = [perceptual_hash(np.asarray(ALTERED[name](image))) for image in images]
    apart = distances(hash_words(hashes), hash_words(copies))
    assert (np.diag(apart) <= NEAR_BITS).all()
    assert apart[~np.eye(len(images), dtype=bool)].min() > NEAR_BITS


@pytest.mark.parametrize("shape", [(64, 64), (7, 300), (1, 1)])
def test_an_image_that_shows_next_to_nothing_has_no_hash(shape: tuple[int, int]) -> None:
    assert perceptual_hash(np.zeros(shape, np.uint8)) == perceptual_hash(np.full(shape, 200, np.uint8)) == ""
    noise = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    assert perceptual_hash(noise) == ""


def test_the_readers_hash_and_the_command_names_each_pair_and_its_leak(
    phantoms: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    source = next(iter(read_source(phantoms / "african", source="african")))
    image = Image.open(source.path).convert("L")
    image.save(folder / "a.png")
    image.resize((image.width * 2, image.height * 2)).save(folder / "b.png")
    image.transpose(Image.Transpose.ROTATE_180).save(folder / "c.png")
    rows = ["a.png,brain,1,test", "b.png,brain,2,train", "c.png,brain,3,train"]
    (folder / "list.csv").write_text("\n".join(["file_name,plane,patient,split", *rows]))
    pair, *others = find_duplicates(read_source(folder, source="african"))
    assert others == [] and pair.kind == "perceptual" and pair.leak
    assert run(folder) == 1
    assert "african/2) , " not in (said := capsys.readouterr().out) and " ~ african/b" in said and "bits apart" in said
    assert run("--spanish", phantoms / "spanish", "--african", folder) == 1
    assert "of a test and a training image: 1" in capsys.readouterr().out
    assert run("--spanish", phantoms / "spanish") == 0
    for wrong in ((), (folder, "--african", folder)):
        assert run(*wrong) == 2
        assert "folder" in capsys.readouterr().err


def test_a_patient_on_both_sides_is_named_and_not_trained_on() -> None:
    records = [record("a1", "x"), record("a2", "y", split="test"), record("b1", "z"), record("c1", "w", split="test")]
    assert patients_on_both_sides(records) == ["african/a"]
    kept, dropped = without_duplicates(records)
    assert [r.image_id for r in dropped] == ["african/a1"] and len(kept) == 3
    assert patients_on_both_sides(kept) == []


def run(*words: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["audit", *map(str, words)])
    return ended.value.code
