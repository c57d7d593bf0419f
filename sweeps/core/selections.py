"""Selections of images: made once, when a study is planned, and kept as manifests that steps name and workers read.

In: records by role (train, validation, test, heldout). Out: a step whose key is a hash of what was selected, in its
order, and manifest.parquet with a row per image and role. Paths are no part of the key: images that were moved stay
the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fulora.data.records import ImageRecord
from sweeps.core.hashing import content_hash
from sweeps.core.step import Kind, Step
from sweeps.core.store import Damaged, Place, Store
from sweeps.core.tables import read_rows, write_table

MANIFEST = "manifest.parquet"
_FIELDS = tuple(field.name for field in fields(ImageRecord))


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionConfig:
    """What tells one selection from another."""

    content: str
    """Hash of the images in their roles and order: ids, pixels, planes, patients, splits."""


SELECTION = Kind(name="selection", stage="sources", work="sweeps.core.selections:read_only")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Images in roles."""

    label: str
    roles: Mapping[str, Sequence[ImageRecord]]
    notes: tuple[str, ...] = ()
    """What is not as asked for."""

    @cached_property
    def step(self) -> Step:
        """The step that stands for it."""
        science = {
            role: [(r.image_id, r.pixel_hash, r.plane, r.patient_id, r.split) for r in records]
            for role, records in self.roles.items()
        }
        return Step(kind=SELECTION, label=self.label, config=SelectionConfig(content=content_hash(science)), cost=0.0)

    def write(self, store: Store) -> Step:
        """Write the manifest unless it is there with the same paths, and return the step."""
        step = self.step
        paths = content_hash([within(r.path, store.root) for records in self.roles.values() for r in records])
        try:
            done = store.done(step)
        except Damaged:
            done = None
        if done is None or done.metrics.get("paths") != paths:
            with store.writing(step) as beside:
                rows = (
                    {"role": role, **to_row(r, store.root)} for role, records in self.roles.items() for r in records
                )
                write_table(beside / MANIFEST, "manifest", rows)
                counts = {f"num_{role}": len(records) for role, records in self.roles.items()}
                store.keep(step, beside, metrics={"paths": paths, **counts}, notes=self.notes)
        return step


def read_only(step: Step, place: Place, report: Any) -> dict[str, Any]:
    """Refuse to work: a selection is written by the plan, which alone has the catalog."""
    raise RuntimeError(f"selection {step.label!r} is written when the study is planned")


def read_selection(folder: Path, root: Path) -> dict[str, list[ImageRecord]]:
    """Return the records of a selection by role, in their order."""
    found: dict[str, list[ImageRecord]] = {}
    for row in read_rows(folder / MANIFEST, "manifest"):
        found.setdefault(row["role"], []).append(from_row(row, root))
    return found


def read_images(folder: Path, store: Store) -> dict[str, list[ImageRecord]]:
    """Return the records of a selection by role, their files at their paths on this machine."""
    found = read_selection(folder, store.root)
    paths = iter(store.images([(r.path, r.sha256) for records in found.values() for r in records]))
    return {role: [replace(r, path=next(paths)) for r in records] for role, records in found.items()}


def to_row(record: ImageRecord, root: Path) -> dict[str, Any]:
    """Return a record as a row, its path relative to the run's folder where it lies in it: a run can be moved."""
    return {**asdict(record), "path": within(record.path, root)}


def from_row(row: Mapping[str, Any], root: Path) -> ImageRecord:
    """Return a row as a record, its path of where the run's folder is now."""
    path = str(root.resolve() / row["path"]) if row["path"] else ""
    return ImageRecord(**{name: row[name] for name in _FIELDS} | {"path": path})


def within(path: str, root: Path) -> str:
    """Return a path relative to a folder where it lies in it, else as it is."""
    root = root.resolve()
    return str(Path(path).relative_to(root)) if path and Path(path).is_relative_to(root) else path


def ids(records: Iterable[ImageRecord]) -> list[str]:
    """Return the ids of records, in their order."""
    return [record.image_id for record in records]
