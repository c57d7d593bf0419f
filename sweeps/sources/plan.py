"""The steps that make the catalog and the audit.

In: an experiment. Out: steps. A folder of images is known by its listing (names, sizes, modification times), so a
catalog is made again when the folder changes and not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fulora.data.near_duplicates import RULE
from fulora.data.phantoms import PhantomConfig
from fulora.experiment import Experiment
from sweeps.core.hashing import content_hash
from sweeps.core.step import Kind, Step

PHANTOMS = Kind(name="phantoms", stage="sources", work="sweeps.sources.catalog:make_phantoms")
CATALOG = Kind(name="catalog", stage="sources", work="sweeps.sources.catalog:make_catalog")
AUDIT = Kind(name="audit", stage="sources", work="sweeps.sources.audit:audit_images")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhantomsConfig:
    """Which phantoms."""

    phantoms: PhantomConfig
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogConfig:
    """Where the images are, and which are left out."""

    spanish: Path | None
    """None: the phantoms."""
    african: Path | None
    listing: str
    """Hash of both folders' listings."""
    drop_duplicates: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """Whose images the audit names as LoRA's."""

    lora_images_per_plane: int
    seed: int
    rule: str = RULE
    """How near two images must be."""


def catalog_step(experiment: Experiment) -> Step:
    """Return the step that reads both sources."""
    spanish, african = experiment.spanish, experiment.african
    needs: dict[str, tuple[Step, ...]] = {}
    if spanish is None or african is None:
        config = PhantomsConfig(phantoms=experiment.phantoms, seed=experiment.seed)
        needs["phantoms"] = (Step(kind=PHANTOMS, label="phantoms", config=config, cost=5.0),)
        spanish = african = None
    return Step(
        kind=CATALOG,
        label="catalog",
        config=CatalogConfig(
            spanish=spanish,
            african=african,
            listing=content_hash([listing(folder) for folder in (spanish, african) if folder is not None]),
            drop_duplicates=experiment.drop_duplicates,
        ),
        needs=needs,
        cost=10.0,
    )


def audit_step(experiment: Experiment, catalog: Step, images: Sequence[Step] = ()) -> Step:
    """Return the step that looks for images that are there twice; with shards of synthetic images, among them too."""
    config = AuditConfig(lora_images_per_plane=experiment.lora.images_per_plane, seed=experiment.seed)
    label = "audit of all images" if images else "audit of real images"
    needs = {"catalog": (catalog,), "images": tuple(images)}
    return Step(kind=AUDIT, label=label, config=config, needs=needs, cost=5.0)


def listing(folder: Path) -> str:
    """Return a hash of the names, sizes and modification times of a folder's files; decodes nothing."""
    if not folder.is_dir():
        return "not there"
    found = []
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            stat = file.stat()
            found.append([file.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns])
    return content_hash(found)
