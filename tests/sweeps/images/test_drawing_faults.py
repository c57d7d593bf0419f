"""What goes wrong while images are drawn: a full disk, a folder that cannot be written, adapters."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulora.diffusion.finetune import LoraConfig, finetune
from fulora.recipes import demo
from sweeps.core.paths import RunPaths
from sweeps.core.perform import perform
from sweeps.images.destination import Destination
from sweeps.images.elsewhere import DrawingFailed, ShardWriter
from sweeps.images.rows import drawn_rows
from sweeps.ranks.plan import rank_steps

from ..core.nodes import hidden, mirror, node_of
from ..studies import missing, one_thread
from .elsewhere import Draw, base_images, rows_of


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """Let the kernel refuse to write more than this to a file, as a full disk refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def ignore(values: dict[str, Any]) -> None:
    """Take what a step reports."""


def test_a_disk_that_takes_no_more_fails_the_shard_and_leaves_nothing_half_made(
    small_base: Path, tmp_path: Path
) -> None:
    which, paths = base_images(str(small_base), images_per_plane=4), RunPaths(tmp_path)
    shard = which.steps[0]
    with files_no_larger_than(500), one_thread():
        attempt = perform(shard, paths.store, 1, ignore)
    assert (attempt.status, attempt.error_type) == ("FAILED", "OSError")
    assert "File too large" in str(attempt.error_message)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    with one_thread():
        assert perform(shard, paths.store, 2, ignore).status == "SUCCEEDED", "with room the same process goes on"
    assert len(drawn_rows(paths.store.folder(shard))) == 2
    assert missing(which.steps, paths) == [step for step in which.steps if step != shard]


def test_a_place_that_takes_no_more_is_said_and_leaves_nothing_half_made(small_base: Path, tmp_path: Path) -> None:
    writer = ShardWriter(base_images(str(small_base)), None, Destination(address=str(tmp_path)))
    with files_no_larger_than(500), one_thread():
        done = writer([0, 1])
    assert [row["num_images"] for row in done] == [0, 0], "nor is the second kept in vain"
    for row in done:
        assert re.search("File too large. Free disk space or restore the directory's permissions", row["error"]), row[
            "error"
        ]
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    assert [row["num_images"] for row in writer([0, 1])] == [2, 2], "with room the same actor goes on"


def test_an_actor_that_sees_no_base_gets_it_from_the_storage(small_base: Path, tmp_path: Path) -> None:
    store, which = mirror(tmp_path / "run", str(tmp_path / "storage")), base_images(str(small_base))
    store.take_in([str(small_base), "tiny"])
    nodes = node_of(store.for_nodes(), tmp_path / "node")
    with one_thread():
        assert ShardWriter(which, None, Destination(address=str(tmp_path / "here")))([0])[0]["num_images"] == 2
        with hidden(small_base):
            writer = ShardWriter(which, None, Destination(address=str(tmp_path / "there")), nodes)
            assert writer([0]) == [{"num_images": 2, "error": ""}]
    assert rows_of(tmp_path / "here") == rows_of(tmp_path / "there")


def test_a_folder_that_cannot_be_written_stops_sampling_and_keeps_what_was_drawn(draw: Draw, tmp_path: Path) -> None:
    there = Destination(address=str(tmp_path / "set"), form="files")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "femur").write_text("in the way")
    with pytest.raises(DrawingFailed, match=r"sampling stopped: .*/femur.*\nWhat was finished is kept"):
        draw(there)
    kept = len(list((tmp_path / "set").rglob("*.png")))
    assert 0 < kept < 50 and not (tmp_path / "set" / "metadata.parquet").exists()
    (tmp_path / "set" / "femur").unlink()
    assert draw(there) == 50 - kept
    assert len(list((tmp_path / "set").rglob("*.png"))) == 50


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
    small_base: Path, tmp_path: Path, damage: str, words: str
) -> None:
    adapter = tmp_path / "adapters" / "rank-004"
    if damage == "foreign":
        pixels = np.zeros((2, 64, 64, 3), np.uint8)
        config = LoraConfig(rank=4, num_steps=1, resolution_px=64)
        finetune(base="tiny", pixels=pixels, captions=["x"] * 2, config=config, seed=0, out=adapter, device="cpu")
    experiment = demo()
    (step,) = rank_steps(replace(experiment, lora=replace(experiment.lora, ranks=(4,))), None, None)
    which = replace(base_images(str(small_base)), label="rank-004", rank=4, adapter=step)
    (row,) = ShardWriter(which, adapter, Destination(address=str(tmp_path / "set")))([0])
    assert row["num_images"] == 0
    assert re.search(words, row["error"]), row["error"]
    assert not (tmp_path / "set").exists()


def test_a_shard_whose_adapter_is_not_done_says_which(small_base: Path, tmp_path: Path) -> None:
    experiment, paths = demo(), RunPaths(tmp_path)
    (step,) = rank_steps(replace(experiment, lora=replace(experiment.lora, ranks=(4,))), None, None)
    which = replace(base_images(str(small_base)), label="rank-004", rank=4, adapter=step)
    attempt = perform(which.steps[0], paths.store, 1, ignore)
    assert (attempt.status, attempt.error_type) == ("FAILED", "FileNotFoundError")
    assert f"lora 'rank 4' is not at {paths.store.folder(step)}" in str(attempt.error_message)
