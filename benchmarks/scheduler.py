"""Sampling by several workers against one: what the scheduler leaves of a linear speed-up.

    python benchmarks/scheduler.py --out benchmarks/results/scheduler-sleeping.json
    python benchmarks/scheduler.py --model true --workers 1 2     # the bundled base, as far as the cores allow

Everything is the real thing (Ray Data, actors, PNG files, records of steps) but the model, which sleeps as long as a
batch would take and gives back noise, so that workers do not compete for cores. Time counts from the first batch begun
to the last image on disk; what starting the actors takes stands beside it.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import tyro
from recording import record
from sleeping_shards import SleepingConfig

from fulora.recipes import demo
from sweeps.console.progress import Quiet, Shown
from sweeps.core.attempts import AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.step import Kind, Step
from sweeps.engine.connection import connected
from sweeps.engine.on_ray import OnRay
from sweeps.engine.options import ClusterOptions
from sweeps.images.sets import SyntheticSet
from sweeps.ranks.base import base_model


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


def main() -> None:
    """Measure, print and write the JSON."""
    options = tyro.cli(Options, description=__doc__)
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
    which = SyntheticSet(label="base", rank=None, adapter=None, base=base_model(experiment), config=config, seed=0)
    steps = [_step(step, options) for step in which.steps]
    with tempfile.TemporaryDirectory() as folder, connected(ClusterOptions(num_cpus=workers)) as cluster:
        paths = RunPaths(Path(folder))
        log, launched = AttemptLog(paths.attempts), time.time()
        watch = Shown(Quiet(), paths)
        OnRay(cluster).run(steps, store=paths.store, log=log, watch=watch)
        ended = time.time()
        num = sum(a.metrics["num_images"] for a in log.attempts if a.status == "SUCCEEDED")
        assert num == which.num_images
        began = sorted(float(file.read_text()) for file in (paths.root / "began").iterdir())
    return {
        "workers": workers, "images": num, "seconds": ended - began[0], "images_per_second": num / (ended - began[0]),
        "seconds_to_first_batch": began[0] - launched, "seconds_to_last_worker": began[-1] - launched,
    }  # fmt: skip


def _step(step: Step, options: Options) -> Step:
    """Return a shard whose work says when it began, and sleeps where asked for."""
    work = "sleeping_shard" if options.model == "sleeping" else "real_shard"
    kind = Kind(name="images", stage="sample", work=f"sleeping_shards:{work}", runs_on="gpu", is_shard=True)
    config = step.config
    if options.model == "sleeping":
        config = SleepingConfig(shard=config, seconds=options.seconds_per_batch)
    return dataclasses.replace(step, kind=kind, config=config)


if __name__ == "__main__":
    main()
