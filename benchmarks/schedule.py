"""One schedule for the whole study against stages that wait for each other, and what our bookkeeping costs.

    python benchmarks/schedule.py --out benchmarks/results/schedule.json
    python benchmarks/schedule.py --gpus --overhead 500 2000 10000 --trial-seconds 0 --out FILE

The graph is the paper's: a judge, three ranks, images of each, classifiers with and without them; the steps sleep. The
lower bound is max(critical path, work / GPUs). `simulated` is the order alone, in a time that is only counted.
`measured` is the real thing on Ray with logical GPUs of this machine, its processes started while it runs, at durations
scaled so that the bound is `--bound-seconds`. Time counts from the first step begun to the last ended.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from recording import record

from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.simulation import ONE_LANE, lower_bound, simulate
from sweeps.core.step import STAGES, Kind, Step
from sweeps.core.store import Place, Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    gpus: tuple[int, ...] = (1, 4, 8, 64)
    """Numbers of logical GPUs."""
    bound_seconds: float = 60.0
    """The lower bound that durations are scaled to; 0: nothing is measured, only simulated."""
    contenders: tuple[Literal["one_schedule", "barriers"], ...] = ("one_schedule", "barriers")
    """What is measured on Ray."""
    overhead: tuple[int, ...] = ()
    """Numbers of trials run on logical cores, by us and by Ray Tune alone."""
    alone: bool = True
    """Whether Ray Tune alone runs them too."""
    cores: int = 16
    """Logical cores of those: as many run at once."""
    trial_seconds: float = 1.0
    """How long each of those sleeps."""
    out: Path | None = None
    """JSON file to write."""


@dataclasses.dataclass(frozen=True)
class Nap:
    """What a step does."""

    name: str
    seconds: float


def nap(step: Step, place: Place, report: Any) -> dict[str, Any]:
    """Sleep, and write when."""
    began = time.time()
    time.sleep(step.config.seconds)
    (place.out / "times.txt").write_text(f"{began} {time.time()}")
    return {"device": "cpu"}


def _kind(name: str, stage: Any, **known: Any) -> Kind:
    return Kind(name=name, stage=stage, work="schedule:nap", **known)


TABLE = _kind("table", "report")
SOURCE = _kind("source", "sources")
RANK = _kind("lora", "lora", is_trial=True, runs_on="gpu")
SHARD = _kind("images", "sample", is_shard=True, runs_on="gpu")
CLASSIFIER = _kind("grid", "grid", is_trial=True, runs_on="gpu")
MODELS = {"MobileNet v2": 6.0, "ResNet18": 6.0, "EfficientNet b0": 9.0, "DenseNet": 14.0, "ViT b16": 20.0}
"""Relative durations; a shard of 64 images takes 1."""


def paper_graph(unit: float, seeds: int = 3) -> list[Step]:
    """Return the paper's study with durations in units of some seconds, in topological order."""

    def step(kind: Kind, name: str, length: float, *needs: Step) -> Step:
        seconds = length * unit
        return Step(kind=kind, label=name, config=Nap(name, seconds), needs={"above": needs}, cost=seconds)

    source = step(SOURCE, "selection", 0.0)
    judge = step(RANK, "judge", 4.0, source)
    ranks = {r: step(RANK, f"rank {r}", length, source) for r, length in ((8, 24.0), (32, 26.0), (128, 30.0))}
    shards = [step(SHARD, f"base {i}", 1.0, source) for i in range(7)]
    for rank in (8, 32):
        shards += [step(SHARD, f"rank {rank} {i}", 1.0, ranks[rank]) for i in range(7)]
    synthetic = [step(SHARD, f"synthetic {i}", 1.0, ranks[128]) for i in range(79)]
    pixels = step(_kind("pixels", "sample"), "pixels", 0.0, *synthetic)
    grid = [
        step(CLASSIFIER, f"{regime}, {model}, seed {seed}", length, *((pixels,) if "HB" in regime else (source,)))
        for seed in range(seeds) for regime in ("ES", "ES+DA", "HB", "HB+DA") for model, length in MODELS.items()
    ]  # fmt: skip
    table = step(TABLE, "tables", 0.0, *grid, judge, *shards, *ranks.values())
    return [source, judge, *ranks.values(), *shards, *synthetic, pixels, *grid, table]


def by_stage(steps: Sequence[Step]) -> list[list[Step]]:
    """Return the steps of each stage, each stage to wait for the one before."""
    return [[step for step in steps if step.kind.stage == stage] for stage in STAGES]


class Quiet:
    """A watch that shows nothing."""

    def started(self, step: Step) -> None:
        """Show nothing."""

    def placed(self, step: Step, where: Mapping[str, str | None]) -> None:
        """Note nothing."""

    def progress(self, step: Step, fraction: float, note: str) -> None:
        """Show nothing."""

    def ended(self, step: Step, attempt: Attempt) -> None:
        """Show what failed."""
        if attempt.status != "SUCCEEDED":
            print(f"{step}: {attempt.error_type} {attempt.error_message}")

    def say(self, text: str) -> None:
        """Show it."""
        print(text)


def measured(parts: Sequence[Sequence[Step]], folder: Path, **cluster: int) -> dict[str, float]:
    """Return how long the parts take one after another on Ray: in all, and from first step to last."""
    from sweeps.engine.connection import connected
    from sweeps.engine.on_ray import OnRay
    from sweeps.engine.options import ClusterOptions

    store, log = Store(folder), AttemptLog(folder / "attempts.jsonl")
    with connected(ClusterOptions(gpus_per_trial=1.0, **cluster)) as resources:
        launched = time.time()
        for part in parts:
            OnRay(resources).run(part, store=store, log=log, watch=Quiet())
        ended = time.time()
    steps = [step for part in parts for step in part]
    times = [[float(t) for t in (store.folder(s) / "times.txt").read_text().split()] for s in steps]
    files = sum(1 for file in folder.rglob("*") if file.is_file())
    return {
        "seconds": max(t[1] for t in times) - min(t[0] for t in times),
        "seconds_with_start": ended - launched,
        "log_bytes_per_step": log.file.stat().st_size / len(steps),
        "files_per_step": files / len(steps),
    }


def on_gpus(options: Options, gpus: int) -> dict[str, Any]:
    """Return the study's time by one schedule, with barriers, and the bound, each relative to the bound."""
    whole, room = paper_graph(1.0), {ONE_LANE: gpus}
    unit = lower_bound(whole, room)
    row: dict[str, Any] = {"gpus": gpus, "steps": len(whole)}
    row["simulated"] = {
        "one_schedule": simulate(whole, room).seconds / unit,
        "barriers": sum(simulate(part, room).seconds for part in by_stage(whole)) / unit,
    }
    if options.bound_seconds:
        steps = paper_graph(options.bound_seconds / unit)
        row["measured"] = {}
        for name in options.contenders:
            parts = [steps] if name == "one_schedule" else by_stage(steps)
            with tempfile.TemporaryDirectory() as folder:
                found = measured(parts, Path(folder), num_cpus=max(2, gpus + 1), num_gpus=gpus)
            row["measured"][name] = found["seconds"] / options.bound_seconds
            row["measured"][f"{name}_with_start"] = found["seconds_with_start"] / options.bound_seconds
    print(row, flush=True)
    return row


def overhead(options: Options, trials: int) -> dict[str, Any]:
    """Return the seconds of some trials on logical cores, by our executor and by Ray Tune alone."""
    cores, seconds = options.cores, options.trial_seconds
    steps = [Step(kind=CLASSIFIER, label=f"{i}", config=Nap(f"{i}", seconds)) for i in range(trials)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        ours = measured([steps], Path(folder), num_cpus=cores, num_gpus=0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        alone = tune_alone(trials, seconds, cores, Path(folder)) if options.alone else None
    row = {
        "trials": trials, "ideal_seconds": trials * seconds / cores, "ours": ours, "ray_tune_alone_seconds": alone,
        "driver_peak_kib_grown": peak - before,
    }  # fmt: skip
    print(row, flush=True)
    return row


def tune_alone(trials: int, seconds: float, cores: int, folder: Path) -> float:
    """Return the seconds Ray Tune takes for trials that sleep and report once, with nothing of ours."""
    from ray import tune

    from sweeps.engine.connection import connected
    from sweeps.engine.options import ClusterOptions

    def trainable(config: dict[str, Any]) -> dict[str, float]:
        time.sleep(seconds)
        return {"score": 1.0}

    with connected(ClusterOptions(num_cpus=cores, num_gpus=0)):
        began = time.time()
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"index": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
        ).fit()
        return time.time() - began


def main() -> None:
    """Measure, print and write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    rows = [on_gpus(options, gpus) for gpus in options.gpus]
    costs = [overhead(options, trials) for trials in options.overhead]
    record(options, cores=os.cpu_count(), load_at_end=os.getloadavg()[0], study=rows, overhead=costs)


if __name__ == "__main__":
    main()
