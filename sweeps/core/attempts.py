"""What became of each try at a step: one line per attempt in attempts.jsonl, written by the driver alone.

A success is also in the step's own record, so that a driver killed in between loses no row: it is taken up from there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweeps.core.files import atomic_path
from sweeps.core.hashing import to_jsonable
from sweeps.core.step import Step
from sweeps.core.store import Done

Status = Literal["SUCCEEDED", "FAILED", "PRUNED", "CANCELLED", "BLOCKED"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What became of one attempt at a step; for trials, a row of trials.parquet."""

    trial_id: str
    """The step's key."""
    stage: str
    """The kind of the step: judge, lora, grid, images, ..."""
    label: str
    attempt: int
    status: Status
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    started_at: str | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    device: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    notes: tuple[str, ...] = ()
    gpus: float | None = None
    """GPUs, or the share of one, that it held; None where it never began, or is of an older version."""
    energy_joules: float | None = None
    """Energy its GPU used meanwhile; None where the device does not tell, or was shared."""

    def to_json(self) -> str:
        """Return the attempt as a line of attempts.jsonl."""
        return json.dumps(to_jsonable(self), sort_keys=True, default=str)

    @classmethod
    def from_json(cls, line: str) -> Attempt:
        """Return the attempt of a line. Raises ValueError or TypeError for what is none."""
        content = json.loads(line)
        return cls(**{**content, "notes": tuple(content.get("notes", ()))})


def attempt_of(step: Step, status: Status, number: int, **known: Any) -> Attempt:
    """Return an attempt at a step with what is known of it."""
    return Attempt(
        trial_id=step.key, stage=step.kind.name, label=step.label, attempt=number, status=status,
        config=flat_config(step), **known,
    )  # fmt: skip


def flat_config(step: Step) -> dict[str, Any]:
    """Return a step's configuration as plain values: the fields of nested configurations stand beside its own, under
    their own name where that is free, else with the nested one's before it."""
    return _flat(to_jsonable(step.config))


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in values.items() if not isinstance(value, dict)}
    for name, value in values.items():
        if isinstance(value, dict):
            for inner, leaf in _flat(value).items():
                found[inner if inner not in found else f"{name}_{inner}"] = leaf
    return found


def success_of(step: Step, record: Done) -> Attempt:
    """Return the attempt that a step's own record tells of; its share of a GPU is unknown where it held one."""
    held = record.provenance.get("gpu_ids") or (record.device or "").startswith("cuda")
    return attempt_of(
        step, "SUCCEEDED", record.attempt, metrics=record.metrics, provenance=record.provenance,
        started_at=record.started_at, seconds=record.seconds, peak_memory_bytes=record.peak_memory_bytes,
        device=record.device, notes=record.notes, energy_joules=record.energy_joules,
        gpus=None if held else 0.0,
    )  # fmt: skip


class AttemptLog:
    """The attempts of a run, in memory and in one file that is only appended to."""

    def __init__(self, file: Path) -> None:
        self.file = file
        text = file.read_text(errors="replace") if file.is_file() else ""
        lines = text.splitlines()
        self.attempts = [found for line in lines if (found := _read(line)) is not None]
        self._num_lost, self._is_whole = len(lines) - len(self.attempts), not text or text.endswith("\n")
        self._counts: dict[str, int] = {}
        for attempt in self.attempts:
            self._counts[attempt.trial_id] = max(self._counts.get(attempt.trial_id, 0), attempt.attempt)

    def repair(self) -> int:
        """Write the file again without lines that cannot be read, and return how many there were.

        For the driver that holds the run's lock: what it adds must begin a line of its own.
        """
        if self._num_lost or not self._is_whole:
            with atomic_path(self.file) as beside:
                beside.write_text("".join(attempt.to_json() + "\n" for attempt in self.attempts))
        lost, self._num_lost, self._is_whole = self._num_lost, 0, True
        return lost

    def add(self, attempt: Attempt) -> None:
        """Append one attempt."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as stream:
            stream.write(attempt.to_json() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.attempts.append(attempt)
        self._counts[attempt.trial_id] = max(self._counts.get(attempt.trial_id, 0), attempt.attempt)

    def next_number(self, key: str) -> int:
        """Return the number of a step's next attempt, from 1."""
        return self._counts.get(key, 0) + 1

    def take_up(self, done: Iterable[tuple[Step, Done]]) -> None:
        """Add the successes that only the steps' own records tell of."""
        known = {(a.trial_id, a.attempt) for a in self.attempts if a.status == "SUCCEEDED"}
        for step, record in done:
            if (step.key, record.attempt) not in known:
                self.add(success_of(step, record))

    def of(self, steps: Sequence[Step]) -> list[Attempt]:
        """Return the attempts at some steps, in the order of the steps, then of their numbers."""
        order = {step.key: index for index, step in enumerate(steps)}
        mine = [a for a in self.attempts if a.trial_id in order]
        return sorted(mine, key=lambda a: (order[a.trial_id], a.attempt))


def _read(line: str) -> Attempt | None:
    """Return the attempt of a line; None for what a killed driver left half."""
    try:
        return Attempt.from_json(line)
    except (ValueError, TypeError):
        return None
