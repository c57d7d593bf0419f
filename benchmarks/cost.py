"""The plan that a pilot makes against the study's own time, on this machine.

    python benchmarks/cost.py --out benchmarks/results/cost-demo-cpu.json
    python benchmarks/cost.py --executor process --out FILE        # without Ray: one step after another

The pilot runs first, then the study into a folder of its own, then the pilot again, as other work on the machine may
have changed meanwhile. `ratio` is the time that the first pilot's plan says over the time from the first step begun to
the last ended; `ratio_of_command` counts the command as a whole, with the start of Ray.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import tyro
from recording import Results

from sweeps.core.attempts import AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.core.usage import span
from sweeps.cost.place import Place
from sweeps.engine.options import ClusterOptions
from sweeps.forecast import forecast
from sweeps.launch import launch_of

GOAL = 0.3
"""The plan is to be within this share of the run's own time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    executor: Literal["ray", "process"] = "ray"
    """What does the work."""
    flags: str = ""
    """More flags of the study, such as `--flags="--lora.num-steps 110"`."""
    out: Path | None = None
    """JSON file to write."""


def planned(options: Options) -> dict[str, Any]:
    """Return what a pilot's plan says, and how long the pilot took."""
    began, load = time.time(), os.getloadavg()[0]
    experiment = launch_of("run", ["demo", *shlex.split(options.flags)]).experiment
    cluster = ClusterOptions(executor=options.executor, device="cpu")
    with tempfile.TemporaryDirectory() as empty:
        cost = forecast(
            experiment, Path(empty) / "run", Place(measure=True), cluster, lambda text: print(text, file=sys.stderr)
        )
    return {
        "seconds": cost.seconds, "at_least": cost.at_least, "pilot_seconds": time.time() - began, "load": load,
        "stage_seconds": {stage.stage: 3600 * (stage.cpu_hours or 0) for stage in cost.stages},
        "not_measured": [kind for stage in cost.stages for kind in stage.not_measured],
    }  # fmt: skip


def ran(options: Options) -> dict[str, Any]:
    """Return how long the study itself took."""
    with tempfile.TemporaryDirectory() as folder:
        paths, began = RunPaths(Path(folder) / "run"), time.time()
        words = [
            "run",
            "demo",
            *shlex.split(options.flags),
            "--out",
            str(paths.root),
            "--executor",
            options.executor,
            "--device",
            "cpu",
        ]
        subprocess.run([sys.executable, "-m", "sweeps", *words], check=True, stdout=subprocess.DEVNULL)
        took = time.time() - began
        spans = [span(a) for a in AttemptLog(paths.attempts).attempts if a.started_at]
        usage = {row["stage"]: row for row in read_rows(paths.table("cost"), "cost")}
    return {
        "seconds": max(end for _, end in spans) - min(start for start, _ in spans), "command_seconds": took,
        "stage_seconds": {stage: row["attempt_seconds"] for stage, row in usage.items()},
        "idle_share": usage["all"]["idle_share"], "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Measure, print and write the JSON."""
    options = tyro.cli(Options, description=__doc__)
    results = Results(options, cores=os.cpu_count())
    results.add(first_plan=(first := planned(options)))
    results.add(run=(run := ran(options)))
    results.add(
        ratio=first["seconds"] / run["seconds"], ratio_of_command=first["seconds"] / run["command_seconds"],
        is_within_goal=abs(first["seconds"] / run["seconds"] - 1) <= GOAL,
    )  # fmt: skip
    second = planned(options)
    results.add(second_plan=second, ratio_of_second=second["seconds"] / run["seconds"])
    print(results.text())


if __name__ == "__main__":
    main()
