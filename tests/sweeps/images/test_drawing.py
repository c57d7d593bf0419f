"""Shards of images: sampled wherever, in this process or by actors, the same pixels, none twice and none lost."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray.cluster_utils import Cluster as RayNodes

from fulora.diffusion.sampler import Sampler
from fulora.experiment import Experiment
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.elsewhere import draw_elsewhere
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.images.destination import Destination
from sweeps.images.elsewhere import draw_to
from sweeps.images.sets import IMAGES, SyntheticSet
from sweeps.session import Session
from sweeps.study import make_plan
from sweeps.views import show_images

from ..studies import catalog_of, done, missing, one_thread
from .elsewhere import base_images, rows_of, rows_there


def check(which: SyntheticSet, paths: RunPaths) -> None:
    """Compare every image of a set that is done with the image that the sampler draws here, all in one go."""
    show_images(which, paths.synthetic, paths.store, None)
    rows = read_rows(paths.synthetic / "metadata.parquet", "metadata")
    assert len(rows) == len(list(paths.synthetic.rglob("*.png"))) == which.num_images
    base = which.base
    with one_thread():
        sampler = Sampler(
            base=base.spec, adapter=None, config=which.config, resolution_px=base.resolution_px,
            precision=base.precision,
        )  # fmt: skip
        images = sampler.sample(list(which.rows()))
    for row, known, image in zip(which.rows(), rows, images, strict=True):
        file = paths.synthetic / known["file_name"]
        assert (known["image_id"], known["seed"], known["sampler"]) == (row.image_id, row.seed, row.sampler)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == known["sha256"]
        assert np.array_equal(np.asarray(Image.open(file)), image)


def test_shards_give_the_pixels_of_the_whole_set_drawn_at_once(small_base: Path, tmp_path: Path) -> None:
    which, paths = base_images(str(small_base), images_per_plane=3, num_steps=2), RunPaths(tmp_path)
    done(which.steps, paths)
    check(which, paths)
    assert missing(which.steps, paths) == []


def test_a_larger_set_draws_the_difference_and_shows_no_image_of_the_smaller_twice(
    small_base: Path, tmp_path: Path
) -> None:
    which, paths = base_images(str(small_base), images_per_plane=2), RunPaths(tmp_path)
    done(which.steps, paths)
    larger = replace(which, config=replace(which.config, images_per_plane=3))
    assert len(missing(larger.steps, paths)) == 10
    show_images(which, paths.synthetic, paths.store, None)
    done(larger.steps, paths)
    check(larger, paths)
    show_images(which, paths.synthetic, paths.store, None)
    assert len(list(paths.synthetic.rglob("*.png"))) == 20, "and shows the smaller again"


class KillsOnce(Quiet):
    """Kills one sampling actor as soon as something is sampled."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def drawn(self, num_images: int) -> None:
        if not self.killed:
            workers = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"ray::" in p.read_bytes()]
            mine = [p for p in workers if b"ShardActor" in p.read_bytes()]
            self.killed.append(int(mine[0].parent.name))
            os.kill(self.killed[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_and_a_killed_one_give_the_same_pixels_once(
    small_base: Path, tmp_path: Path, workers: int
) -> None:
    which, paths, progress = base_images(str(small_base), images_per_plane=8), RunPaths(tmp_path), KillsOnce()
    with Session(paths, ClusterOptions(num_cpus=workers), progress) as session:
        session.do(which.steps)
        assert session.failed == []
        assert len(progress.killed) == 1
        attempts = [a for a in session.log.attempts if a.stage == IMAGES.name and a.status == "SUCCEEDED"]
    assert len(attempts) == which.num_shards
    check(which, paths)


class KillsNode(Quiet):
    """Kills a node of the cluster, all its processes, as soon as something is sampled."""

    def __init__(self, nodes: RayNodes) -> None:
        self.nodes, self.killed = nodes, 0

    def drawn(self, num_images: int) -> None:
        if not self.killed:
            self.killed += 1
            self.nodes.remove_node(self.nodes.worker_nodes.copy().pop(), allow_graceful=False)


@pytest.mark.slow
def test_a_node_that_dies_loses_no_image_and_none_is_drawn_twice(small_base: Path, tmp_path: Path) -> None:
    which, paths = base_images(str(small_base), images_per_plane=12), RunPaths(tmp_path)
    nodes = RayNodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    try:
        progress = KillsNode(nodes)
        with Session(paths, ClusterOptions(address=nodes.address), progress) as session:
            assert session.cluster.num_nodes == 2 and session.cluster.num_slots == 2
            session.do(which.steps)
            assert session.failed == [] and progress.killed == 1
    finally:
        nodes.shutdown()
    check(which, paths)
    assert missing(which.steps, paths) == []


@pytest.mark.slow
def test_actors_write_to_s3_themselves(s3: str, small_base: Path) -> None:
    which, remote, counts = base_images(str(small_base)), Destination(address=s3), list[int]()
    with connected(ClusterOptions(num_cpus=1)) as cluster:  # its actors have the credentials of this moment
        num = draw_to(remote, which, adapter=None, cluster=cluster, on_drawn=lambda count, of: counts.append(count))
    assert num == sum(counts) == 50
    assert len(rows_there(remote)) == 50
    assert len({row["image_id"] for row in rows_there(remote)}) == 50


class Counts(Quiet):
    """Counts the images drawn."""

    images = 0

    def drawn(self, num_images: int) -> None:
        self.images += num_images


@pytest.mark.slow
def test_the_chosen_ranks_images_are_drawn_elsewhere_and_none_into_the_run(
    mini_experiment: Experiment, tmp_path: Path
) -> None:
    paths, there = RunPaths(tmp_path / "run"), Destination(address=str(tmp_path / "set"))
    options, counts = ClusterOptions(num_cpus=1), Counts()
    assert draw_elsewhere(mini_experiment, paths, there, options=options, progress=counts) == []
    (adapter,) = [
        step
        for step in make_plan(mini_experiment, catalog_of(mini_experiment, paths)).ranks
        if step.config.lora.rank == 4
    ]
    rows = rows_of(tmp_path / "set")
    assert counts.images == len(rows) == 20
    assert {(row["adapter"], row["rank"]) for row in rows} == {(adapter.key, 4)}
    assert kinds_done(paths) >= {"lora"} and not kinds_done(paths) & {IMAGES.name, "grid"}
    assert [f.name for f in paths.adapters.iterdir()] == ["rank-004"] and not paths.synthetic.exists()
    more = replace(mini_experiment, sampling=replace(mini_experiment.sampling, images_per_plane=3))
    assert draw_elsewhere(more, paths, there, options=options, progress=counts) == []
    assert counts.images == 20 + 30, "the one file of each plane and sampler is made anew, and full"
    assert len(rows_of(tmp_path / "set")) == 30


def kinds_done(paths: RunPaths) -> set[str]:
    return {folder.name for folder in (paths.root / "steps").iterdir()}
