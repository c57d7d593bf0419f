"""Sampling as a Ray Data pipeline: shards of rows over actors, one actor per device, images straight to files.

In: adapters. Out: synthetic/ (the training images of the chosen rank) and samples/ (fewer, of the base and the other
ranks, to compare them by), each a Hugging Face `imagefolder` with metadata.parquet.
A shard is one batch of one shape, so no ragged batch reaches the model; a finished shard leaves a part file, so a
second run samples only what is missing. The images themselves are `fulora.diffusion.sampler`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fulora.diffusion.sampler import SampleRow, SamplingConfig, plan_samples
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.cluster import Cluster
from sweeps.paths import BASE_LABEL, RunPaths, rank_label, write_json, written
from sweeps.progress import Progress
from sweeps.tables import AUDITED, read_rows, write_table
from sweeps.trials import Trial, plain, short_hash


@dataclass(frozen=True, kw_only=True, slots=True)
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

    @property
    def science(self) -> str:
        """Hash of what an image of this set depends on besides its own row; the number of images does not count."""
        config = {k: v for k, v in plain(self.config).items() if k not in ("images_per_plane", "samplers", "rank")}
        return short_hash([self.adapter_id, config, self.seed])

    @property
    def place(self) -> str:
        """The top folder the images go to."""
        return "synthetic" if self.chosen else "samples"

    def folder(self, paths: RunPaths) -> Path:
        """Return where the images go."""
        return paths.synthetic if self.chosen else paths.images(self.label)

    def shards(self) -> Iterator[tuple[str, list[SampleRow]]]:
        """Yield (id, rows) of one batch each; a larger set begins each plane and sampler with a smaller one's."""
        rows: dict[tuple[str, str], list[SampleRow]] = {}
        for row in plan_samples(self.config, seed=self.seed):
            rows.setdefault((row.sampler, row.plane), []).append(row)
        size = self.config.batch_size
        for (sampler, plane), group in rows.items():
            for start in range(0, len(group), size):
                batch = group[start : start + size]
                # The folder is in the id: a rank that becomes the chosen one has its images made in their new place.
                yield f"{self.place}-{self.label}-{plane}-{sampler}-{start:07d}-{len(batch)}-{self.science}", batch


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


class SampleShards:
    """The actor: one sampler at a time, loaded once, for as long as shards of its adapter come."""

    def __init__(self, root: str, experiment: Experiment, sets: list[ImageSet], num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self.paths, self.experiment = RunPaths(Path(root)), experiment
        self.sets = {s.label: s for s in sets}
        self.rows = {shard_id: (s.label, rows) for s in sets for shard_id, rows in s.shards()}
        self.label: str | None = None
        self.sampler: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Sample one shard, write its images, then its part file."""
        (shard_id,) = batch["shard_id"].tolist()
        label, rows = self.rows[shard_id]
        images = self._sampler_of(label).sample(rows)
        folder = self.sets[label].folder(self.paths)
        written_rows = [self._write(label, row, image, folder) for row, image in zip(rows, images)]
        write_table(self.paths.shard(shard_id), "metadata", written_rows)
        return {"shard_id": [shard_id], "num_images": [len(rows)]}

    def _sampler_of(self, label: str) -> Any:
        from fulora.diffusion.sampler import Sampler

        if label != self.label:
            self.sampler = None  # free the device before the next adapter is loaded
            which = self.sets[label]
            self.sampler = Sampler(
                base=self.experiment.base,
                adapter=None if which.rank is None else self.paths.adapter(which.rank),
                config=which.config,
                resolution_px=self.experiment.lora.resolution_px,
                precision=self.experiment.lora.precision,
                allow_pickle=self.experiment.allow_pickle,
            )
            self.label = label
        return self.sampler

    def _write(self, label: str, row: SampleRow, image: Any, folder: Path) -> dict[str, Any]:
        import io

        from PIL import Image

        from fulora.data.pixels import pixel_hash

        which = self.sets[label]
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
            "base": self.sampler.base.name,
            "pixel_hash": pixel_hash(image),
            "device": str(self.sampler.base.device),
        }


def missing_shards(sets: Sequence[ImageSet], paths: RunPaths) -> dict[str, int]:
    """Return shard id -> number of images for every shard that is not complete, in sampling order."""
    done = {file.stem for file in (paths.parts / "shards").glob("*.parquet")}
    return {shard_id: len(rows) for s in sets for shard_id, rows in s.shards() if shard_id not in done}


def sample_shards(
    experiment: Experiment, sets: Sequence[ImageSet], *, paths: RunPaths, cluster: Cluster, progress: Progress
) -> int:
    """Sample what is missing and return how many images that was. Raises RuntimeError where shards were lost."""
    import ray

    todo = missing_shards(sets, paths)
    if not todo:
        return 0
    ray.data.DataContext.get_current().enable_progress_bars = False
    ids = list(todo)
    slots = min(cluster.num_slots, len(ids))
    gpus = cluster.trial_resources["gpu"]
    done = (
        ray.data.from_items([{"shard_id": shard_id} for shard_id in ids], override_num_blocks=len(ids))
        .map_batches(
            SampleShards,
            batch_size=1,
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
    if lost := missing_shards(sets, paths):
        raise RuntimeError(f"{len(lost)} of {len(todo)} shards of images were not sampled; run again to sample them")
    return sampled


def assemble(which: ImageSet, paths: RunPaths) -> list[dict[str, Any]]:
    """Write a set's metadata.parquet from its part files and return its rows; files of other settings are removed.

    Raises InputError where a row's file is missing, so that the count is always true.
    """
    folder = which.folder(paths)
    order = {row.image_id: index for index, row in enumerate(plan_samples(which.config, seed=which.seed))}
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
