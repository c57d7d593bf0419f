"""Every file name of a run. No other module spells one.

What people read lies at the top (`adapters/`, `synthetic/`, `tables/`, ...): views of the steps' files
(`sweeps.views`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweeps.core.store import Store

BASE_LABEL = "base"
"""The label of images sampled without an adapter."""


def rank_label(rank: int) -> str:
    """Return an adapter's folder name: `rank-008`. Three digits so that names sort as numbers do."""
    return f"rank-{rank:03d}"


def replicate_label(number: int) -> str:
    """Return the folder name of a replicate's adapter and of its images: `replicate-1`."""
    return f"replicate-{number}"


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
    adapters = property(lambda self: self.root / "adapters")
    samples = property(lambda self: self.root / "samples")
    judge = property(lambda self: self.root / "judge")
    tables = property(lambda self: self.root / "tables")
    figures = property(lambda self: self.root / "figures")
    report = property(lambda self: self.root / "report.html")
    attempts = property(lambda self: self.root / "attempts.jsonl")
    """One line per attempt at a step."""
    now = property(lambda self: self.root / "now.json")
    """What runs now, for `sweeps status`."""
    logs = property(lambda self: self.root / "logs")
    """Files of --log."""
    tune = property(lambda self: self.root / "scratch" / "ray_tune")
    lock = property(lambda self: self.root / ".lock")

    @property
    def store(self) -> Store:
        """The files of the run's steps."""
        return Store(self.root)

    def adapter(self, rank: int) -> Path:
        """Return the folder of a rank's adapter."""
        return self.adapters / rank_label(rank)

    def images(self, label: str) -> Path:
        """Return the folder of images not trained on (`samples/base`, `samples/rank-008`), or a replicate's."""
        return self.samples / label

    def table(self, name: str) -> Path:
        """Return the file of a table."""
        return self.tables / f"{name}.parquet"
