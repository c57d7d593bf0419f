"""Shards of images: planned by arithmetic, so that a larger set, or another choice, draws what is new and no more."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fulora.diffusion.sampler import SamplingConfig, plan_samples
from fulora.experiment import Experiment
from fulora.planes import PLANES
from fulora.recipes import demo
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.images.elsewhere import for_output
from sweeps.images.sets import SyntheticSet, planned_records
from sweeps.ranks.base import BaseModel
from sweeps.ranks.plan import rank_steps
from sweeps.study import make_plan

from ..studies import made_up, missing

CONFIG = SamplingConfig(images_per_plane=5, num_steps=2, batch_size=2)
BASE = BaseModel(spec="tiny", identity="x", resolution_px=64, precision="auto")


def images(config: SamplingConfig = CONFIG, **changes: Any) -> SyntheticSet:
    known = {"label": "base", "rank": None, "adapter": None, "base": BASE, "config": config, "seed": 3}
    return SyntheticSet(**{**known, **changes})


def keys(which: SyntheticSet) -> set[str]:
    return {step.key for step in which.steps}


def adapter(rank: int) -> Step:
    experiment = demo()
    (step,) = rank_steps(replace(experiment, lora=replace(experiment.lora, ranks=(rank,))), None, None)
    return step


def test_shards_are_the_plan_cut_into_batches_of_one_plane_and_sampler() -> None:
    which = images()
    shards = [which.shard(index) for index in range(which.num_shards)]
    assert len(shards) == which.num_shards == 5 * 2 * 3 and which.num_images == 50
    assert [row for rows in shards for row in rows] == list(which.rows()) == list(plan_samples(CONFIG, seed=3))
    assert [which.shard_size(index) for index in range(3)] == [2, 2, 1]
    assert [step.config.rows for step in which.steps] == [tuple(rows) for rows in shards]
    assert len(keys(which)) == 30
    assert all(len({(row.plane, row.sampler) for row in rows}) == 1 for rows in shards)
    assert [which.place_of(index) for index in (0, 2, 3)] == [
        ("other", "euler", 0, 2), ("other", "euler", 4, 1), ("other", "unipc", 0, 2)
    ]  # fmt: skip


def test_every_image_has_its_shard_and_is_planned_as_a_record_without_a_file() -> None:
    which = images()
    records = planned_records(which)
    assert [r.image_id for r in records] == [f"synthetic/{row.image_id}" for row in which.rows()]
    assert {(r.path, r.source, r.split, r.patient_id) for r in records} == {("", "synthetic", "train", "")}
    for record in records:
        assert record.image_id.removeprefix("synthetic/") in {
            row.image_id for row in which.step_of[record.image_id].config.rows
        }


def test_a_larger_set_keeps_the_whole_shards_of_a_smaller_one_and_other_settings_share_none() -> None:
    few = keys(images())
    larger = keys(images(replace(CONFIG, images_per_plane=9)))
    assert len(few & larger) == 20 and len(few - larger) == 10, "a plane's last shard was short"
    for other in (
        images(replace(CONFIG, guidance=3.0)), images(replace(CONFIG, num_steps=3)), images(seed=4),
        images(base=replace(BASE, identity="y")), images(base=replace(BASE, resolution_px=32)),
        images(rank=8, adapter=adapter(8)),
    ):  # fmt: skip
        assert not few & keys(other)
    assert not keys(images(rank=8, adapter=adapter(8))) & keys(images(rank=16, adapter=adapter(16)))
    assert {step.need("adapter") for step in images(rank=8, adapter=adapter(8)).steps} == {adapter(8)}


def test_what_a_set_is_called_or_used_for_draws_nothing_anew() -> None:
    for other in (images(chosen=True), images(label="another"), images(base=replace(BASE, spec="/elsewhere/tiny"))):
        assert keys(other) == keys(images())
    one_sampler = keys(images(replace(CONFIG, samplers=("unipc",))))
    assert len(one_sampler) == 15 and one_sampler < keys(images())


def test_only_what_is_not_done_is_missing(tmp_path: Path) -> None:
    which, paths = images(), RunPaths(tmp_path)
    for index in (0, 7):
        with paths.store.writing(which.steps[index]) as beside:
            paths.store.keep(which.steps[index], beside)
    todo = missing(which.steps, paths)
    assert todo == [step for index, step in enumerate(which.steps) if index not in (0, 7)]
    again = images(rank=8, adapter=adapter(8), label="rank-008")
    assert missing([*which.steps, *again.steps], paths) == [*todo, adapter(8), *again.steps], "an adapter comes first"


def _study(images_per_plane: int) -> Experiment:
    experiment = demo()
    return replace(experiment, sampling=replace(experiment.sampling, images_per_plane=images_per_plane))


def test_ten_million_images_are_planned_without_listing_them() -> None:
    records = [made_up("spanish", plane.name, number) for plane in PLANES for number in range(30)]
    began = time.perf_counter()
    which = make_plan(_study(1_000_000), records, with_grid=False).chosen
    assert which.num_images == 10_000_000 and which.num_shards == 1_250_000
    (row,) = [r for r in which.shard(1_249_999) if r.image_id.startswith("thorax-unipc-999999-")]
    assert row == which.plan.row(*which.plan.groups[-1], 999_999)
    large = for_output(which)
    assert large.num_shards == 10 * -(-1_000_000 // 256) and large.place_of(large.num_shards - 1)[:2] == (
        "thorax", "unipc"
    )  # fmt: skip
    assert sum(large.shard_size(i) for i in range(large.num_shards)) == 10_000_000
    assert time.perf_counter() - began < 2
