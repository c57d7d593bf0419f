"""Classifier training that is stopped, killed or damaged: it resumes at its epoch, to the same bits on a CPU."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import MODELS, build_model
from fulora.classify.training import TrainedClassifier, predict, train_classifier

torch.set_num_threads(1)


def shapes(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images whose plane is the place of a bright bar."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 5
    images = rng.integers(0, 60, (num, 64, 64, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 + 12 * label : 12 + 12 * label, 8:56] += 150
    return images, labels


def config(**changes) -> ClassifierConfig:
    small = {"model": "MobileNet v2", "epochs": 2, "resolution_px": 64, "pretrained": "none", "optimizer": "adamw"}
    return ClassifierConfig(**{**small, **changes})


RESUMED = config(epochs=3, augment=True, refit_batchnorm=True)


def trained_on(settings: ClassifierConfig, checkpoint: Path | None, *, stop_after: int = 0, seed: int = 0):
    """Train on a few shapes; `stop_after` raises at the end of that epoch."""
    torch.set_num_threads(1)

    def on_epoch(row: dict[str, float]) -> None:
        if row["epoch"] == stop_after:
            raise KeyboardInterrupt

    return train_classifier(
        pixels=shapes(26, 0)[0], labels=shapes(26, 0)[1], config=settings, seed=seed, device="cpu",
        on_epoch=on_epoch, validation=shapes(10, 1), checkpoint=checkpoint, checkpoint_seconds=0,
    )  # fmt: skip


def assert_same(one: TrainedClassifier, other: TrainedClassifier) -> None:
    """Weights to the bit, epoch and history, its times aside."""
    first, second = one.model.state_dict(), other.model.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    timeless = [
        [{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in run.history]
        for run in (one, other)
    ]
    assert timeless[0] == timeless[1] and one.epoch == other.epoch


@pytest.mark.parametrize(
    "settings",
    [
        RESUMED,
        replace(RESUMED, optimizer="sgd", learning_rate=1e-2),
        replace(RESUMED, optimizer="sgd", momentum=0.0),
        # So high a rate that an early epoch is the best, and its weights must survive.
        replace(RESUMED, model="ResNet18", learning_rate=3e-2, keep="best", refit_batchnorm=False),
    ],
    ids=["adamw", "sgd", "no momentum", "best epoch"],
)
def test_stopped_after_an_epoch_it_goes_on_exactly(settings: ClassifierConfig, tmp_path: Path) -> None:
    whole = trained_on(settings, None)
    with pytest.raises(KeyboardInterrupt):
        trained_on(settings, tmp_path / "kept", stop_after=2)
    resumed = trained_on(settings, tmp_path / "kept")
    assert (whole.resumed_from, resumed.resumed_from) == (0, 2)
    assert_same(whole, resumed)
    images = shapes(10, 1)[0]
    assert np.array_equal(predict(whole.model, images, device="cpu"), predict(resumed.model, images, device="cpu"))


def train_slowly(folder: Path) -> None:
    trained_on(RESUMED, folder)


def test_killed_it_goes_on_from_its_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL as soon as the second epoch is on the disk, in a process of its own."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # where the process finds this module
    process = multiprocessing.get_context("spawn").Process(target=train_slowly, args=(tmp_path / "kept",))
    process.start()
    deadline = time.monotonic() + 100
    while process.is_alive() and not list(tmp_path.glob("kept/step-000000002.*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -9, "it was killed, and had neither failed nor finished"
    resumed = trained_on(RESUMED, tmp_path / "kept")
    assert resumed.resumed_from == 2
    assert_same(trained_on(RESUMED, None), resumed)


def test_damaged_or_foreign_checkpoint_starts_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, short = tmp_path / "kept", config(epochs=2)
    whole = trained_on(short, None)

    def left_over(settings: ClassifierConfig, seed: int = 0) -> list[Path]:
        with pytest.raises(KeyboardInterrupt):
            trained_on(settings, folder, stop_after=1, seed=seed)
        return list(folder.glob("step-*.safetensors"))

    for settings, seed in ((replace(short, learning_rate=2e-3), 0), (short, 1)):
        left_over(settings, seed)
        with caplog.at_level(logging.WARNING):
            again = trained_on(short, folder)
        assert again.resumed_from == 0 and "of another training" in caplog.text
        assert_same(whole, again)
        caplog.clear()
    shutil.rmtree(folder)
    (file,) = left_over(short)
    content = bytearray(file.read_bytes())
    content[-9] ^= 4  # one bit of the numbers: still a readable file
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = trained_on(short, folder)
    assert again.resumed_from == 0 and "damaged" in caplog.text
    assert_same(whole, again)


def test_checkpoints_are_plain_and_take_a_small_share_of_the_time(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained_on(config(), tmp_path / "kept", stop_after=1)
    (file,) = (tmp_path / "kept").iterdir()
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert "model/conv_stem.weight" in header and file.suffix == ".safetensors"
    # Epochs shorter than the least time between two checkpoints leave none.
    pixels, labels = shapes(10, 0)
    train_classifier(
        pixels=pixels, labels=labels, config=config(), seed=0, device="cpu", checkpoint=tmp_path / "none",
        checkpoint_seconds=100,
    )  # fmt: skip
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_goes_on_where_the_same_weights_are_in_another_folder(tmp_path: Path) -> None:
    there, elsewhere, folder = tmp_path / "here", tmp_path / "another-machine", tmp_path / "checkpoints"
    there.mkdir()
    model = MODELS["MobileNet v2"]
    save_file(build_model("MobileNet v2", resolution_px=64, seed=3, pretrained="none")[0].state_dict(),
              there / f"{model.tag}.safetensors")  # fmt: skip
    shutil.copytree(there, elsewhere)
    settings = config(pretrained="local", weights=there)
    with pytest.raises(KeyboardInterrupt):
        trained_on(settings, folder, stop_after=1)
    assert trained_on(replace(settings, weights=elsewhere), folder).resumed_from == 1
    build, file = build_model("MobileNet v2", resolution_px=64, seed=4, pretrained="none")[0], elsewhere / model.tag
    save_file(build.state_dict(), file.with_name(f"{model.tag}.safetensors"))
    assert trained_on(replace(settings, weights=elsewhere), folder).resumed_from == 0, "other weights"
