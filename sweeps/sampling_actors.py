"""Shards of images over Ray Data actors, one actor per device: the same for a run's folders and for any other sink.

In: image sets, which of their shards to draw, and a sink that keeps them. Out: how many images were drawn. The images
themselves are `fulora.diffusion.sampler`; where they go is the sink's matter.
"""

from __future__ import annotations

import hashlib
import io
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from fulora.diffusion.sampler import Sampler, SampleRow, SamplingConfig
from fulora.errors import InputError, fault, one_line
from fulora.experiment import Experiment
from sweeps.engine.resources import Cluster, placement, prepare_worker
from sweeps.image_sets import ImageSet
from sweeps.progress import Progress
from sweeps.record import StageFailed

_WRITERS = 2
"""Threads of an actor that encode and write images."""
_MOST_PER_CALL = 16
"""Batches an actor is handed at once, but for two shards at least: while one is sampled the one before is written."""

Drawn = tuple[dict[str, Any], bytes]
"""An image: its row of metadata.parquet and its PNG file."""


class Sink(Protocol):
    """What keeps shards of images; pickled to every actor, so it holds names and nothing open."""

    def has(self, which: ImageSet, index: int) -> bool:
        """Return whether a shard is complete."""

    def keep(self, which: ImageSet, index: int, images: Sequence[Drawn]) -> None:
        """Write a shard, so that `has` is true only once all of it is there."""


def open_sampler(experiment: Experiment, adapter: Path | None, config: SamplingConfig) -> Sampler:
    """Return the sampler of an adapter, or of the base alone, as the experiment fine-tuned it."""
    if adapter is not None and not adapter.is_dir():
        rule = f"is not there on {socket.gethostname()}"
        remedy = "`sweeps lora` trains it; on several nodes the run's folder must be on storage every node sees."
        raise InputError(fault("adapter", str(adapter), rule, remedy))
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
    batch is done when all are: what an actor has returned is kept. What goes wrong is returned in words, for the driver
    to stop at; Ray would try again, and a full disk stays full.
    """

    def __init__(
        self,
        experiment: Experiment,
        sets: Sequence[ImageSet],
        adapters: Mapping[str, Path | None],
        sink: Sink,
        num_threads: int,
        on_gpu: bool,
    ) -> None:
        prepare_worker(num_threads, on_gpu=on_gpu)
        self.experiment, self.sets, self.adapters, self.sink = experiment, sets, adapters, sink
        self.label: str | None = None
        self.sampler: Any = None
        self.writers = ThreadPoolExecutor(_WRITERS)

    def __call__(self, batch: pa.Table) -> dict[str, Any]:
        """Sample the shards of a call, a row {set: [N], shard: [N]}, and give them to the sink.

        A shard that is there already is passed over.
        """
        (call,) = batch.to_pylist()
        return self.draw(call)

    def draw(self, call: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Sample the shards of a call; see `__call__`."""
        done: list[Future[str] | str] = []
        sizes: list[int] = []
        failed = ""
        for number, index in zip(call["set"], call["shard"], strict=True):
            which = self.sets[number]
            sizes.append(which.shard_size(index))
            if failed := failed or next((error for one in done if (error := _known(one))), ""):
                done.append(failed)
                continue
            try:
                if self.sink.has(which, index):  # it is there where Ray repeats a batch whose actor died
                    done.append("")
                    continue
                rows = which.shard(index)
                images = self._sampler_of(which).sample(rows)
            except Exception as error:
                done.append(_words(error, self.sink))
                continue
            done.append(self.writers.submit(self._keep, which, index, rows, images))
        errors = [one if isinstance(one, str) else one.result() for one in done]
        return {"num_images": [0 if error else size for error, size in zip(errors, sizes)], "error": errors}

    def _keep(self, which: ImageSet, index: int, rows: list[SampleRow], images: np.ndarray) -> str:
        """Encode and write a shard; return what went wrong, empty where nothing did."""
        try:
            self.sink.keep(which, index, [self._encoded(which, row, image) for row, image in zip(rows, images)])
        except Exception as error:
            return _words(error, self.sink)
        return ""

    def _sampler_of(self, which: ImageSet) -> Sampler:
        if which.label != self.label:
            self.sampler = self.label = None  # free the device before the next adapter is loaded
            self.sampler = open_sampler(self.experiment, self.adapters[which.label], which.config)
            self.label = which.label
            self.facts = {"base": self.sampler.base.name, "device": str(self.sampler.base.device), **placement()}
        return self.sampler

    def _encoded(self, which: ImageSet, row: SampleRow, image: np.ndarray) -> Drawn:
        from PIL import Image

        from fulora.data.pixels import pixel_hash

        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", compress_level=4)
        png = buffer.getvalue()
        return {
            "file_name": f"{row.plane}/{row.image_id}.png",
            **asdict(row),
            "adapter": which.adapter_id,
            "rank": which.rank,
            "num_steps": which.config.num_steps,
            "guidance": which.config.guidance,
            "sha256": hashlib.sha256(png).hexdigest(),
            "pixel_hash": pixel_hash(image),
            **self.facts,
        }, png


def _known(one: Future[str] | str) -> str:
    """Return what went wrong with a shard as far as is known by now."""
    return one if isinstance(one, str) else one.result() if one.done() else ""


def _words(error: Exception, sink: Sink) -> str:
    if isinstance(error, OSError) and error.strerror:
        remedy = "Make room or give the folder its rights back, or name another place"
        return f"{error.filename or sink}: {error.strerror}. {remedy}"
    return one_line(error, 400) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error, 400)}"


def draw_shards(
    todo: np.ndarray,
    *,
    experiment: Experiment,
    sets: Sequence[ImageSet],
    adapters: Mapping[str, Path | None],
    sink: Sink,
    cluster: Cluster,
    progress: Progress,
    actor: type[SampleShards] = SampleShards,
) -> int:
    """Draw the shards (set, shard) int64 [N, 2] on all devices at once and return how many images they hold.

    Raises StageFailed at the first shard that cannot be drawn or kept; those finished are kept.
    """
    import ray

    if not len(todo):
        return 0
    ray.data.DataContext.get_current().enable_progress_bars = False
    slots, on_gpu = min(cluster.num_slots, len(todo)), cluster.num_gpus > 0
    # As many shards in a call as leave every actor several calls. A row is a call, a batch is a row: with GPUs Ray Data
    # wants a batch size, and rows that are calls make none ragged.
    batches = max(which.shard_size(0) // which.config.batch_size for which in sets)  # in a shard
    per_call = max(1, min(max(2, _MOST_PER_CALL // max(1, batches)), len(todo) // (4 * slots)))
    calls = np.array_split(todo, -(-len(todo) // per_call))
    done = (
        ray.data.from_blocks([pa.table({"set": [call[:, 0]], "shard": [call[:, 1]]}) for call in calls])
        .map_batches(
            actor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(experiment, list(sets), dict(adapters), sink, cluster.num_threads, on_gpu),
            **cluster.for_actors,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=slots, initial_size=slots),
        )
        .iter_rows()
    )
    drawn = 0
    for row in done:
        if row["error"]:
            raise StageFailed(f"sampling stopped: {row['error']}.\nWhat was finished is kept.")
        drawn += row["num_images"]
        progress.advance(row["num_images"])
    return drawn
