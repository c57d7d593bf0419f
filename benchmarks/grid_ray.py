"""What Ray Tune adds to trials of classifiers: the same trials through it and in a plain loop.

python benchmarks/grid_ray.py --trials 2 --trial-seconds 60 --threads 1
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import options_of
from grid_contenders import Options as Contest
from grid_contenders import as_store, config_of, image_files
from recording import record, torch_facts

from fulora.classify.training import train_classifier
from fulora.data.pixels import decode_square, num_threads
from fulora.device import resolve_device
from sweeps.core.step import Report, Step
from sweeps.core.store import Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Contest):
    """What is measured."""

    images: int = 96
    """Training images."""
    trial_seconds: float = 60.0
    """How long a trial takes, about."""
    trials: int = 4
    """Trials."""


def main() -> None:
    """Measure, print and write the JSON."""
    options = options_of(Options, __doc__)
    with tempfile.TemporaryDirectory() as scratch:
        record(options, **torch_facts(resolve_device(options.device)), **ray_overhead(options, Path(scratch)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """One trial: the images it trains on, and for how long."""

    pixels: Path
    options: Options
    epochs: int
    seed: int


def train(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Train as a cell of the grid does."""
    return work(step.config, report)


def work(training: Training, report: Report) -> dict[str, Any]:
    """Return the seconds of a training and of its fastest epoch."""
    options, pixels = training.options, as_store(training.pixels)
    trained = train_classifier(
        pixels=pixels, labels=np.arange(len(pixels)) % 5, seed=training.seed, device=options.device,
        config=config_of(options, options.models[0], training.epochs),
        on_epoch=lambda row: report({"fraction": 0.5, "note": "", "loss": row["loss"]}),
    )  # fmt: skip
    return {"train_seconds": trained.seconds, "least_epoch": min(row["seconds"] for row in trained.history)}


def ray_overhead(options: Options, scratch: Path) -> dict[str, Any]:
    """Return the seconds of some trials through Ray Tune, one after another, and of the same trials in a plain loop.

    The overhead is what each way adds outside training, so a machine whose speed drifts between the two does not decide
    it; the plain ratio of seconds stands beside it. Starting Ray is counted apart.
    """
    from sweeps.console.progress import Quiet, Shown
    from sweeps.core.attempts import AttemptLog
    from sweeps.core.paths import RunPaths
    from sweeps.core.step import Kind
    from sweeps.engine.connection import connected
    from sweeps.engine.on_ray import OnRay
    from sweeps.engine.options import ClusterOptions

    file = scratch / "pixels.npy"
    files = image_files(options, scratch / "images")
    np.save(file, decode_square(files, resolution_px=options.resolution_px, workers=num_threads()))
    kind = Kind(name="grid", stage="grid", work="grid_ray:train", runs_on="gpu", is_trial=True)

    def training(epochs: int, seed: int) -> Training:
        return Training(pixels=file, options=options, epochs=epochs, seed=seed)

    torch.set_num_threads(1)
    paths = RunPaths(scratch / "run")
    epochs = max(1, round(options.trial_seconds / work(training(4, 0), lambda row: None)["least_epoch"]))
    todo = [
        Step(kind=kind, label=f"trial {seed}", config=training(epochs, seed)) for seed in range(1, options.trials + 1)
    ]

    began = time.perf_counter()
    inside = [work(one.config, lambda row: None)["train_seconds"] for one in todo]
    loop: dict[str, Any] = {"seconds": time.perf_counter() - began, "train_seconds": inside}
    began = time.perf_counter()
    with connected(ClusterOptions(num_cpus=1)) as cluster:
        start = time.perf_counter() - began
        began = time.perf_counter()
        log = AttemptLog(paths.attempts)
        OnRay(cluster).run(todo, store=paths.store, log=log, watch=Shown(Quiet(), paths))
        attempts, seconds = log.attempts, time.perf_counter() - began
    failures = [a.error_message for a in attempts if a.status != "SUCCEEDED"]
    if failures or len(attempts) != len(todo):
        raise SystemExit(f"{len(todo)} trials gave {len(attempts)} attempts; failed: {failures}")
    through_ray: dict[str, Any] = {
        "seconds": seconds, "start_seconds": start, "train_seconds": [a.metrics["train_seconds"] for a in attempts],
    }  # fmt: skip
    for found in (loop, through_ray):
        found["seconds_outside_training"] = found["seconds"] - sum(found["train_seconds"])
    added = through_ray["seconds_outside_training"] - loop["seconds_outside_training"]
    return {
        "epochs_per_trial": epochs, "loop": loop, "ray": through_ray,
        "ratio_of_seconds": seconds / loop["seconds"],
        "overhead_of_training_in_ray": added / sum(through_ray["train_seconds"]),
        "overhead_if_a_trial_took_a_minute": added / (60 * len(todo)),
    }  # fmt: skip


if __name__ == "__main__":
    main()
