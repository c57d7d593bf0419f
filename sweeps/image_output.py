"""Synthetic images to an address outside the run: a folder or S3, as files or as Parquet with the bytes inside.

In: one image set and a `Destination`. Out: under the address, `set.json`, which says what the images are, and either
`data/*.parquet`, some hundred images each, or `PLANE/*.png` with metadata.parquet. Drawn straight there: nothing passes
through the run's folder. A second call draws what is missing. Parquet is for any number of images; of files, the driver
holds every row once, to write metadata.parquet, so they are for some hundred thousand.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from fulora.errors import InputError, fault, one_line
from fulora.experiment import Experiment
from fulora.planes import PLANES
from sweeps.core.files import atomic_path as written
from sweeps.core.tables import schema_of, to_table
from sweeps.engine.resources import Cluster
from sweeps.image_sets import ImageSet
from sweeps.progress import Progress, shown
from sweeps.record import StageFailed
from sweeps.sampling_actors import Drawn, draw_shards
from sweeps.trials import plain

Form = Literal["parquet", "files"]

IMAGES_PER_FILE = 256
"""Images in one Parquet file: at 512 px about 50 MB, and what a killed worker draws anew."""
_SET = "set.json"
_SHARD = re.compile(r"([a-z]+)-([a-z]+)-(\d{8,})-(\d+)\.parquet")
"""Plane, sampler, first image, number of images."""
_READERS = 16
"""Footers read at once when the rows are counted."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A place for images, and the sink that fills it."""

    address: str
    """An absolute path, or a URI that Arrow opens, such as `s3://BUCKET/FOLDER?region=eu-west-1`."""
    form: Form = "parquet"
    """PNG bytes inside Parquet files, or PNG files beside a metadata.parquet."""

    def __str__(self) -> str:
        """Return the address without credentials."""
        return re.sub(r"//[^/@]*@", "//", self.address)

    @cached_property
    def opened(self) -> tuple[fs.FileSystem, str]:
        """The file system, and the place in it."""
        if "://" not in self.address:
            return fs.LocalFileSystem(), self.address
        system, root = fs.FileSystem.from_uri(self.address)
        return system, root.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:
        """Return what makes an equal destination elsewhere; the open file system stays here."""
        return {"address": self.address, "form": self.form}

    def has(self, which: ImageSet, index: int) -> bool:
        """Return whether a shard is complete."""
        system, root = self.opened
        return system.get_file_info(f"{root}/{self._shard(which, index)}").type == fs.FileType.File

    def keep(self, which: ImageSet, index: int, images: Sequence[Drawn]) -> None:
        """Write a shard; of files, the images first."""
        if self.form == "parquet":
            table = to_table("images", [{**row, "image": png} for row, png in images])
        else:
            table = to_table("metadata", [row for row, _ in images])
            for row, png in images:
                self.put(row["file_name"], png)
        self.put(self._shard(which, index), _as_bytes(table))

    @property
    def folder(self) -> str:
        """Where its Parquet files are: the images themselves, or what is known of a batch of files."""
        return "data" if self.form == "parquet" else "parts"

    def _shard(self, which: ImageSet, index: int) -> str:
        return self.shard_name(*which.place_of(index))

    def shard_name(self, plane: str, sampler: str, start: int, count: int) -> str:
        """Return the name of the file that holds `count` images from the `start`-th on."""
        return f"{self.folder}/{plane}-{sampler}-{start:08d}-{count}.parquet"

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        system, root = self.opened
        if isinstance(system, fs.LocalFileSystem):
            with written(Path(root) / name) as beside:
                beside.write_bytes(data)
            return
        # An object is there once its upload is complete, so no other name is needed.
        stream = system.open_output_stream(f"{root}/{name}")
        stream.write(data)
        stream.close()

    def get(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        system, root = self.opened
        if system.get_file_info(f"{root}/{name}").type != fs.FileType.File:
            return None
        with system.open_input_stream(f"{root}/{name}") as stream:
            return stream.read()

    def shards(self) -> list[str]:
        """Return the names of the shards that are there; files of other names are no business of ours."""
        return [name for name in self.names(self.folder) if _SHARD.fullmatch(Path(name).name)]

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, with the folder; none where it is not there."""
        system, root = self.opened
        found = system.get_file_info(fs.FileSelector(f"{root}/{folder}", allow_not_found=True))
        return [f"{folder}/{info.base_name}" for info in found if info.is_file and not info.base_name.startswith(".")]

    def delete(self, names: Iterable[str]) -> None:
        """Delete files."""
        system, root = self.opened
        for name in names:
            with suppress(FileNotFoundError):
                system.delete_file(f"{root}/{name}")

    def check(self) -> None:
        """Write a small file and delete it again. Raises InputError where the place cannot be written to."""
        name = f".probe-{uuid.uuid4().hex[:8]}"
        with self._usable():
            self.put(name, b"x")
            self.delete([name])

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Turn what a place answers into an InputError without credentials."""
        try:
            yield
        except InputError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error).replace(self.address, str(self))
            words = one_line(reason, 300)
            remedy = "Check the address, the rights and, for S3, the credentials, region and endpoint_override."
            raise InputError(fault("to", str(self), f"cannot be used ({words})", remedy)) from error

    def claim(self, which: ImageSet) -> None:
        """Write set.json. Raises InputError where the place cannot be used or holds other images."""
        about = {"science": which.science, "form": self.form, **_about(which)}
        remedy = "Give --to another address."
        with self._usable():
            if (there := self.get(_SET)) is not None:
                before = json.loads(there)
                differing = [key for key in ("science", "form") if before.get(key) != about[key]]
                if differing:
                    rule = f"holds another set (its {' and '.join(differing)} differ: {before.get(differing[0])})"
                    raise InputError(fault("to", str(self), rule, remedy))
            else:
                self.put(_SET, (json.dumps(about, indent=1, default=str) + "\n").encode())


def _about(which: ImageSet) -> dict[str, Any]:
    return {
        "adapter": which.adapter_id,
        "rank": which.rank,
        "seed": which.seed,
        "sampling": {k: v for k, v in plain(which.config).items() if k != "images_per_plane"},
    }


def for_output(which: ImageSet) -> ImageSet:
    """Return the set in shards of many batches: each is a Parquet file of its own."""
    size = which.config.batch_size
    return replace(which, images_per_shard=max(1, IMAGES_PER_FILE // size) * size)


def draw_to(
    destination: Destination,
    which: ImageSet,
    *,
    experiment: Experiment,
    adapter: Path | None,
    cluster: Cluster,
    progress: Progress,
) -> int:
    """Draw what is missing of a set at a destination and return how many images that was.

    A larger set keeps a smaller one's files, but for the last of each plane and sampler, which it makes anew and full.
    Raises InputError for a place that cannot be used, StageFailed where images could not be drawn, kept or counted.
    """
    which = for_output(which)
    destination.claim(which)
    with _failures_in_words(destination):
        todo = _missing(destination, which)
        with shown(progress, "sample", sum(map(which.shard_size, todo.tolist())), "images"):
            drawn = draw_shards(
                np.stack([np.zeros_like(todo), todo], axis=1),
                experiment=experiment,
                sets=[which],
                adapters={which.label: adapter},
                sink=destination,
                cluster=cluster,
                progress=progress,
            )
        destination.delete(_superseded(destination))
        _check_counts(destination, which)
        if destination.form == "files":
            _gather_metadata(destination)
    return drawn


@contextmanager
def _failures_in_words(destination: Destination) -> Iterator[None]:
    """Turn what a place answers while it is in use into StageFailed: a cut line, a right that is missing."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StageFailed(f"{destination} could not be read or written ({one_line(error)})") from error


def _counts(destination: Destination) -> dict[tuple[str, str], dict[int, list[int]]]:
    """Return the numbers of images that files at a destination say they hold, by plane, sampler and first image."""
    found: dict[tuple[str, str], dict[int, list[int]]] = {}
    for name in destination.shards():
        plane, sampler, start, count = Path(name).stem.split("-")
        found.setdefault((plane, sampler), {}).setdefault(int(start), []).append(int(count))
    return found


def _missing(destination: Destination, which: ImageSet) -> np.ndarray:
    """Return the indices int64 [N] of the shards that no file covers."""
    there = _counts(destination)

    def covered(index: int) -> bool:
        plane, sampler, start, count = which.place_of(index)
        return max(there.get((plane, sampler), {}).get(start, [0])) >= count

    return np.fromiter((i for i in range(which.num_shards) if not (there and covered(i))), dtype=np.int64)


def _superseded(destination: Destination) -> list[str]:
    """Return the files that a longer file of the same start has made needless: a smaller set's last ones."""
    return [
        destination.shard_name(plane, sampler, start, count)
        for (plane, sampler), starts in _counts(destination).items()
        for start, counts in starts.items()
        for count in sorted(counts)[:-1]
    ]


def _check_counts(destination: Destination, which: ImageSet) -> None:
    """Raise StageFailed where a shard is missing, or a file holds other than the rows its name says; it is deleted."""
    names = destination.shards()
    with ThreadPoolExecutor(_READERS) as pool:
        rows = list(pool.map(lambda name: _num_rows(destination, name), names))
    wrong = [name for name, count in zip(names, rows) if count != int(Path(name).stem.rsplit("-", 1)[1])]
    destination.delete(wrong)
    if lost := sum(map(which.shard_size, _missing(destination, which).tolist())):
        raise StageFailed(f"{lost} of {which.num_images} images are not at {destination}")


def _num_rows(destination: Destination, name: str) -> int:
    system, root = destination.opened
    try:
        with system.open_input_file(f"{root}/{name}") as file:
            return pq.ParquetFile(file).metadata.num_rows
    except (OSError, pa.ArrowException):
        return -1


def _as_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _gather_metadata(destination: Destination) -> None:
    """Write the metadata.parquet of a set of files from its parts. Raises StageFailed where an image's file is gone."""
    there = {name for plane in PLANES for name in destination.names(plane.name)}
    sink, lost = pa.BufferOutputStream(), 0
    with ThreadPoolExecutor(_READERS) as pool, pq.ParquetWriter(sink, schema_of("metadata")) as writer:
        parts = sorted(destination.shards())
        for part, data in zip(parts, pool.map(destination.get, parts), strict=True):
            table = pq.read_table(pa.BufferReader(data or b""))
            if gone := set(table["file_name"].to_pylist()) - there:
                destination.delete([part])
                lost += len(gone)
            writer.write_table(table)
    if lost:
        raise StageFailed(f"{lost} images that were drawn are no more at {destination}")
    destination.put("metadata.parquet", sink.getvalue().to_pybytes())
