"""What ran where and for how long, and what a reader of the tables must know.

In: stages as they run, notes as they come up. Out: tables/stages.parquet and tables/notes.parquet.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sweeps.paths import RunPaths
from sweeps.progress import Progress
from sweeps.tables import read_rows, write_table

StageName = Literal["sources", "lora", "sample", "grid", "report"]
STAGES: tuple[StageName, ...] = ("sources", "lora", "sample", "grid", "report")
"""The stages of a run, in order."""


class StageFailed(RuntimeError):
    """A stage could not give the next one what it needs; what is done stays done, and the same command goes on."""


@dataclass(slots=True)
class Record:
    """What ran where and for how long, and what a reader of the tables must know."""

    paths: RunPaths
    progress: Progress
    stages: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)

    def note(self, stage: str, texts: Sequence[str]) -> None:
        """Keep notes, each once, and show them."""
        for text in texts:
            row = {"stage": stage, "note": text}
            if row not in self.notes:
                self.notes.append(row)
                self.progress.say(f"note: {text}")

    @contextmanager
    def stage(self, name: str, where: str) -> Iterator[dict[str, Any]]:
        """Time a stage and keep its row; a stage that had nothing to do keeps the row of the run that did it."""
        began = time.perf_counter()
        row: dict[str, Any] = {"stage": name, "where": where, "num_done": 0, "num_reused": 0}
        row["started_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        yield row
        row["seconds"] = round(time.perf_counter() - began, 2)
        before = {r["stage"]: r for r in self._before()}
        kept = before.get(name) if not row["num_done"] and name in before else row
        self.stages.append(kept or row)
        self.save()

    def _before(self) -> list[dict[str, Any]]:
        file = self.paths.table("stages")
        return read_rows(file, "stages") if file.is_file() else []

    def save(self) -> None:
        """Write both tables."""
        names = {row["stage"] for row in self.stages}
        rows = [*self.stages, *(r for r in self._before() if r["stage"] not in names)]
        order = {name: index for index, name in enumerate(STAGES)}
        write_table(self.paths.table("stages"), "stages", sorted(rows, key=lambda r: order.get(r["stage"], 9)))
        write_table(self.paths.table("notes"), "notes", self.notes)
