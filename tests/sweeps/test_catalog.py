"""The leak gate in a run: what it lists, what it says, and what `fixed` leaves out of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.phantoms import PhantomConfig, write_phantoms
from fulora.data.pixels import pixel_hash, read_grey
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_lora_images
from fulora.data.sources import read_source
from fulora.experiment import Experiment
from fulora.recipes import demo
from sweeps.catalog import audit_synthetic, build_catalog, read_catalog, read_synthetic
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, write_table
from sweeps.experiment import make_plan
from sweeps.trials import data_hash

LORA_PER_PLANE = 2


def altered(path: str | Path) -> np.ndarray:
    """Return an image brighter and smaller: other pixels, the same picture."""
    image = Image.fromarray(read_grey(path)).point(lambda level: min(255, level * 1.1))
    return np.asarray(image.resize((round(image.width * 0.8), round(image.height * 0.8))))


def put(pixels: np.ndarray, record: ImageRecord) -> None:
    """Write pixels in the place of a record's image."""
    Image.fromarray(pixels).save(record.path)


@pytest.fixture
def leaky(tmp_path: Path) -> tuple[Experiment, dict[str, str]]:
    """Phantoms in which three test images are training images too, and the ids of all that is planted."""
    folder = tmp_path / "data"
    write_phantoms(folder, PhantomConfig(num_spanish=40, num_african_train=8, num_african_test=12), seed=0)
    spanish = read_source(folder / "spanish", source="spanish")
    african = read_source(folder / "african", source="african")
    train, test = ([r for r in african if r.split == split] for split in ("train", "test"))
    learned, _ = select_lora_images(spanish, per_plane=LORA_PER_PLANE, seed=0)
    other = next(r for r in spanish if r not in learned)
    put(read_grey(train[0].path), test[0])
    put(altered(train[1].path), test[1])
    put(altered(learned[0].path), test[2])
    put(altered(other.path), train[2])
    base = demo()
    experiment = replace(
        base,
        spanish=folder / "spanish",
        african=folder / "african",
        lora=replace(base.lora, images_per_plane=LORA_PER_PLANE),
    )
    names = {"same": train[0].image_id, "near": train[1].image_id, "learned": learned[0].image_id}
    names |= {"same in test": test[0].image_id, "near in test": test[1].image_id, "learned in test": test[2].image_id}
    return experiment, names


def pairs_in(paths: RunPaths) -> dict[tuple[str, str], tuple[str, str, str]]:
    rows = read_rows(paths.audit, "audit")
    return {(r["image_a"], r["image_b"]): (r["kind"], r["set_a"], r["set_b"]) for r in rows}


def planted(names: dict[str, str]) -> dict[tuple[str, str], tuple[str, str, str]]:
    found = {}
    for what, kind, name in (("same", "pixels", "train"), ("near", "perceptual", "train"), ("learned", "", "lora")):
        images = {names[what]: name, names[f"{what} in test"]: "test"}
        a, b = sorted(images)
        found[a, b] = (kind or "perceptual", images[a], images[b])
    return found


def test_the_gate_lists_what_leaks_and_warns_and_goes_on(leaky: tuple[Experiment, dict[str, str]], tmp_path: Path):
    experiment, names = leaky
    paths = RunPaths(tmp_path / "run")
    records, notes = build_catalog(experiment, paths, Quiet())
    assert len(records) == 60 and read_catalog(paths) == records
    leaks = {pair: row for pair, row in pairs_in(paths).items() if "test" in row[1:]}
    assert leaks == planted(names)
    assert len(pairs_in(paths)) == 4, "and a training image that nearly equals another"
    assert "pairs of images with equal pixels: 1, of a test image and one to train on: 1" in notes
    assert any(n.endswith(": 3, of a test image and one to train on: 2, one LoRA learns from: 1") for n in notes)


def test_fixed_leaves_leaks_out_of_training_and_of_lora_and_keeps_them_listed(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, names = leaky
    paths = RunPaths(tmp_path / "run")
    records, notes = build_catalog(replace(experiment, drop_duplicates=True), paths, Quiet())
    gone = {names["same"], names["near"], names["learned"]}
    assert len(records) == 57 and not gone & {r.image_id for r in records}
    assert any(note.startswith("3 training images are left out") for note in notes)
    a, b = sorted((names["learned"], names["learned in test"]))
    assert set(pairs_in(paths)[a, b][1:]) == {"train", "test"}, "LoRA learns from another image now"
    learned, _ = select_lora_images(records, per_plane=LORA_PER_PLANE, seed=0)
    assert len(learned) == 5 * LORA_PER_PLANE and "lora" not in str(planted_leaks(paths))


def planted_leaks(paths: RunPaths) -> list[tuple[str, str, str]]:
    return [row for row in pairs_in(paths).values() if "test" in row[1:]]


def own_image(seed: int) -> np.ndarray:
    """Return an image that is like no other."""
    return np.kron(np.random.default_rng(seed).integers(0, 255, (20, 20), np.uint8), np.ones((4, 4), np.uint8))


def draw(paths: RunPaths, images: dict[str, np.ndarray]) -> None:
    """Write synthetic images as a run has them after sampling."""
    rows = []
    for name, pixels in images.items():
        file = paths.synthetic / "brain" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        row = {"file_name": f"brain/{name}.png", "image_id": name, "plane": "brain", "sha256": f"sha of {name}"}
        rows.append(row | {"pixel_hash": pixel_hash(pixels)})
    write_table(paths.synthetic / "metadata.parquet", "metadata", rows)


def test_synthetic_images_are_compared_with_test_train_and_lora_before_training(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, names = leaky
    paths = RunPaths(tmp_path / "run")
    records, _ = build_catalog(experiment, paths, Quiet())
    before, by_id = pairs_in(paths), {r.image_id: r for r in records}
    tested = next(r for r in records if r.split == "test" and r.image_id not in names.values())
    own = {f"own{i}": own_image(i) for i in range(3)}
    draw(paths, {"copy": altered(tested.path), "learned": read_grey(by_id[names["learned"]].path), **own})
    synthetic, notes = audit_synthetic(experiment, records, paths)
    found = pairs_in(paths)
    added = {pair: row for pair, row in found.items() if pair not in before}
    assert {pair: found[pair] for pair in before} == before
    assert added == {
        (tested.image_id, "synthetic/copy"): ("perceptual", "test", "synthetic"),
        (names["learned"], "synthetic/learned"): ("pixels", "lora", "synthetic"),
        (names["learned in test"], "synthetic/learned"): ("perceptual", "test", "synthetic"),
    }
    assert len(synthetic) == 5 and all(r.perceptual_hash for r in synthetic)
    assert any("one to train on: 2, a synthetic one: 2" in note for note in notes)
    fixed = replace(experiment, drop_duplicates=True)
    kept, notes = audit_synthetic(fixed, records, paths)
    assert sorted(r.image_id for r in kept) == [f"synthetic/{name}" for name in own]
    assert any(note.startswith("2 synthetic images are left out") for note in notes)
    assert read_synthetic(paths, without_leaks=True) == kept and len(read_synthetic(paths)) == 5


def test_hashes_of_synthetic_images_are_made_once_and_again_where_they_are_lost(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, _ = leaky
    paths = RunPaths(tmp_path / "run")
    records, _ = build_catalog(experiment, paths, Quiet())
    draw(paths, {"own": own_image(0)})
    first, _ = audit_synthetic(experiment, records, paths)
    (paths.synthetic / "brain" / "own.png").rename(tmp_path / "away.png")
    assert audit_synthetic(experiment, records, paths)[0] == first
    (tmp_path / "away.png").rename(paths.synthetic / "brain" / "own.png")
    for text in ("{", "[]"):
        paths.perceptual.write_text(text)
        assert audit_synthetic(experiment, records, paths)[0] == first


def test_identity_a_trial_knows_the_rule_by_which_synthetic_images_are_left_out_and_no_hash_of_images(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, _ = leaky
    records, _ = build_catalog(replace(experiment, drop_duplicates=True), RunPaths(tmp_path / "run"), Quiet())
    warned, fixed = (
        {trial.label: trial.trial_id for trial in make_plan(replace(experiment, drop_duplicates=drop), records).grid}
        for drop in (False, True)
    )
    with_synthetic = {x for x in warned if x.startswith("HB") and not x.endswith(" 0 synthetic")}
    assert {label for label in warned if warned[label] != fixed[label]} == with_synthetic
    assert data_hash(records) == data_hash(replace(r, perceptual_hash="") for r in records)
