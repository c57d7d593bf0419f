"""The sampling stage of a run: what is missing of its image sets is drawn, straight to files.

In: adapters. Out: synthetic/ (the training images of the chosen rank) and samples/ (fewer, of the base and the other
ranks, to compare them by), each a Hugging Face `imagefolder` with metadata.parquet.
A finished shard leaves a part file, so a second run samples only what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.engine.resources import Cluster
from sweeps.image_sets import ImageSet
from sweeps.paths import RunPaths, write_json, written
from sweeps.progress import Progress
from sweeps.record import StageFailed
from sweeps.sampling_actors import Drawn, draw_shards
from sweeps.tables import AUDITED, read_rows, write_table
from sweeps.trials import plain


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run's own image folders: a PNG file per image, and a part file per shard, written last."""

    root: Path

    def __str__(self) -> str:
        """Return where it is."""
        return str(self.root)

    def has(self, which: ImageSet, index: int) -> bool:
        """Return whether a shard is complete."""
        return RunPaths(self.root).shard(which.shard_id(index)).is_file()

    def keep(self, which: ImageSet, index: int, images: Sequence[Drawn]) -> None:
        """Write a shard's images, then its part file."""
        paths = RunPaths(self.root)
        for row, png in images:
            with written(which.folder(paths) / row["file_name"]) as beside:
                beside.write_bytes(png)
        write_table(paths.shard(which.shard_id(index)), "metadata", [row for row, _ in images])


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
    """Sample what is missing and return how many images that was. Raises StageFailed where it could not be finished."""
    todo = missing_shards(sets, paths)
    sampled = draw_shards(
        todo,
        experiment=experiment,
        sets=sets,
        adapters={which.label: which.adapter(paths) for which in sets},
        sink=RunFolder(paths.root.resolve()),
        cluster=cluster,
        progress=progress,
    )
    if lost := len(missing_shards(sets, paths)):
        raise StageFailed(f"{lost} of {len(todo)} shards of images were not sampled")
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
