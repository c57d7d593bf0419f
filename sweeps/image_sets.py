"""The sets of images a run draws, planned by arithmetic: which image is in which shard, whoever samples it.

In: an experiment and its adapters' trials. Out: `ImageSet`s. A shard is whole batches of one plane and sampler, so no
ragged batch reaches the model; its rows are computed from its number where it is sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from fulora.diffusion.sampler import SamplePlan, SampleRow, SamplingConfig
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.paths import BASE_LABEL, RunPaths, rank_label
from sweeps.trials import Trial, plain, short_hash


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of one adapter, in one folder."""

    label: str
    """`base` or `rank-NNN`."""
    rank: int | None
    """None: the base without an adapter."""
    adapter_id: str
    """The adapter's trial id; the base's fingerprint for the base."""
    config: SamplingConfig
    seed: int
    chosen: bool
    """Whether these are the images classifiers train on."""
    images_per_shard: int | None = None
    """A multiple of the batch size; one batch where not given."""

    @cached_property
    def science(self) -> str:
        """Hash of what an image of this set depends on besides its own row; the number of images does not count."""
        config = {k: v for k, v in plain(self.config).items() if k not in ("images_per_plane", "samplers", "rank")}
        if self.config.seeds is not None:
            # The samplers too: a list that names none is dealt to them.
            config["seeds"] = [hashlib.sha256(self.config.seeds.read_bytes()).hexdigest(), self.config.samplers]
        return short_hash([self.adapter_id, config, self.seed])

    @property
    def place(self) -> str:
        """The top folder the images go to."""
        return "synthetic" if self.chosen else "samples"

    def folder(self, paths: RunPaths) -> Path:
        """Return where the images go."""
        return paths.synthetic if self.chosen else paths.images(self.label)

    def adapter(self, paths: RunPaths) -> Path | None:
        """Return the folder of the adapter it is drawn with; None for the base."""
        return None if self.rank is None else paths.adapter(self.rank)

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
    def _shards_per_group(self) -> int:
        return -(-self.config.images_per_plane // self._per_shard)

    @property
    def _per_shard(self) -> int:
        return self.images_per_shard or self.config.batch_size

    def shard_id(self, index: int) -> str:
        """Return the name of a shard; a larger set begins each plane and sampler with a smaller one's shards."""
        plane, sampler, start, count = self.place_of(index)
        # The folder is in the id: a rank that becomes the chosen one has its images made in their new place.
        return f"{self.place}-{self.label}-{plane}-{sampler}-{start:07d}-{count}-{self.science}"

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

    def shards(self) -> Iterator[tuple[str, list[SampleRow]]]:
        """Yield (id, rows) of every shard."""
        return ((self.shard_id(index), self.shard(index)) for index in range(self.num_shards))

    def _place(self, index: int) -> tuple[int, int, int]:
        """Return (plane and sampler, first image, number of images) of a shard."""
        group, within = divmod(index, self._shards_per_group)
        start = within * self._per_shard
        return group, start, min(self._per_shard, self.config.images_per_plane - start)


def image_sets(experiment: Experiment, trials: Sequence[Trial], base_id: str) -> list[ImageSet]:
    """Return the chosen rank's images and the smaller sets it is compared with.

    Where the rank is chosen later and `sampling.rank` is none of those trained, the last rank stands in for it.
    """
    ranks = [trial.config["rank"] for trial in trials]
    taken = experiment.sampling.rank if experiment.sampling.rank in ranks else ranks[-1]
    seed = experiment.seed
    fewer = replace(experiment.sampling, images_per_plane=experiment.compare_per_plane)
    sets = [
        ImageSet(label=BASE_LABEL, rank=None, adapter_id=base_id, config=fewer, seed=seed, chosen=False),
    ]
    for trial in trials:
        rank = trial.config["rank"]
        chosen = rank == taken
        config = replace(experiment.sampling if chosen else fewer, rank=rank)
        sets.append(
            ImageSet(
                label=rank_label(rank), rank=rank, adapter_id=trial.trial_id, config=config, seed=seed, chosen=chosen
            )
        )
    return sorted(sets, key=lambda s: not s.chosen)
