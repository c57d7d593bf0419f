"""Sampling as a Ray Data pipeline: shards of rows over actors, one actor per device, images straight to files.

In: adapters. Out: synthetic/ (the training images of the chosen rank) and samples/ (fewer, of the base and the other
ranks, to compare them by), each a Hugging Face `imagefolder` with metadata.parquet.
A shard is one batch of one shape, so no ragged batch reaches the model; its rows are computed from its number where it
is sampled. A finished shard leaves a part file, so a second run samples only what is missing. The images themselves are
`fulora.diffusion.sampler`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fulora.diffusion.sampler import SamplePlan, Sampler, SampleRow, SamplingConfig
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.cluster import Cluster
from sweeps.paths import BASE_LABEL, RunPaths, rank_label, write_json, written
from sweeps.progress import Progress
from sweeps.tables import AUDITED, read_rows, write_table
from sweeps.trials import Trial, plain, short_hash

_WRITERS = 2
"""Threads of an actor that encode and write images."""
_MOST_PER_CALL = 16
"""Shards an actor is handed at once: while one is sampled the one before is written."""


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
        return -(-self.config.images_per_plane // self.config.batch_size)

    def shard_id(self, index: int) -> str:
        """Return the name of a shard; a larger set begins each plane and sampler with a smaller one's shards."""
        group, start, count = self._place(index)
        plane, sampler = self.plan.groups[group]
        # The folder is in the id: a rank that becomes the chosen one has its images made in their new place.
        return f"{self.place}-{self.label}-{plane.name}-{sampler}-{start:07d}-{count}-{self.science}"

    def shard(self, index: int) -> list[SampleRow]:
        """Return the rows of a shard: one batch of one shape."""
        group, start, count = self._place(index)
        return [self.plan.row(*self.plan.groups[group], number) for number in range(start, start + count)]

    def shard_size(self, index: int) -> int:
        """Return how many images a shard has."""
        return self._place(index)[2]

    def shards(self) -> Iterator[tuple[str, list[SampleRow]]]:
        """Yield (id, rows) of every shard."""
        return ((self.shard_id(index), self.shard(index)) for index in range(self.num_shards))

    def _place(self, index: int) -> tuple[int, int, int]:
        """Return (plane and sampler, first image, number of images) of a shard."""
        group, within = divmod(index, self._shards_per_group)
        start = within * self.config.batch_size
        return group, start, min(self.config.batch_size, self.config.images_per_plane - start)


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


def open_sampler(experiment: Experiment, adapter: Path | None, config: SamplingConfig) -> Sampler:
    """Return the sampler of an adapter, or of the base alone, as the experiment fine-tuned it."""
    return Sampler(
        base=experiment.base,
        adapter=adapter,
        config=config,
        resolution_px=experiment.lora.resolution_px,
        precision=experiment.lora.precision,
        allow_pickle=experiment.allow_pickle,
    )


class SampleShards:
    """The actor: one sampler at a time, loaded once, for as long as shards of its adapter come.

    While a batch of shards is sampled, the images of the shard before are encoded and written by other threads. The
    batch is done when all are: what an actor has returned is on disk.
    """

    def __init__(self, root: str, experiment: Experiment, sets: list[ImageSet], num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self.paths, self.experiment, self.sets = RunPaths(Path(root)), experiment, sets
        self.label: str | None = None
        self.sampler: Any = None
        self.writers = ThreadPoolExecutor(_WRITERS)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Sample shards, write their images, then their part files; a shard that has one already is passed over."""
        counts, written_shards = [], []
        for number, index in zip(batch["set"].tolist(), batch["shard"].tolist(), strict=True):
            which = self.sets[number]
            rows, part = which.shard(index), self.paths.shard(which.shard_id(index))
            counts.append(len(rows))
            if not part.is_file():  # it is there where Ray repeats a batch whose actor died
                images = self._sampler_of(which).sample(rows)
                written_shards.append(self.writers.submit(self._write_shard, which, rows, images, part))
        for shard in written_shards:
            shard.result()
        return {"num_images": counts}

    def _write_shard(self, which: ImageSet, rows: list[SampleRow], images: Any, part: Path) -> None:
        folder = which.folder(self.paths)
        write_table(part, "metadata", [self._write(which, row, image, folder) for row, image in zip(rows, images)])

    def _sampler_of(self, which: ImageSet) -> Any:
        if which.label != self.label:
            self.sampler = None  # free the device before the next adapter is loaded
            adapter = None if which.rank is None else self.paths.adapter(which.rank)
            self.sampler = open_sampler(self.experiment, adapter, which.config)
            self.label = which.label
            self.facts = {"base": self.sampler.base.name, "device": str(self.sampler.base.device)}
        return self.sampler

    def _write(self, which: ImageSet, row: SampleRow, image: Any, folder: Path) -> dict[str, Any]:
        import io

        from PIL import Image

        from fulora.data.pixels import pixel_hash

        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", compress_level=4)
        file_name = f"{row.plane}/{row.image_id}.png"
        with written(folder / file_name) as beside:
            beside.write_bytes(buffer.getvalue())
        return {
            "file_name": file_name,
            **asdict(row),
            "adapter": which.adapter_id,
            "rank": which.rank,
            "num_steps": which.config.num_steps,
            "guidance": which.config.guidance,
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "pixel_hash": pixel_hash(image),
            **self.facts,
        }


def missing_shards(sets: Sequence[ImageSet], paths: RunPaths) -> np.ndarray:
    """Return (set, shard) int64 [N, 2] of every shard that is not complete, in sampling order."""
    done = {file.stem for file in (paths.parts / "shards").glob("*.parquet")}
    found = (
        (number, index)
        for number, which in enumerate(sets)
        for index in range(which.num_shards)
        if not done or which.shard_id(index) not in done
    )
    pair = np.dtype((np.int64, 2))
    return np.fromiter(found, dtype=pair)


def num_images(sets: Sequence[ImageSet], shards: np.ndarray) -> int:
    """Return how many images some shards hold."""
    return sum(sets[number].shard_size(index) for number, index in shards.tolist())


def sample_shards(
    experiment: Experiment, sets: Sequence[ImageSet], *, paths: RunPaths, cluster: Cluster, progress: Progress
) -> int:
    """Sample what is missing and return how many images that was. Raises RuntimeError where shards were lost."""
    import ray

    todo = missing_shards(sets, paths)
    if not len(todo):
        return 0
    ray.data.DataContext.get_current().enable_progress_bars = False
    slots = min(cluster.num_slots, len(todo))
    gpus = cluster.trial_resources["gpu"]
    # As many shards in a call as leave every actor several calls; a block is one call, so that none is ragged.
    per_call = max(1, min(_MOST_PER_CALL, len(todo) // (4 * slots)))
    calls = np.array_split(todo, -(-len(todo) // per_call))
    done = (
        ray.data.from_blocks([pa.table({"set": call[:, 0], "shard": call[:, 1]}) for call in calls])
        .map_batches(
            SampleShards,
            batch_size=None,
            fn_constructor_args=(str(paths.root.resolve()), experiment, list(sets), cluster.num_threads),
            num_cpus=cluster.cpus_per_trial,
            num_gpus=gpus or None,
            compute=ray.data.ActorPoolStrategy(size=slots),
        )
        .iter_rows()
    )
    sampled = 0
    for row in done:
        sampled += row["num_images"]
        progress.advance(row["num_images"])
    if lost := len(missing_shards(sets, paths)):
        raise RuntimeError(f"{lost} of {len(todo)} shards of images were not sampled; run again to sample them")
    return sampled


def assemble(which: ImageSet, paths: RunPaths) -> list[dict[str, Any]]:
    """Write a set's metadata.parquet from its part files and return its rows; files of other settings are removed.

    Raises InputError where a row's file is missing, so that the count is always true.
    """
    folder = which.folder(paths)
    order = {row.image_id: index for index, row in enumerate(row for _, batch in which.shards() for row in batch)}
    rows = [row for shard_id, _ in which.shards() for row in read_rows(paths.shard(shard_id), "metadata")]
    rows.sort(key=lambda row: order[row["image_id"]])
    lost = [row["file_name"] for row in rows if not (folder / row["file_name"]).is_file()]
    if lost or len(rows) != len(order):
        for shard_id, batch in which.shards():
            if any(f"{row.plane}/{row.image_id}.png" in set(lost) for row in batch):
                paths.shard(shard_id).unlink(missing_ok=True)
        rule = f"lacks {len(order) - len(rows) + len(lost)} of {len(order)} images"
        raise InputError(fault("synthetic", str(folder), rule, "Run again: what is missing is sampled."))
    keep = {row["file_name"] for row in rows}
    for plane in PLANES:
        for file in (folder / plane.name).glob("*.png"):
            if f"{plane.name}/{file.name}" not in keep:
                file.unlink()
    if not _same_images(folder / "metadata.parquet", rows):
        write_table(folder / "metadata.parquet", "metadata", rows)
    write_json(folder / "set.json", plain(which))
    return rows


def _same_images(file: Path, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether a table holds these rows already, perhaps with what the near-copy audit added to them."""
    if not file.is_file():
        return False
    bare = [{key: value for key, value in row.items() if key not in AUDITED} for row in read_rows(file, "metadata")]
    return bare == [{key: value for key, value in row.items() if key not in AUDITED} for row in rows]
