"""Ways to run the study of `mini_flags` in this process, and to see what it says and leaves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fulora.experiment import Experiment
from sweeps.console.progress import Quiet
from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.engine.options import ClusterOptions
from sweeps.run import run

TABLES = (
    "table1", "table2", "headline", "confusion", "comparisons", "calibration", "reliability", "deduplicated",
    "subgroups", "data_scaling", "centres", "ranks", "fidelity", "copies", "planted_copies", "worst_copies",
    "embedding",
)  # fmt: skip
"""Tables that hold no times."""
PROCESS = ClusterOptions(executor="process")


class Said(Quiet):
    """Keeps the lines that a run says, and the labels of the steps it does."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def finished(self, label: str, note: str, failed: bool = False, counts: bool = True) -> None:
        self.done.append(label)


def go(experiment: Experiment, paths: RunPaths, progress: Quiet | None = None, **keys: Any) -> list[Attempt]:
    """Run a study in this process and return what failed."""
    return run(experiment, paths, options=PROCESS, progress=progress or Quiet(), **keys)


def attempts(paths: RunPaths) -> list[Attempt]:
    """Return every attempt of a run."""
    return AttemptLog(paths.attempts).attempts


def results(paths: RunPaths, names: Iterable[str] = TABLES) -> dict[str, Any]:
    """Return what a study found: its tables but for times, and the bytes of its predictions."""
    timed = {"seconds", "peak_memory_bytes", "started_at"}
    found: dict[str, Any] = {
        name: [{k: v for k, v in row.items() if k not in timed} for row in read_rows(paths.table(name), name)]
        for name in names
    }
    return found | {"predictions": paths.predictions.read_bytes()}


def drawn(paths: RunPaths) -> dict[Path, int]:
    """Return the synthetic images that are there, with their modification times."""
    return {file.relative_to(paths.root): file.stat().st_mtime_ns for file in paths.root.glob("steps/images/*/*/*.png")}
