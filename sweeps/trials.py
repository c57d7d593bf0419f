"""A trial's identity, its attempts, and which trials are missing.

In: a configuration as plain values and the hashes of what it reads. Out: `Trial`s with ids that depend on their science
alone (never on where they run), and a file per attempt that the worker writes itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fulora.data.records import ImageRecord
from sweeps.paths import RunPaths, write_json

Stage = Literal["judge", "lora", "search", "grid"]
Status = Literal["SUCCEEDED", "FAILED", "PRUNED", "CANCELLED"]


def plain(value: Any) -> Any:
    """Return dataclasses, paths and tuples as JSON's own types, so that equal science gives equal text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def short_hash(content: Any) -> str:
    """Return 12 hex digits of the content's SHA-256: 48 bits, enough that two trials of a study never meet."""
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True).encode()).hexdigest()[:12]


def data_hash(records: Iterable[ImageRecord]) -> str:
    """Return the hash of a set of images: pixels, plane, patient, split. Folders and file formats do not count."""
    rows = sorted((r.pixel_hash, r.image_id, r.plane, r.patient_id, r.split) for r in records)
    return short_hash(rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One unit of work on one device."""

    stage: Stage
    label: str
    """What a person calls it: `rank 128`, `HB+DA, ViT b16, seed 0`."""
    config: Mapping[str, Any]
    """Everything that decides the result, as plain values."""
    inputs: Mapping[str, str]
    """Hash of each thing it reads: data, base, adapter."""
    seed: int
    cost: float = field(default=1.0, compare=False)
    """Expected work relative to its stage's other trials; the longest start first."""

    @property
    def trial_id(self) -> str:
        """The short hash of the science."""
        return short_hash({"stage": self.stage, "config": self.config, "inputs": self.inputs, "seed": self.seed})


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What became of one attempt; a row of trials.parquet."""

    trial_id: str
    stage: str
    label: str
    attempt: int
    status: Status
    config: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    started_at: str | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    error_type: str | None = None
    error_message: str | None = None

    def save(self, paths: RunPaths) -> None:
        """Write the attempt's own file."""
        write_json(paths.attempt(self.trial_id, self.attempt), plain(self))


def read_attempts(paths: RunPaths) -> list[Attempt]:
    """Return every attempt of the run, by stage, trial and number."""
    order = {"judge": 0, "lora": 1, "search": 2, "grid": 3}
    found = [Attempt(**json.loads(file.read_text())) for file in paths.attempts.glob("*.json")]
    return sorted(found, key=lambda a: (order.get(a.stage, 9), a.started_at or "", a.trial_id, a.attempt))


def next_attempt(paths: RunPaths, trial_id: str) -> int:
    """Return the number of a trial's next attempt, from 1."""
    return 1 + max((int(f.stem.rsplit("-", 1)[1]) for f in paths.attempts.glob(f"{trial_id}-*.json")), default=0)


def latest_success(paths: RunPaths) -> dict[str, Attempt]:
    """Return the last successful attempt of each trial, by trial id."""
    return {a.trial_id: a for a in read_attempts(paths) if a.status == "SUCCEEDED"}


def missing(trials: Sequence[Trial], paths: RunPaths) -> list[Trial]:
    """Return the trials with no successful attempt, longest first."""
    done = latest_success(paths)
    return sorted((t for t in trials if t.trial_id not in done), key=lambda t: -t.cost)
