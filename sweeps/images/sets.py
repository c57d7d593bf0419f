"""The sets of images a study draws, planned by arithmetic: which image is in which shard, whoever draws it.

In: an experiment and its adapters' steps. Out: `SyntheticSet`s. A shard is whole batches of one plane and sampler, so
no ragged batch reaches the model. A set that is larger, or of a rank that is chosen, begins with the shards of a
smaller one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from fulora.data.records import ImageRecord
from fulora.diffusion.sampler import SamplePlan, SampleRow, SamplingConfig
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.core.hashing import PLACE, content_hash, to_jsonable
from sweeps.core.paths import BASE_LABEL, rank_label, replicate_label
from sweeps.core.step import Kind, Step
from sweeps.images.rows import planned_record
from sweeps.ranks.base import BaseModel, base_model
from sweeps.ranks.plan import sampled_rank

IMAGES = Kind(name="images", stage="sample", work="sweeps.images.draw:draw_shard", runs_on="gpu", is_shard=True)
_SECONDS_PER_STEP = 0.02
"""Of one image at 64 px on one core, to order work by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardConfig:
    """A shard: its images, row by row, and how they are drawn."""

    rows: tuple[SampleRow, ...]
    sampling: SamplingConfig
    """Settings that all sizes of a set share."""
    base: BaseModel
    rank: int | None = field(default=None, metadata=PLACE)
    """Rank of the adapter, for metadata.parquet; the adapter itself is a need."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """Images of one adapter."""

    label: str
    """`base` or `rank-NNN`."""
    rank: int | None
    """None: the base without an adapter."""
    adapter: Step | None
    """The fine-tuning; None for the base."""
    base: BaseModel
    config: SamplingConfig
    seed: int
    chosen: bool = False
    """Whether these are the images classifiers train on."""
    images_per_shard: int | None = None
    """A multiple of the batch size; one batch where not given."""

    @cached_property
    def adapter_id(self) -> str:
        """The adapter's key, or the base's identity."""
        return self.adapter.key if self.adapter else f"{self.base.identity}-{self.base.resolution_px}"

    @cached_property
    def science(self) -> str:
        """Hash of what an image depends on besides its own row; the number of images does not count."""
        config = {
            k: v for k, v in to_jsonable(self.config).items() if k not in ("images_per_plane", "samplers", "rank")
        }
        if self.config.seeds is not None:
            # The samplers too: a list that names none is dealt to them.
            config["seeds"] = [hashlib.sha256(self.config.seeds.read_bytes()).hexdigest(), self.config.samplers]
        return content_hash([self.adapter_id, config, self.seed])

    @cached_property
    def plan(self) -> SamplePlan:
        """The rows."""
        return SamplePlan(self.config, seed=self.seed)

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(PLANES) * len(self.config.samplers) * self.config.images_per_plane

    @property
    def num_shards(self) -> int:
        """How many shards there are; each plane and sampler begins with a shard of its own."""
        return len(PLANES) * len(self.config.samplers) * self._shards_per_group

    @property
    def _per_shard(self) -> int:
        return self.images_per_shard or self.config.batch_size

    @property
    def _shards_per_group(self) -> int:
        return -(-self.config.images_per_plane // self._per_shard)

    def shard(self, index: int) -> list[SampleRow]:
        """Return the rows of a shard, all of one plane and sampler."""
        group, start, count = self._place(index)
        return [self.plan.row(*self.plan.groups[group], number) for number in range(start, start + count)]

    def place_of(self, index: int) -> tuple[str, str, int, int]:
        """Return (plane, sampler, first image, number of images) of a shard."""
        group, start, count = self._place(index)
        plane, sampler = self.plan.groups[group]
        return plane.name, sampler, start, count

    def shard_size(self, index: int) -> int:
        """Return how many images a shard has."""
        return self._place(index)[2]

    def _place(self, index: int) -> tuple[int, int, int]:
        group, within = divmod(index, self._shards_per_group)
        start = within * self._per_shard
        return group, start, min(self._per_shard, self.config.images_per_plane - start)

    def rows(self) -> Iterator[SampleRow]:
        """Yield every row, in sampling order."""
        return (row for index in range(self.num_shards) for row in self.shard(index))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps that draw it, a step per shard."""
        return tuple(self._step(index) for index in range(self.num_shards))

    def _step(self, index: int) -> Step:
        rows = tuple(self.shard(index))
        shared = replace(self.config, images_per_plane=1, samplers=(rows[0].sampler,), seeds=None, rank=1)  # type: ignore[arg-type]
        config = ShardConfig(rows=rows, sampling=shared, base=self.base, rank=self.rank)
        return Step(
            kind=IMAGES,
            label=f"{self.label}: {rows[0].plane}, {rows[0].sampler}, {len(rows)} from {self.place_of(index)[2]}",
            config=config,
            needs={"adapter": (self.adapter,)} if self.adapter else {},
            cost=len(rows) * self.config.num_steps * _SECONDS_PER_STEP,
        )

    @cached_property
    def step_of(self) -> dict[str, Step]:
        """The step that draws each image, by the image's id in the catalog."""
        return {planned_record(row).image_id: step for step in self.steps for row in step.config.rows}


def synthetic_sets(experiment: Experiment, ranks: Sequence[Step]) -> list[SyntheticSet]:
    """Return the chosen rank's images, and the smaller sets of the base and the other ranks to compare them with.

    Where the rank is chosen later and `sampling.rank` is none of those trained, the last rank stands in for it.
    """
    trained, taken = [step.config.lora.rank for step in ranks], sampled_rank(experiment)
    fewer = replace(experiment.sampling, images_per_plane=experiment.compare_per_plane)
    base, seed = base_model(experiment), experiment.seed
    sets = [SyntheticSet(label=BASE_LABEL, rank=None, adapter=None, base=base, config=fewer, seed=seed)]
    for step, rank in zip(ranks, trained):
        sets.append(
            SyntheticSet(
                label=rank_label(rank), rank=rank, adapter=step, base=base, seed=seed, chosen=rank == taken,
                config=replace(experiment.sampling if rank == taken else fewer, rank=rank),
            )
        )  # fmt: skip
    return sorted(sets, key=lambda s: not s.chosen)


def control_set(experiment: Experiment) -> SyntheticSet:
    """Return as many images of the base model without an adapter as the chosen rank has: a control trains on them."""
    return SyntheticSet(
        label=BASE_LABEL, rank=None, adapter=None, base=base_model(experiment), config=experiment.sampling,
        seed=experiment.seed,
    )  # fmt: skip


def repeated_set(experiment: Experiment, adapter: Step, number: int) -> SyntheticSet:
    """Return the images of a replicate beyond the first; `experiment` and `adapter` are the replicate's.

    Seeds are the replicate's too, except for those of a list (`--sampling.seeds`), which is the same in all of them.
    """
    rank = adapter.config.lora.rank
    return SyntheticSet(
        label=replicate_label(number), rank=rank, adapter=adapter, base=base_model(experiment), chosen=True,
        config=replace(experiment.sampling, rank=rank), seed=experiment.seed,
    )  # fmt: skip


def planned_records(which: SyntheticSet) -> list[ImageRecord]:
    """Return the images of a set as records, before they are drawn: a plan selects exactly those a run trains on."""
    return [planned_record(row) for row in which.rows()]
