"""A study whose images are 10 000 shards: how long it takes to plan it and to see what is done.

    python benchmarks/graph.py --out benchmarks/results/graph.json

The paper's recipe on a made-up catalog of the published size. `planned`: every step of the study up to its classifiers,
and its key. `empty`, `done`: what is missing, in an empty folder and in one in which every shard is done (a small file
each, its size and time compared with its record). `ordered`: all handed out by the schedule. In seconds of this
process's CPU, so that other work on the machine does not count.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from recording import record

from fulora.data.records import ImageRecord
from fulora.planes import PLANES, TESTED_PLANES
from fulora.recipes import paper
from sweeps.console.progress import Quiet
from sweeps.core.paths import RunPaths
from sweeps.core.schedule import Schedule
from sweeps.core.step import Step, closure
from sweeps.engine.options import ClusterOptions
from sweeps.session import Session
from sweeps.study import Plan, make_plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    shards: int = 10_000
    """Shards of the rank that is trained on; a multiple of 10."""
    images_per_shard: int = 1
    """Images of each."""
    rounds: int = 3
    """Times that everything is measured; the least of each counts."""
    out: Path | None = None
    """JSON file to write."""


def main() -> None:
    """Measure, and write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    rounds = [measure(options) for _ in range(options.rounds)]
    least = {name: min(found[name] for found in rounds) for name in rounds[0]}
    planned = least["planned_seconds"]
    sums = {f"planned_and_{state}_seconds": planned + least[f"{state}_seconds"] for state in ("empty", "done")}
    record(options, cores=os.cpu_count(), load=os.getloadavg()[0], **least, **sums)


def measure(options: Options) -> dict[str, Any]:
    """Return the seconds of each part, and how many steps there are."""
    study = paper()
    sampling = replace(
        study.sampling, images_per_plane=options.shards // 10 * options.images_per_shard,
        batch_size=options.images_per_shard,
    )  # fmt: skip
    study, records = replace(study, sampling=sampling), catalog()

    def plan() -> tuple[Plan, list[Step]]:
        found = make_plan(study, records)
        return found, closure(found.targets("report"))

    planned, (found, steps) = timed(plan)
    assert len(found.chosen.steps) == options.shards
    with tempfile.TemporaryDirectory() as scratch:
        paths = RunPaths(Path(scratch))
        empty, missing = timed(lambda: look(paths, steps))
        assert len(missing) == len(steps)
        for step in found.chosen.steps:
            with paths.store.writing(step) as beside:
                (beside / "image.png").write_bytes(b"pixels")
                paths.store.keep(step, beside)
        done, missing = timed(lambda: look(paths, steps))
        assert len(missing) == len(steps) - options.shards
    ordered, _ = timed(lambda: hand_out(steps))
    return {
        "num_steps": len(steps), "planned_seconds": planned, "empty_seconds": empty, "done_seconds": done,
        "ordered_seconds": ordered,
    }  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds that some work takes, of the system too, and its result."""
    began = time.process_time()
    found = work()
    return round(time.process_time() - began, 3), found


def look(paths: RunPaths, steps: list[Step]) -> list[Step]:
    """Return what a run would find missing."""
    with Session(paths, ClusterOptions(), Quiet()) as session:
        return session.missing(steps)


def hand_out(steps: list[Step]) -> None:
    """Hand out every step as if each were done at once."""
    schedule = Schedule(steps)
    while (step := schedule.take()) is not None:
        schedule.succeeded(step)
    assert schedule.finished


def catalog() -> list[ImageRecord]:
    """Return records as many as the published images: 12 400 Spanish, 450 African ones."""
    counts = [("spanish", "train", PLANES, 1430), ("spanish", "test", PLANES, 1050)]
    counts += [("african", "train", TESTED_PLANES, 54), ("african", "test", TESTED_PLANES, 58)]
    return [
        ImageRecord(
            image_id=f"{source}/{split}-{plane.name}-{i}", path=f"/data/{source}/{split}-{plane.name}-{i}.png",
            source=source, plane=plane.name, patient_id=f"{source}/{split}/{i // 7}", centre="Spain", machine=None,
            split=split, width_px=800, height_px=600, sha256=f"{i:064d}", pixel_hash=f"{source}{split}{plane.name}{i}",
        )
        for source, split, planes, count in counts
        for plane in planes
        for i in range(count)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
