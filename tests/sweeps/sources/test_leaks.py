"""The leak gate in a run: what it lists, what it says, and what `fixed` leaves out of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.phantoms import PhantomConfig, write_phantoms
from fulora.data.pixels import read_grey
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_lora_images
from fulora.data.sources import read_source
from fulora.experiment import Amounts, Experiment
from fulora.recipes import demo
from sweeps.core.hashing import data_hash
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.core.tables import read_rows
from sweeps.images.rows import planned_record
from sweeps.sources.audit import AUDIT_FILE, leaking_images
from sweeps.sources.catalog import FOUND_FILE, read_catalog
from sweeps.sources.plan import audit_step, catalog_step
from sweeps.study import Plan, make_plan

from ..studies import catalog_of, done, planned, write_shard

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
        sampling=replace(base.sampling, images_per_plane=2, batch_size=2),
        sizes=replace(base.sizes, num_spanish_hybrid=20, num_synthetic=20),
        grid=replace(
            base.grid, models=("MobileNet v2",), regimes=("ES", "HB"), table2_regimes=(), epochs=1, resolution_px=32,
            pretrained="none", num_seeds=1,
        ),
        amounts=Amounts(),
    )  # fmt: skip
    names = {"same": train[0].image_id, "near": train[1].image_id, "learned": learned[0].image_id}
    names |= {"same in test": test[0].image_id, "near in test": test[1].image_id, "learned in test": test[2].image_id}
    return experiment, names


def audited(audit: Step, paths: RunPaths) -> tuple[dict[tuple[str, str], tuple[str, str, str]], tuple[str, ...]]:
    """Do an audit and return its pairs with their kind and sets, and its notes."""
    (folder,) = done([audit], paths)
    rows = read_rows(folder / AUDIT_FILE, "audit")
    record = paths.store.done(audit)
    assert record is not None and record.metrics["num_pairs"] == len(rows)
    return {(r["image_a"], r["image_b"]): (r["kind"], r["set_a"], r["set_b"]) for r in rows}, record.notes


def planted(names: dict[str, str]) -> dict[tuple[str, str], tuple[str, str, str]]:
    found = {}
    for what, kind, name in (("same", "pixels", "train"), ("near", "perceptual", "train"), ("learned", "", "lora")):
        images = {names[what]: name, names[f"{what} in test"]: "test"}
        a, b = sorted(images)
        found[a, b] = (kind or "perceptual", images[a], images[b])
    return found


def real_audit(experiment: Experiment) -> Step:
    return audit_step(experiment, catalog_step(experiment))


def test_the_gate_lists_what_leaks_and_warns_and_goes_on(leaky: tuple[Experiment, dict[str, str]], tmp_path: Path):
    experiment, names = leaky
    paths = RunPaths(tmp_path / "run")
    records = catalog_of(experiment, paths)
    assert len(records) == 60
    pairs, notes = audited(real_audit(experiment), paths)
    assert {pair: row for pair, row in pairs.items() if "test" in row[1:]} == planted(names)
    assert len(pairs) == 4, "and a training image that nearly equals another"
    assert "pairs of images with equal pixels: 1, of a test and a training image: 1" in notes
    assert any(n.endswith(": 3, of a test and a training image: 2, with a LoRA training image: 1") for n in notes)


def test_fixed_leaves_leaks_out_of_training_and_of_lora_and_keeps_them_listed(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, names = leaky
    experiment, paths = replace(experiment, drop_duplicates=True), RunPaths(tmp_path / "run")
    records, catalog = catalog_of(experiment, paths), catalog_step(experiment)
    gone = {names["same"], names["near"], names["learned"]}
    assert len(records) == 57 and not gone & {r.image_id for r in records}
    assert gone < {r.image_id for r in read_catalog(paths.store.folder(catalog), paths.root, FOUND_FILE)}
    record = paths.store.done(catalog)
    assert record is not None and any(note.startswith("3 training images are left out") for note in record.notes)
    pairs, _ = audited(real_audit(experiment), paths)
    a, b = sorted((names["learned"], names["learned in test"]))
    assert set(pairs[a, b][1:]) == {"train", "test"}, "LoRA learns from another image now"
    learned, _ = select_lora_images(records, per_plane=LORA_PER_PLANE, seed=0)
    assert len(learned) == 5 * LORA_PER_PLANE
    assert len(pairs) == 4 and "lora" not in str(list(pairs.values()))


def own_image(seed: int) -> np.ndarray:
    """Return an image that is like no other."""
    return np.kron(np.random.default_rng(seed).integers(0, 255, (20, 20), np.uint8), np.ones((4, 4), np.uint8))


def draw(plan: Plan, paths: RunPaths, planted: list[np.ndarray]) -> list[str]:
    """Write the chosen set as if it was drawn, the first images as planted, and return the ids of its records."""
    rows = list(plan.chosen.rows())
    drawn = {row.image_id: own_image(index) for index, row in enumerate(rows)}
    drawn |= {row.image_id: pixels for row, pixels in zip(rows, planted)}
    for step in plan.chosen.steps:
        write_shard(step, paths.store, drawn)
    return [planned_record(row).image_id for row in rows]


def test_synthetic_images_are_compared_with_test_train_and_lora_before_training(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, names = leaky
    paths = RunPaths(tmp_path / "run")
    plan = planned(experiment, paths)
    by_id = {r.image_id: r for r in plan.records}
    before, _ = audited(real_audit(experiment), paths)
    tested = next(r for r in plan.records if r.split == "test" and r.image_id not in names.values())
    copies = [altered(tested.path), read_grey(by_id[names["learned"]].path)]
    copy, learned, *others = draw(plan, paths, copies)
    found, notes = audited(plan.audit, paths)
    assert {pair: found[pair] for pair in before} == before
    assert {pair: row for pair, row in found.items() if pair not in before} == {
        (tested.image_id, copy): ("perceptual", "test", "synthetic"),
        (names["learned"], learned): ("pixels", "lora", "synthetic"),
        (names["learned in test"], learned): ("perceptual", "test", "synthetic"),
    }
    assert len(others) == 18
    assert any("of a test and a training image: 2, with a synthetic image: 2" in note for note in notes)
    assert leaking_images(paths.store.folder(plan.audit)) == {copy, learned}


def test_a_classifier_leaves_out_the_synthetic_images_that_the_audit_pairs_with_a_test_image(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, names = leaky
    counts, notes = {}, {}
    for drops in (False, True):
        paths = RunPaths(tmp_path / f"run-{drops}")
        plan = planned(replace(experiment, drop_duplicates=drops), paths)
        tested = next(r for r in plan.records if r.split == "test" and r.image_id not in names.values())
        draw(plan, paths, [altered(tested.path), read_grey(tested.path)])
        (hybrid,) = [cell for cell in plan.cells if cell.config.regime == "HB"]
        assert hybrid.in_role("audit") == ((plan.audit,) if drops else ())
        done([hybrid], paths)
        record = paths.store.done(hybrid)
        assert record is not None
        counts[drops] = (record.metrics["num_es"], record.metrics["num_synthetic"])
        notes[drops] = record.notes
    assert counts == {False: (20, 20), True: (20, 18)}
    assert notes[False] == ()
    (note,) = notes[True]
    assert note.startswith("HB: 2 synthetic images are left out as duplicates or near duplicates of a test image")


def test_a_cell_knows_the_rule_by_which_synthetic_images_are_left_out_and_no_hash_of_images(
    leaky: tuple[Experiment, dict[str, str]], tmp_path: Path
):
    experiment, _ = leaky
    experiment = replace(experiment, grid=replace(demo().grid, num_seeds=1), amounts=demo().amounts)
    records = catalog_of(replace(experiment, drop_duplicates=True), RunPaths(tmp_path / "run"))
    unhashed = [replace(r, perceptual_hash="") for r in records]
    warned, fixed, again = (
        {cell.label: cell.key for cell in make_plan(replace(experiment, drop_duplicates=drop), known).cells}
        for drop, known in ((False, records), (True, records), (True, unhashed))
    )
    with_synthetic = {x for x in warned if x.startswith("HB") and not x.endswith(" 0 synthetic")}
    assert {label for label in warned if warned[label] != fixed[label]} == with_synthetic
    assert again == fixed and data_hash(records) == data_hash(unhashed)
