"""Reads everything the report shows from a run's folder, and records what is missing.

In: a run's paths. Out: `RunFiles`: the rows of every table, empty where a file is missing or cannot be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fulora.data.phantoms.writer import RECORD_NAME
from fulora.errors import InputError
from sweeps.core.paths import BASE_LABEL, RunPaths
from sweeps.core.tables import read_rows
from sweeps.report.columns import TABLES, Row, named, stage_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Absence:
    """Why a table has nothing to show."""

    file: str
    """The file, relative to the run's folder."""
    reason: Literal["missing", "unreadable", "empty"]
    """Not written yet; damaged or of another schema version; without rows."""
    stage: str
    """The stage that writes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """What a run has written so far."""

    paths: RunPaths
    figures: Path
    """Where figures are written to."""
    plan: Mapping[str, Any]
    """plan.json; empty where there is none."""
    tables: Mapping[str, list[Row]]
    """Rows by table, in the names of `sweeps.report.columns`; empty where the file is missing or unreadable."""
    losses: Mapping[int, list[Row]]
    """loss.parquet by rank."""
    images: Mapping[str, list[Row]]
    """metadata.parquet of every set of generated images: `synthetic`, `base`, `rank-008`."""
    missing: Mapping[str, Absence]
    """Files that could not be read, by table."""

    @property
    def experiment(self) -> Mapping[str, Any]:
        """The resolved configuration; empty where there is no plan."""
        return self.plan.get("experiment") or {}

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return str(self.plan.get("recipe") or "unknown")

    @property
    def seed(self) -> int:
        """The master seed; 0 where it is not known."""
        return int(self.plan.get("seed") or 0)

    @property
    def regimes(self) -> list[str]:
        """Every regime that a table names, in the order of first appearance."""
        found: dict[str, None] = {}
        for rows in self.tables.values():
            for row in rows:
                found |= dict.fromkeys(row[key] for key in ("regime", "regime_a", "regime_b") if row.get(key))
        return list(found)

    def on_phantoms(self, source: str) -> bool | None:
        """Return whether the images of a source are phantoms; None where it is not known."""
        path = next((r["path"] for r in self.tables["catalog"] if r["source"] == source and r["path"]), "/")
        # A folder of phantoms may have been given as if it were real: the record beside the images counts first.
        if any((folder / RECORD_NAME).is_file() for folder in list(Path(path).parents)[:4]):
            return True
        return self.experiment[source] is None if source in self.experiment else None

    def folder(self, label: str) -> Path:
        """Return the folder of a set of generated images."""
        return self.paths.synthetic if label == "synthetic" else self.paths.images(label)

    def absence(self, name: str) -> Absence:
        """Return why a table has nothing to show."""
        file = f"tables/{TABLES[name][0]}.parquet" if name in TABLES else f"{name}.parquet"
        return self.missing.get(name) or Absence(file=file, reason="empty", stage=stage_of(name))


def read_run(paths: RunPaths, *, figures: Path | None = None) -> RunFiles:
    """Return a run's files; a file that is missing or cannot be read raises nothing."""
    missing: dict[str, Absence] = {}

    def rows(name: str, path: Path, schema: str) -> list[Row]:
        reason: Literal["missing", "unreadable"] = "missing"
        if path.is_file():
            try:
                return named(name, read_rows(path, schema))
            except InputError:
                reason = "unreadable"
        file = path.relative_to(paths.root).as_posix()
        missing[name] = Absence(file=file, reason=reason, stage=stage_of(name))
        return []

    tables = {name: rows(name, getattr(paths, name), name) for name in ("catalog", "audit", "trials")}
    for row in tables["catalog"]:
        if row["path"]:  # files inside the run are listed relative to it
            row["path"] = str(paths.root.resolve() / row["path"])
    tables |= {name: rows(name, paths.table(table), table) for name, (table, _) in TABLES.items()}
    losses = {}
    for folder in sorted((paths.root / "adapters").glob("rank-*")):
        if found := rows(f"loss {folder.name}", folder / "loss.parquet", "loss"):
            losses[int(folder.name.removeprefix("rank-"))] = found
    labels = {"synthetic": paths.synthetic, BASE_LABEL: paths.images(BASE_LABEL)}
    labels |= {folder.name: folder for folder in sorted((paths.root / "samples").glob("rank-*"))}
    images = {label: rows(label, folder / "metadata.parquet", "metadata") for label, folder in labels.items()}
    return RunFiles(
        paths=paths,
        figures=figures or paths.figures,
        plan=_plan(paths),
        tables=tables,
        losses=losses,
        images=images,
        missing=missing,
    )


def _plan(paths: RunPaths) -> dict[str, Any]:
    try:
        found = json.loads(paths.plan.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
