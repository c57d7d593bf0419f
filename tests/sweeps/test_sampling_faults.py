"""What goes wrong while images are drawn: a full disk, a folder that cannot be written, adapters."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fulora.diffusion.finetune import LoraConfig, finetune
from fulora.experiment import Experiment
from sweeps import synthesis
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.engine.resources import Cluster
from sweeps.image_sets import ImageSet
from sweeps.record import StageFailed
from sweeps.sampling_actors import SampleShards
from sweeps.synthesis import RunFolder


def base_images(experiment: Experiment, **changes) -> ImageSet:
    config = replace(experiment.sampling, **{"images_per_plane": 4, "num_steps": 2, "batch_size": 2, **changes})
    return ImageSet(label="base", rank=None, adapter_id="x", config=config, seed=3, chosen=True)


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to write more than this to a file, as a full disk refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_said_and_leaves_nothing_half_made(
    mini_experiment: Experiment, tmp_path: Path
) -> None:
    which, paths = base_images(mini_experiment), RunPaths(tmp_path)
    actor = SampleShards(mini_experiment, [which], {"base": None}, RunFolder(tmp_path), 1, False)
    batch = {"set": np.zeros(2, np.int64), "shard": np.arange(2)}
    with files_no_larger_than(500):
        done = actor.draw(batch)
    assert done["num_images"] == [0, 0], "nor is the second sampled in vain"
    said = f"{tmp_path}: File too large. Free disk space or restore the directory's permissions"
    assert all(said in error for error in done["error"])
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    assert actor.draw(batch)["num_images"] == [2, 2], "with room the same actor goes on"
    assert len(synthesis.missing_shards([which], paths)) == which.num_shards - 2


def test_a_folder_that_cannot_be_written_stops_sampling_and_keeps_what_was_drawn(
    mini_experiment: Experiment, local_ray: Cluster, tmp_path: Path
) -> None:
    which, paths = base_images(mini_experiment), RunPaths(tmp_path)
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "synthetic" / "femur").write_text("in the way")
    with pytest.raises(StageFailed, match=r"sampling stopped: .*/synthetic/femur.*\nWhat was finished is kept"):
        synthesis.sample_shards(mini_experiment, [which], paths=paths, cluster=local_ray, progress=Quiet())
    kept = which.num_shards - len(synthesis.missing_shards([which], paths))
    assert 0 < kept < which.num_shards
    (tmp_path / "synthetic" / "femur").unlink()
    actor = SampleShards(mini_experiment, [which], {"base": None}, RunFolder(tmp_path), 1, False)
    every_shard = np.arange(which.num_shards)
    assert sum(actor.draw({"set": np.zeros_like(every_shard), "shard": every_shard})["num_images"]) == 40
    assert len(synthesis.assemble(which, paths)) == 40


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            "gone",
            r"does not exist on .*`sweeps lora` trains it; with several nodes, the run's directory must be on shared",
        ),
        ("foreign", r"rank-004.*base"),
    ],
)
def test_an_adapter_that_is_gone_or_of_another_base_is_named(
    mini_experiment: Experiment, tmp_path: Path, damage: str, words: str
) -> None:
    adapter = tmp_path / "adapters" / "rank-004"
    if damage == "foreign":
        pixels = np.zeros((2, 64, 64, 3), np.uint8)
        config = LoraConfig(rank=4, num_steps=1, resolution_px=64)
        finetune(base="tiny", pixels=pixels, captions=["x"] * 2, config=config, seed=0, out=adapter, device="cpu")
    which = replace(base_images(mini_experiment), label="rank-004", rank=4)
    actor = SampleShards(mini_experiment, [which], {"rank-004": adapter}, RunFolder(tmp_path), 1, False)
    done = actor.draw({"set": np.zeros(1, np.int64), "shard": np.zeros(1, np.int64)})
    assert done["num_images"] == [0]
    assert re.search(words, done["error"][0]), done["error"]
