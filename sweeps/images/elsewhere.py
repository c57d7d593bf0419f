"""A synthetic set of any size drawn straight to a `Destination`: nothing passes through the run's folder.

In: one set and a destination. Out: its files there. A second call draws what is missing. Parquet is for any number of
images; of files, the driver holds every row once, to write metadata.parquet, so they are for some hundred thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fulora.errors import InputError, one_line
from fulora.planes import PLANES
from sweeps.core.cache import Cache
from sweeps.core.tables import schema_of
from sweeps.engine.actors import over_actors
from sweeps.engine.resources import Cluster, placement
from sweeps.images.destination import Destination, Drawn
from sweeps.images.draw import drawn_beside, encoded, open_sampler
from sweeps.images.sets import SyntheticSet

IMAGES_PER_FILE = 256
"""Images in one Parquet file: at 512 px about 50 MB, and what a killed worker draws anew."""
_READERS = 16
"""Footers read at once when the rows are counted."""
_MOST_PER_CALL = 16
"""Batches an actor is handed at once, but for two shards at least: while one is sampled the one before is written."""


OnDrawn = Callable[[int, int], None]
"""Takes how many images were drawn, and how many are to be drawn in all."""


class DrawingFailed(RuntimeError):
    """Images could not be drawn, kept or counted; finished images are kept, and the same command resumes."""


class Sink(Protocol):
    """What keeps shards of images; pickled to every actor, so it holds names and nothing open."""

    def has(self, which: SyntheticSet, index: int) -> bool:
        """Return whether a shard is complete."""

    def keep(self, which: SyntheticSet, index: int, images: Sequence[Drawn]) -> None:
        """Write a shard, so that `has` is true only once all of it is there."""


class ShardWriter:
    """Draws shards and gives them to a sink.

    While a batch is sampled, the images of those before are encoded by other threads, and while a shard is sampled the
    one before is written. A call is done when all its shards are: what was returned is kept. What goes wrong is
    returned in words, for the driver to stop at; Ray would try again, and a full disk stays full.
    """

    def __init__(self, which: SyntheticSet, adapter: Path | None, sink: Sink, nodes: Cache | None = None) -> None:
        """Take the set, its adapter's folder and the sink; with `nodes` base, adapter and seeds come by the storage."""
        self.which, self.adapter, self.sink, self.nodes = which, adapter, sink, nodes
        self.spec, self._is_here = which.base.spec, nodes is None
        self.writer = ThreadPoolExecutor(1)

    def __call__(self, shards: Sequence[int]) -> list[dict[str, Any]]:
        """Draw the shards of a call and return a row for each; one that is there already is passed over."""
        done: list[Future[str] | str] = []
        failed = ""
        for index in shards:
            if failed := failed or next((error for one in done if (error := _known(one))), ""):
                done.append(failed)
                continue
            try:
                self._fetch()
                if self.sink.has(self.which, index):  # it is there where Ray repeats a call whose actor died
                    done.append("")
                    continue
                images = self._drawn(index)
            except Exception as error:
                done.append(_words(error, self.sink))
                continue
            done.append(self.writer.submit(self._keep, index, images))
        errors = [one if isinstance(one, str) else one.result() for one in done]
        return [
            {"num_images": 0 if error else self.which.shard_size(index), "error": error}
            for index, error in zip(shards, errors, strict=True)
        ]

    def _fetch(self) -> None:
        """Have what is drawn with on this machine."""
        if self._is_here or self.nodes is None:
            return
        config, trained = self.which.config, self.which.adapter
        if config.seeds is not None:
            config = replace(config, seeds=Path(self.nodes.local(str(config.seeds))))
        base = replace(self.which.base, spec=self.nodes.local(self.spec))
        self.which = replace(self.which, base=base, config=config)
        if trained is not None and self.nodes.done(trained) is not None:
            self.adapter = self.nodes.folder(trained)
        self._is_here = True

    def _drawn(self, index: int) -> list[Drawn]:
        """Draw a shard and return its images, encoded."""
        sampler = open_sampler(self.which.base, self.adapter, self.which.config)
        about = {
            "adapter": self.which.adapter_id, "rank": self.which.rank, "num_steps": self.which.config.num_steps,
            "guidance": self.which.config.guidance, 
            "base": sampler.base.name.replace(self.which.base.spec, self.spec),
            "device": str(sampler.base.device), **placement(),
        }  # fmt: skip
        return drawn_beside(sampler, self.which.shard(index), partial(encoded, about=about))

    def _keep(self, index: int, images: list[Drawn]) -> str:
        """Write a shard; return what went wrong, empty where nothing did."""
        try:
            self.sink.keep(self.which, index, images)
        except Exception as error:
            return _words(error, self.sink)
        return ""


def _known(one: Future[str] | str) -> str:
    """Return what went wrong with a shard as far as is known by now."""
    return one if isinstance(one, str) else one.result() if one.done() else ""


def _words(error: Exception, sink: Sink) -> str:
    if isinstance(error, OSError) and error.strerror:
        remedy = "Free disk space or restore the directory's permissions, or give another destination"
        return f"{error.filename or sink}: {error.strerror}. {remedy}"
    return one_line(error, 400) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error, 400)}"


def for_output(which: SyntheticSet) -> SyntheticSet:
    """Return the set in shards of many batches: each is a Parquet file of its own."""
    size = which.config.batch_size
    return replace(which, images_per_shard=max(1, IMAGES_PER_FILE // size) * size)


def draw_to(
    destination: Destination, which: SyntheticSet, *, adapter: Path | None, cluster: Cluster, on_drawn: OnDrawn,
    nodes: Cache | None = None,
) -> int:  # fmt: skip
    """Draw what is missing of a set at a destination and return how many images that was; `nodes` as `ShardWriter`'s.

    A larger set keeps a smaller one's files, but for the last of each plane and sampler, which it makes anew and full.
    Raises InputError for a place that cannot be used, DrawingFailed where images cannot be drawn, kept or counted.
    """
    which = for_output(which)
    destination.claim(which)
    with _failures_in_words(destination):
        todo = _missing(destination, which)
        make = partial(ShardWriter, which, adapter, destination, nodes)
        drawn = draw_shards(todo, which, make=make, cluster=cluster, on_drawn=on_drawn)
        destination.remote.delete(_superseded(destination))
        _check_counts(destination, which)
        if destination.form == "files":
            _gather_metadata(destination)
    return drawn


def draw_shards(
    todo: np.ndarray, which: SyntheticSet, *, make: Callable[[], ShardWriter], cluster: Cluster, on_drawn: OnDrawn
) -> int:
    """Draw the shards int64 [N] on all devices at once, an actor made on each, and return how many images they hold.

    Raises DrawingFailed at the first shard that cannot be drawn or kept; those finished are kept.
    """
    if not len(todo):
        return 0
    slots = min(cluster.num_slots, len(todo))
    # As many shards in a call as leave every actor several calls.
    batches = which.shard_size(0) // which.config.batch_size  # in a shard
    per_call = max(1, min(max(2, _MOST_PER_CALL // max(1, batches)), len(todo) // (4 * slots)))
    calls = [call.tolist() for call in np.array_split(todo, -(-len(todo) // per_call))]
    drawn, num_images = 0, sum(map(which.shard_size, todo.tolist()))
    for row in over_actors(make, calls, cluster, num_actors=slots):
        if row["error"]:
            raise DrawingFailed(f"sampling stopped: {row['error']}.\nWhat was finished is kept.")
        drawn += row["num_images"]
        on_drawn(row["num_images"], num_images)
    return drawn


@contextmanager
def _failures_in_words(destination: Destination) -> Iterator[None]:
    """Turn what a place answers while it is in use into DrawingFailed: a cut line, a right that is missing."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DrawingFailed(f"{destination} could not be read or written ({one_line(error)})") from error


def _counts(destination: Destination) -> dict[tuple[str, str], dict[int, list[int]]]:
    """Return the numbers of images that files at a destination say they hold, by plane, sampler and first image."""
    found: dict[tuple[str, str], dict[int, list[int]]] = {}
    for name in destination.shards():
        plane, sampler, start, count = Path(name).stem.split("-")
        found.setdefault((plane, sampler), {}).setdefault(int(start), []).append(int(count))
    return found


def _missing(destination: Destination, which: SyntheticSet) -> np.ndarray:
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


def _check_counts(destination: Destination, which: SyntheticSet) -> None:
    """Raise DrawingFailed where a shard is missing, or a file has other rows than its name says; it is deleted."""
    names = destination.shards()
    with ThreadPoolExecutor(_READERS) as pool:
        rows = list(pool.map(lambda name: _num_rows(destination, name), names))
    wrong = [name for name, count in zip(names, rows) if count != int(Path(name).stem.rsplit("-", 1)[1])]
    destination.remote.delete(wrong)
    if lost := sum(map(which.shard_size, _missing(destination, which).tolist())):
        raise DrawingFailed(f"{lost} of {which.num_images} images are not at {destination}")


def _num_rows(destination: Destination, name: str) -> int:
    system, root = destination.remote.opened
    try:
        with system.open_input_file(f"{root}/{name}") as file:
            return pq.ParquetFile(file).metadata.num_rows
    except (OSError, pa.ArrowException):
        return -1


def _gather_metadata(destination: Destination) -> None:
    """Write the metadata.parquet of a set of files from its parts. Raises DrawingFailed where an image is gone."""
    there = {name for plane in PLANES for name in destination.remote.names(plane.name)}
    sink, lost = pa.BufferOutputStream(), 0
    with ThreadPoolExecutor(_READERS) as pool, pq.ParquetWriter(sink, schema_of("metadata")) as writer:
        parts = sorted(destination.shards())
        for part, data in zip(parts, pool.map(destination.remote.get, parts), strict=True):
            table = pq.read_table(pa.BufferReader(data or b""))
            if gone := set(table["file_name"].to_pylist()) - there:
                destination.remote.delete([part])
                lost += len(gone)
            writer.write_table(table)
    if lost:
        raise DrawingFailed(f"{lost} images that were drawn are no more at {destination}")
    destination.remote.put("metadata.parquet", sink.getvalue().to_pybytes())
