"""Shards of images: planned by arithmetic, sampled wherever, the same pixels, none twice and none lost."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ray.cluster_utils import Cluster as RayNodes

from fulora.diffusion.sampler import Sampler, SamplingConfig, plan_samples
from fulora.errors import InputError
from fulora.experiment import Experiment
from sweeps import synthesis
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.image_sets import ImageSet

CONFIG = SamplingConfig(images_per_plane=5, num_steps=2, batch_size=2)


def images(config: SamplingConfig = CONFIG, **changes) -> ImageSet:
    return ImageSet(**{
        "label": "base", "rank": None, "adapter_id": "x", "config": config, "seed": 3, "chosen": False, **changes
    })  # fmt: skip


def test_shards_are_the_plan_cut_into_batches_of_one_plane_and_sampler() -> None:
    which = images()
    shards = list(which.shards())
    assert len(shards) == which.num_shards == 5 * 2 * 3 and which.num_images == 50
    assert [row for _, rows in shards for row in rows] == list(plan_samples(CONFIG, seed=3))
    assert [which.shard_size(index) for index in range(3)] == [2, 2, 1]
    assert len({shard_id for shard_id, _ in shards}) == 30
    assert all(len({(row.plane, row.sampler) for row in rows}) == 1 for _, rows in shards)


def test_a_larger_set_keeps_the_whole_shards_of_a_smaller_one_and_other_settings_share_none() -> None:
    ids = {shard_id for shard_id, _ in images().shards()}
    larger = {shard_id for shard_id, _ in images(replace(CONFIG, images_per_plane=9)).shards()}
    assert len(ids & larger) == 20 and len(ids - larger) == 10, "a plane's last shard was short"
    for other in (images(replace(CONFIG, guidance=3.0)), images(seed=4), images(adapter_id="y"), images(chosen=True)):
        assert not ids & {shard_id for shard_id, _ in other.shards()}


def test_ten_million_images_are_planned_without_listing_them(tmp_path: Path) -> None:
    which = images(SamplingConfig(images_per_plane=1_000_000))
    shards = synthesis.missing_shards([which], RunPaths(tmp_path))
    assert which.num_images == 10_000_000
    assert shards.shape == (1_250_000, 2) and shards.nbytes == 20_000_000, "16 bytes a shard is all the driver holds"
    (row,) = [r for r in which.shard(1_249_999) if r.image_id.startswith("thorax-unipc-999999-")]
    assert row == which.plan.row(*which.plan.groups[-1], 999_999)


def test_only_what_has_no_part_file_is_missing(tmp_path: Path) -> None:
    which, paths = images(), RunPaths(tmp_path)
    for index in (0, 7):
        part = paths.shard(which.shard_id(index))
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    missing = synthesis.missing_shards([which, images(chosen=True)], paths)
    assert missing[:, 0].tolist() == [0] * 28 + [1] * 30
    assert not {0, 7} & set(missing[:28, 1].tolist())
    assert synthesis.num_images([which, images(chosen=True)], missing) == 100 - 4


PUBLISHED = "Image_name,Plane,Train\n" + "".join(
    f"{number:05d}-{first + number},{label},1\n"
    for label, first in (("Fetal abdomen", 100), ("Fetal brain", 200), ("Other", 300), ("Fetal femur", 400),
                         ("Fetal thorax", 500))
    for first, count in ((first, 2), (first + 10, 2), (first + 20, 1), (first + 30, 1))
    for number in range(count)
)  # fmt: skip


def test_a_published_list_of_seeds_is_dealt_to_the_samplers_by_its_runs(tmp_path: Path) -> None:
    file = tmp_path / "seeds.csv"
    file.write_text("\ufeff" + PUBLISHED, encoding="utf-8")
    rows = list(plan_samples(replace(CONFIG, images_per_plane=3, seeds=file), seed=0))
    brain = {s: [r.seed for r in rows if (r.plane, r.sampler) == ("brain", s)] for s in ("euler", "unipc")}
    assert brain == {"euler": [200, 201, 220], "unipc": [210, 211, 230]}
    assert rows == list(plan_samples(replace(CONFIG, images_per_plane=3, seeds=file), seed=9)), "whatever the recipe's"
    with pytest.raises(InputError, match="has 3 seeds for other, euler, and 4 are needed"):
        list(plan_samples(replace(CONFIG, images_per_plane=4, seeds=file), seed=0))
    before = images(replace(CONFIG, seeds=file)).science
    file.write_text(PUBLISHED.replace("Fetal brain,1", "Fetal brain,0"))
    assert images(replace(CONFIG, seeds=file)).science != before, "another list is another set"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plane,sampler,seed\nbrain,euler,x\n", "has an invalid line 2"),
        ("plane,sampler,seed\nliver,euler,1\n", "plane 'liver' is unknown"),
        ("Image_name,Plane\n00000-7,Other\n00001-x,Other\n", "has an invalid line 3"),
        ("", "has 0 seeds for other, euler"),
    ],
)
def test_a_list_that_cannot_be_used_says_where(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "seeds.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        list(plan_samples(replace(CONFIG, images_per_plane=1, seeds=file), seed=0))
    with pytest.raises(InputError, match="cannot be read"):
        list(plan_samples(replace(CONFIG, seeds=tmp_path / "none.csv"), seed=0))


@pytest.mark.skipif(
    not os.environ.get("FULORA_REAL_DATA"), reason="FULORA_REAL_DATA names no folder with the published lists"
)
def test_the_published_five_thousand(tmp_path: Path) -> None:
    file = Path(os.environ["FULORA_REAL_DATA"]) / "lists" / "synthetic_5000.csv"
    rows = list(plan_samples(SamplingConfig(seeds=file), seed=0))
    assert len(rows) == len({row.seed for row in rows}) == 5000
    first = next(row for row in rows if row.plane == "abdomen")
    assert (first.sampler, first.seed) == ("euler", 2671683618)
    with pytest.raises(InputError, match="has 500 seeds"):
        list(plan_samples(SamplingConfig(seeds=file, images_per_plane=501), seed=0))


class _KillsOnce(Quiet):
    """Kills one sampling actor as soon as something is sampled."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def advance(self, count: int) -> None:
        if not self.killed:
            workers = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"ray::" in p.read_bytes()]
            mine = [p for p in workers if b"SampleShards" in p.read_bytes()]
            self.killed.append(int(mine[0].parent.name))
            os.kill(self.killed[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_and_a_killed_one_give_the_same_pixels_once(
    mini_experiment: Experiment, tmp_path: Path, workers: int
) -> None:
    config = replace(mini_experiment.sampling, images_per_plane=8, num_steps=6)
    which, paths, progress = images(config), RunPaths(tmp_path), _KillsOnce()
    with connected(ClusterOptions(num_cpus=workers)) as cluster:
        assert cluster.num_slots == workers
        synthesis.sample_shards(mini_experiment, [which], paths=paths, cluster=cluster, progress=progress)
    assert len(progress.killed) == 1
    rows = synthesis.assemble(which, paths)
    assert len(rows) == 80 and len(list(which.folder(paths).rglob("*.png"))) == 80
    sampler = Sampler(base=mini_experiment.base, adapter=None, config=config, resolution_px=64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: the number of threads decides the order of sums
    drawn = sampler.sample(list(plan_samples(config, seed=3)))
    torch.set_num_threads(threads)
    for row, image in zip(rows, drawn, strict=True):
        file = which.folder(paths) / row["file_name"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == row["sha256"]
        assert np.array_equal(np.asarray(Image.open(file)), image)


class _KillsNode(Quiet):
    """Kills a node of the cluster, all its processes, as soon as something is sampled."""

    def __init__(self, nodes: RayNodes) -> None:
        self.nodes, self.killed = nodes, 0

    def advance(self, count: int) -> None:
        if not self.killed:
            self.killed += 1
            self.nodes.remove_node(self.nodes.worker_nodes.copy().pop(), allow_graceful=False)


@pytest.mark.slow
def test_a_node_that_dies_loses_no_image_and_none_is_drawn_twice(mini_experiment: Experiment, tmp_path: Path) -> None:
    which, paths = images(replace(mini_experiment.sampling, images_per_plane=12, num_steps=4)), RunPaths(tmp_path)
    nodes = RayNodes(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    try:
        with connected(ClusterOptions(address=nodes.address)) as cluster:
            assert cluster.num_nodes == 2 and cluster.num_slots == 2
            progress = _KillsNode(nodes)
            drawn = synthesis.sample_shards(mini_experiment, [which], paths=paths, cluster=cluster, progress=progress)
            assert progress.killed == 1
    finally:
        nodes.shutdown()
    rows = synthesis.assemble(which, paths)
    assert len(rows) == len({row["image_id"] for row in rows}) == len(list(which.folder(paths).rglob("*.png"))) == 120
    assert drawn == 120
    assert len(synthesis.missing_shards([which], paths)) == 0
