"""Read everything a report shows from a run's folder, and remember what is not there.

In: a run's paths. Out: `RunFiles`: rows of every table, empty where a file is missing, with the reason in words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora.data.phantoms.writer import RECORD_NAME
from fulora.errors import InputError
from sweeps.core.paths import BASE_LABEL, RunPaths
from sweeps.core.tables import read_rows

Row = dict[str, Any]

_STAGE_OF = {
    "catalog": "sources", "audit": "sources", "ranks": "sample", "synthetic": "sample", "predictions": "grid",
    "fidelity": "sample", "copies": "sample", "worst_copies": "sample",
    "table1": "grid", "table2": "grid", "confusion": "grid", "comparisons": "grid", "deduplicated": "grid",
    "breakdown": "grid", "amounts": "grid", "calibration": "grid", "reliability": "grid",
    "embedding": "report", "trials": "lora", "stages": "sources", "notes": "sources",
}  # fmt: skip
"""The stage that writes a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """What a run has left so far."""

    paths: RunPaths
    plan: Mapping[str, Any]
    """plan.json; empty where there is none."""
    tables: Mapping[str, list[Row]]
    """Rows by table; an empty list where the file is missing, unreadable or has no rows."""
    losses: Mapping[int, list[Row]]
    """loss.parquet by rank."""
    images: Mapping[str, list[Row]]
    """metadata.parquet of every set of generated images: `synthetic`, `base`, `rank-008`."""
    missing: Mapping[str, str]
    """Why a file could not be shown, by table."""

    @property
    def experiment(self) -> Mapping[str, Any]:
        """The resolved configuration; empty where there is no plan."""
        return self.plan.get("experiment") or {}

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return str(self.plan.get("recipe") or "unknown")

    @property
    def seed(self) -> int:
        """The master seed; 0 where it is not known."""
        return int(self.plan.get("seed") or 0)

    def on_phantoms(self, source: str) -> bool | None:
        """Return whether a source's images are phantoms; None where nothing tells."""
        path = next((r["path"] for r in self.tables["catalog"] if r["source"] == source and r["path"]), "/")
        # A folder of phantoms may have been given as if it were real: the record beside the images counts first.
        if any((folder / RECORD_NAME).is_file() for folder in list(Path(path).parents)[:4]):
            return True
        return self.experiment[source] is None if source in self.experiment else None

    def folder(self, label: str) -> Path:
        """Return the folder of a set of generated images."""
        return self.paths.synthetic if label == "synthetic" else self.paths.images(label)

    def absent(self, name: str) -> str:
        """Return one sentence on why a table has nothing to show."""
        stage = _STAGE_OF.get(name, name)
        reason = self.missing.get(name, "The file is there but has no rows.")
        return f"{reason} The stage “{stage}” writes it; run the recipe again and it goes on from there."


def read_run(paths: RunPaths) -> RunFiles:
    """Return a run's files; nothing is raised for a file that is missing or cannot be read."""
    missing: dict[str, str] = {}

    def rows(name: str, path: Path, schema: str) -> list[Row]:
        if not path.is_file():
            missing[name] = f"This run has no {path.name} yet."
            return []
        try:
            return read_rows(path, schema)
        except InputError:
            missing[name] = f"{path.name} cannot be read: it is damaged, or of another version."
            return []

    tables = {name: rows(name, getattr(paths, name), name) for name in ("catalog", "audit", "trials", "predictions")}
    for row in tables["catalog"]:
        if row["path"]:  # what lies in the run is listed relative to it
            row["path"] = str(paths.root.resolve() / row["path"])
    for name in (
        "table1",
        "table2",
        "ranks",
        "confusion",
        "comparisons",
        "deduplicated",
        "breakdown",
        "amounts",
        "calibration",
        "reliability",
        "embedding",
        "fidelity",
        "copies",
        "worst_copies",
        "stages",
        "notes",
    ):
        tables[name] = rows(name, paths.table(name), name)
    losses = {}
    for folder in sorted((paths.root / "adapters").glob("rank-*")):
        if found := rows(f"loss {folder.name}", folder / "loss.parquet", "loss"):
            losses[int(folder.name.removeprefix("rank-"))] = found
    labels = {"synthetic": paths.synthetic, BASE_LABEL: paths.images(BASE_LABEL)}
    labels |= {folder.name: folder for folder in sorted((paths.root / "samples").glob("rank-*"))}
    images = {label: rows(label, folder / "metadata.parquet", "metadata") for label, folder in labels.items()}
    return RunFiles(paths=paths, plan=_plan(paths), tables=tables, losses=losses, images=images, missing=missing)


def _plan(paths: RunPaths) -> dict[str, Any]:
    try:
        found = json.loads(paths.plan.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
