"""Phantoms: the physics has the right statistics, the anatomy its marks, the files the published layout."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fulora.data.phantoms import PhantomConfig, african_like, generic_images, spanish_like, write_phantoms
from fulora.data.phantoms.anatomy import PAINTERS
from fulora.data.phantoms.machines import AFRICAN_MACHINES, SPANISH_MACHINES, Machine
from fulora.data.phantoms.physics import acquire, blank_canvas, echo_envelope, probe_of
from fulora.data.phantoms.shapes import FLUID_DB
from fulora.errors import InputError
from fulora.planes import PLANES

PLAIN = Machine(name="plain", noise_db=-120.0)


def test_speckle_of_uniform_tissue_is_rayleigh_distributed() -> None:
    rng = np.random.default_rng(0)
    envelope = np.stack([echo_envelope(blank_canvas(PLAIN), PLAIN, rng)[20:120, 20:80] for _ in range(8)])
    # Wagner et al. 1983: mean over standard deviation of fully developed speckle is sqrt(pi / (4 - pi)) = 1.91.
    assert envelope.mean() / envelope.std() == pytest.approx(1.91, abs=0.06)
    assert np.mean(envelope**2) == pytest.approx(1.0, abs=0.15)


def test_compounding_lowers_the_contrast_of_speckle() -> None:
    def contrast(machine: Machine) -> float:
        envelope = echo_envelope(blank_canvas(machine), machine, np.random.default_rng(1))[20:120, 20:80]
        return float(envelope.std() / envelope.mean())

    assert contrast(replace(PLAIN, looks=4.0)) < 0.6 * contrast(PLAIN)


def test_the_grain_of_speckle_grows_with_the_point_spread() -> None:
    def neighbour_correlation(machine: Machine) -> float:
        envelope = echo_envelope(blank_canvas(machine), machine, np.random.default_rng(2))[20:120]
        return float(np.corrcoef(envelope[:, 3:].ravel(), envelope[:, :-3].ravel())[0, 1])

    assert neighbour_correlation(replace(PLAIN, lateral_mm=4.0)) > neighbour_correlation(PLAIN) + 0.15


def test_bone_casts_a_shadow_and_fluid_an_enhancement() -> None:
    canvas = blank_canvas(PLAIN)
    canvas.rod(-40, 60, -15, 60, 5, 10, attenuation=3.0)
    canvas.blob(28, 60, 14, 14, FLUID_DB, attenuation=0.02)
    envelope = echo_envelope(canvas, PLAIN, np.random.default_rng(3))

    def level_db(x_mm: float, z_mm: float) -> float:
        near = np.hypot(canvas.x - x_mm, canvas.z - z_mm) < 8
        return float(10 * np.log10(np.mean(envelope[near] ** 2)))

    # Points straight below, along the beam that passes the thing (the probe's centre is 50 mm above the skin).
    plain, shadow, enhanced = level_db(0, 100), level_db(-37, 100), level_db(40, 107)
    assert shadow < plain - 12
    assert enhanced > plain + 3


def test_a_surface_echoes_most_where_it_faces_the_beam() -> None:
    canvas = blank_canvas(PLAIN, FLUID_DB)
    canvas.ring(0, 70, 35, 35, 4, -10, specular_db=20)
    top = canvas.specular_db[np.hypot(canvas.x, canvas.z - 35) < 3].max()
    side = canvas.specular_db[np.hypot(canvas.x - 35, canvas.z - 70) < 3].max()
    assert top > side + 10


def test_the_sector_is_lit_and_the_corners_are_black() -> None:
    image = acquire(blank_canvas(PLAIN), PLAIN, np.random.default_rng(4))
    assert image.shape == (PLAIN.height_px, PLAIN.width_px)
    assert image[60, 64] > 0.2
    assert max(image[:12, :12].max(), image[:12, -12:].max(), image[-6:, :12].max()) == 0.0
    assert 0.35 < np.mean(image > 0) < 0.85


def test_a_linear_probe_has_parallel_beams() -> None:
    probe = probe_of(replace(PLAIN, radius_mm=0.0))
    assert np.array_equal(probe.x[0], probe.x[-1])
    assert not np.array_equal(probe_of(PLAIN).x[0], probe_of(PLAIN).x[-1])


@pytest.mark.parametrize("plane", ["brain", "femur"])
def test_bone_is_the_brightest_thing_in_its_plane(plane: str) -> None:
    canvas = blank_canvas(PLAIN, -18.0)
    view = canvas.posed(x_mm=0, z_mm=75, angle=0, scale=1.0, mirror=False)
    PAINTERS[plane](view, np.random.default_rng(5))
    echo = np.maximum(canvas.level_db, canvas.specular_db)
    row = canvas.z[np.unravel_index(np.argmax(echo), echo.shape)]
    assert echo.max() > 15
    # The femur's shaft lies at the centre, the skull's strongest echo at its pole.
    assert (abs(row - 75) < 12) == (plane == "femur")


def test_the_same_seed_gives_the_same_images_and_another_seed_others() -> None:
    first, again, other = (spanish_like(20, seed=seed, resolution_px=64) for seed in (7, 7, 8))
    assert np.array_equal(first.images, again.images)
    assert not any(np.array_equal(a, b) for a, b in zip(first.images, other.images, strict=True))
    assert first.images.shape == (20, 64, 64) and first.images.dtype == np.uint8
    assert np.bincount(first.planes).tolist() == [4] * len(PLANES)


def test_a_longer_batch_begins_with_the_shorter_one() -> None:
    assert np.array_equal(
        spanish_like(10, seed=1, resolution_px=32).images, spanish_like(25, seed=1, resolution_px=32).images[:10]
    )
    short, long = (african_like(num, seed=1, resolution_px=32) for num in (6, 12))
    assert np.array_equal(short.images, long.images[:6])


def test_images_of_a_patient_share_their_anatomy() -> None:
    batch = spanish_like(120, seed=2, resolution_px=64, images_per_patient=4)
    blurred = batch.images.reshape(120, 16, 4, 16, 4).mean(axis=(2, 4)).reshape(120, -1)
    brain = batch.planes == 2
    likeness = np.corrcoef(blurred[brain])
    same = batch.patients[brain][:, None] == batch.patients[brain][None, :]
    itself = np.eye(len(likeness), dtype=bool)
    assert likeness[same & ~itself].mean() > likeness[~same].mean() + 0.1


def test_six_spanish_machines_and_five_centres_that_differ() -> None:
    assert len({machine.name for machine in SPANISH_MACHINES}) == 6
    assert set(AFRICAN_MACHINES) == {"Algeria", "Egypt", "Malawi", "Ghana", "Uganda"}
    batch = african_like(40, seed=3, resolution_px=64)
    assert set(batch.planes) == {1, 2, 3, 4}
    means = [batch.images[(batch.patients - 1) % 5 == centre].mean() for centre in range(5)]
    assert max(means) > 1.4 * min(means)


def test_generic_images_are_varied_and_name_no_plane() -> None:
    images, captions = generic_images(60, seed=0, resolution_px=64)
    assert images.shape == (60, 64, 64) and images.dtype == np.uint8
    assert len(set(captions)) > 50
    assert not re.search("fetal|abdomen|brain|skull|femur|thorax|heart|photo", " ".join(captions))
    more, _ = generic_images(65, seed=0, resolution_px=64)
    assert np.array_equal(images, more[:60])


def test_files_are_in_the_published_layouts(tmp_path: Path) -> None:
    config = PhantomConfig(num_spanish=20, num_african_train=20, num_african_test=24)
    write_phantoms(tmp_path / "phantoms", config, seed=1)
    spanish, african = tmp_path / "phantoms" / "spanish", tmp_path / "phantoms" / "african"
    with (spanish / "FETAL_PLANES_DB_data.csv").open(encoding="utf-8") as file:
        assert file.readline() == "Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train \n"
        rows = [line.rstrip("\n").split(";") for line in file]
    assert len(rows) == 20 and {row[6] for row in rows} == {"1"}
    assert rows[0][0] == "Patient00001_Plane1_1_of_2"
    assert {path.stem for path in (spanish / "Images").iterdir()} == {row[0] for row in rows}
    with (african / "African_planes_database.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["Patient_num", "Plane", "Train", "Center", "Filename"]
    assert table[0]["Filename"] == "patient001_DZA_plane0" and table[3]["Plane"] == "Fetal thorax"
    assert [row["Train"] for row in table].count("0") == 24
    people = {split: {(row["Center"], row["Patient_num"]) for row in table if row["Train"] == split} for split in "01"}
    assert not people["0"] & people["1"]
    for row in table:
        with Image.open(african / row["Center"] / f"{row['Filename']}.png") as image:
            assert image.mode == "L"
    assert [path.name for path in tmp_path.iterdir()] == ["phantoms"]


def test_a_complete_folder_is_reused_and_another_configuration_refused(tmp_path: Path) -> None:
    config = PhantomConfig(num_spanish=5, num_african_train=4, num_african_test=4)
    write_phantoms(tmp_path / "p", config, seed=1)
    made = (tmp_path / "p" / "phantoms.json").stat().st_mtime_ns
    write_phantoms(tmp_path / "p", config, seed=1)
    assert (tmp_path / "p" / "phantoms.json").stat().st_mtime_ns == made
    with pytest.raises(InputError, match="another configuration"):
        write_phantoms(tmp_path / "p", config, seed=2)


def test_all_faults_of_a_configuration_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_phantoms(tmp_path / "p", PhantomConfig(num_spanish=-1, images_per_patient=0), seed=0)
    assert len(caught.value.faults) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write_phantoms(tmp_path / "file" / "p", PhantomConfig(num_spanish=1), seed=0)


@pytest.mark.slow
def test_a_classifier_of_spanish_phantoms_loses_at_least_ten_points_on_african_ones() -> None:
    import timm
    import torch

    torch.manual_seed(0)
    train, known = spanish_like(2000, seed=100, resolution_px=64), spanish_like(500, seed=200, resolution_px=64)
    foreign = african_like(400, seed=300, resolution_px=64)
    model = timm.create_model("resnet18", pretrained=False, num_classes=5)

    def pixels(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).float().div(127.5).sub(1.0)[:, None].expand(-1, 3, -1, -1)

    def accuracy(images: np.ndarray, planes: np.ndarray) -> float:
        model.eval()
        with torch.inference_mode():
            guesses = torch.cat([model(part).argmax(dim=1) for part in pixels(images).split(100)]).numpy()
        return 100.0 * float(np.mean(guesses == planes))

    x, y = pixels(train.images), torch.from_numpy(train.planes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=6 * 62)
    for _ in range(6):
        for rows in torch.randperm(2000)[: 62 * 32].view(62, 32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    at_home, abroad = accuracy(known.images, known.planes), accuracy(foreign.images, foreign.planes)
    assert at_home >= 97.0
    assert 45.0 <= abroad <= at_home - 10.0
