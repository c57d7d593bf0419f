"""Every file name of a run, and the one way files come into being: write beside, then rename.

In: a run's folder. Out: paths. No other module spells a file name of a run.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora.errors import InputError, fault

BASE_LABEL = "base"
"""The label of images sampled without an adapter."""


def rank_label(rank: int) -> str:
    """Return an adapter's folder name: `rank-008`. Three digits so that names sort as numbers do."""
    return f"rank-{rank:03d}"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run."""

    root: Path

    plan = property(lambda self: self.root / "plan.json")
    catalog = property(lambda self: self.root / "catalog.parquet")
    audit = property(lambda self: self.root / "audit.parquet")
    trials = property(lambda self: self.root / "trials.parquet")
    predictions = property(lambda self: self.root / "predictions.parquet")
    phantoms = property(lambda self: self.root / "phantoms")
    synthetic = property(lambda self: self.root / "synthetic")
    tables = property(lambda self: self.root / "tables")
    figures = property(lambda self: self.root / "figures")
    report = property(lambda self: self.root / "report.html")
    parts = property(lambda self: self.root / "parts")
    """What workers leave: one file per attempt, per trial's predictions, per shard of images."""
    rank = property(lambda self: self.parts / "rank.json")
    """Which rank was chosen by a score, and why."""
    attempts = property(lambda self: self.parts / "attempts")
    judge = property(lambda self: self.root / "judge")
    cache = property(lambda self: self.root / "cache")
    """Can be deleted at any time; made again when missing."""
    perceptual = property(lambda self: self.cache / "perceptual.json")
    """Perceptual hashes of the synthetic images."""
    tune = property(lambda self: self.cache / "ray_tune")
    lock = property(lambda self: self.root / ".lock")

    def checkpoints(self, trial_id: str) -> Path:
        """Return the folder in which a fine-tuning keeps where it stands."""
        return self.cache / "checkpoints" / trial_id

    def candidate(self, trial_id: str) -> Path:
        """Return the folder of the adapter of one candidate of a search."""
        return self.root / "search" / trial_id

    def adapter(self, rank: int) -> Path:
        """Return the folder of a rank's adapter."""
        return self.root / "adapters" / rank_label(rank)

    def images(self, label: str) -> Path:
        """Return the folder of images compared but not trained on: `samples/base`, `samples/rank-008`."""
        return self.root / "samples" / label

    def pixels(self, name: str, resolution_px: int) -> Path:
        """Return the folder of a store of decoded pixels."""
        return self.cache / f"pixels-{name}-{resolution_px}"

    def attempt(self, trial_id: str, attempt: int) -> Path:
        """Return the file of one attempt at a trial."""
        return self.attempts / f"{trial_id}-{attempt:03d}.json"

    def prediction(self, trial_id: str) -> Path:
        """Return a trial's part of the predictions."""
        return self.parts / "predictions" / f"{trial_id}.parquet"

    def shard(self, shard_id: str) -> Path:
        """Return the part file that says a shard of images is complete."""
        return self.parts / "shards" / f"{shard_id}.parquet"

    def table(self, name: str) -> Path:
        """Return the file of a table."""
        return self.tables / f"{name}.parquet"


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; on success it becomes `path` at once, else it is removed.

    A reader never sees half a file: rename is atomic within one file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON to `path`, whole or not at all."""
    with written(path) as beside:
        beside.write_text(json.dumps(content, indent=1, sort_keys=True, default=str) + "\n")


def check_writable(folder: Path) -> None:
    """Make the folder and write one file into it; raises InputError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex[:8]}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            fault(
                "out", str(folder), f"cannot be written ({reason})", "Give --out a folder on a disk you can write to."
            )
        ) from error
