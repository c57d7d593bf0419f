"""Sampling by several workers against one: what the scheduler leaves of a linear speed-up.

    python benchmarks/scheduler.py --out benchmarks/results/scheduler-sleeping.json
    python benchmarks/scheduler.py --model true --workers 1 2     # the bundled base, as far as the cores allow

Everything is the real thing (Ray Data, actors, PNG files, part files) but the model, which sleeps as long as a batch
would take and gives back noise, so that workers do not compete for cores. Time counts from the first batch begun to the
last image on disk; what starting the actors takes stands beside it.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from recording import record

from fulora.recipes import demo
from sweeps.console.progress import Quiet
from sweeps.engine.connection import connected
from sweeps.engine.options import ClusterOptions
from sweeps.image_sets import ImageSet
from sweeps.paths import RunPaths
from sweeps.sampling_actors import SampleShards, draw_shards
from sweeps.synthesis import RunFolder, assemble, missing_shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    workers: tuple[int, ...] = (1, 4)
    """Numbers of workers; the first is what the others are held against."""
    model: Literal["sleeping", "true"] = "sleeping"
    """A model that sleeps, or the bundled base."""
    images_per_plane: int = 64
    """Images per plane and sampler: ten times as many in all."""
    batch_size: int = 8
    """Images at once."""
    seconds_per_batch: float = 1.0
    """How long the sleeping model takes for a batch."""
    out: Path | None = None
    """JSON file to write."""


class _Sleeper:
    """In the place of a sampler: takes its time, gives noise."""

    def __init__(self, seconds: float, side: int) -> None:
        self.seconds, self.side = seconds, side

    def sample(self, rows: list[Any]) -> np.ndarray:
        time.sleep(self.seconds)
        return np.random.default_rng(rows[0].seed).integers(0, 256, (len(rows), self.side, self.side, 3), np.uint8)


class _Actor(SampleShards):
    """The real actor; it says when it began its first batch."""

    def _sampler_of(self, which: ImageSet) -> Any:
        sampler = self._model(which)
        if not hasattr(self, "began"):
            self.began = time.time()
            (self.sink.root / "began").mkdir(exist_ok=True)
            (self.sink.root / "began" / uuid.uuid4().hex).write_text(str(self.began))
        return sampler

    def _model(self, which: ImageSet) -> Any:
        return super()._sampler_of(which)


class _SleepingActor(_Actor):
    """The real actor around a model that sleeps."""

    def _model(self, which: ImageSet) -> Any:
        self.facts = {"base": "none, it sleeps", "device": "cpu"}
        return _Sleeper(float(os.environ["SECONDS_PER_BATCH"]), side=64)


def main() -> None:
    """Measure, print and write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    os.environ["SECONDS_PER_BATCH"] = str(options.seconds_per_batch)  # read by the actors
    rows = [measured(options, workers) for workers in options.workers]
    for row in rows:
        row["of_linear"] = row["images_per_second"] / rows[0]["images_per_second"] * rows[0]["workers"] / row["workers"]
    record(options, cores=os.cpu_count(), load_at_end=os.getloadavg()[0], workers=rows)


def measured(options: Options, workers: int) -> dict[str, Any]:
    """Return what a number of workers takes to draw the whole set."""
    experiment = demo()
    config = dataclasses.replace(
        experiment.sampling, images_per_plane=options.images_per_plane, batch_size=options.batch_size
    )
    which = ImageSet(label="base", rank=None, adapter_id="x", config=config, seed=0, chosen=True)
    with tempfile.TemporaryDirectory() as folder, connected(ClusterOptions(num_cpus=workers)) as cluster:
        paths = RunPaths(Path(folder))
        launched = time.time()
        num = draw_shards(
            missing_shards([which], paths), experiment=experiment, sets=[which], adapters={"base": None},
            sink=RunFolder(paths.root), cluster=cluster, progress=Quiet(),
            actor=_SleepingActor if options.model == "sleeping" else _Actor,
        )  # fmt: skip
        ended = time.time()
        assert num == len(assemble(which, paths)) == which.num_images
        began = sorted(float(file.read_text()) for file in (paths.root / "began").iterdir())
    return {
        "workers": workers, "images": num, "seconds": ended - began[0], "images_per_second": num / (ended - began[0]),
        "seconds_to_first_batch": began[0] - launched, "seconds_to_last_worker": began[-1] - launched,
    }  # fmt: skip


if __name__ == "__main__":
    main()
