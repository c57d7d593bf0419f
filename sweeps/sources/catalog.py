"""Read both sources into one catalog. Everything that can be wrong with the images is found here, before training.

In: folders of images, or phantoms made here. Out: found.parquet, every image, and catalog.parquet, those that are used:
with `drop_duplicates`, what leaks is left out of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fulora.data.audit import patients_on_both_sides, without_duplicates
from fulora.data.phantoms import write_phantoms
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_test_images
from fulora.data.sources import count_left_out_rows, read_source
from fulora.errors import InputError, fault
from fulora.planes import TESTED_PLANES
from sweeps.core.selections import from_row, to_row
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import read_rows, write_table
from sweeps.sources.plan import CatalogConfig, PhantomsConfig

CATALOG_FILE, FOUND_FILE = "catalog.parquet", "found.parquet"


def make_phantoms(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write phantoms in the two published layouts."""
    config: PhantomsConfig = step.config
    write_phantoms(place.out, config.phantoms, seed=config.seed)
    return {"notes": ["the images are phantoms: simulated ultrasound, for trying the study out"]}


def make_catalog(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Read both sources. Raises InputError for images or lists that cannot be used."""
    config: CatalogConfig = step.config
    spanish, african, notes = config.spanish, config.african, list[str]()
    if spanish is None or african is None:
        phantoms = place.of("phantoms")
        spanish, african = phantoms / "spanish", phantoms / "african"
    found = [*read_source(spanish, source="spanish"), *read_source(african, source="african")]
    for folder, source in ((spanish, "spanish"), (african, "african")):
        for label, count in count_left_out_rows(folder, source=source).items():  # type: ignore[arg-type]
            notes.append(f"{count} {source} images labelled {label} are left out")
    check_test_set(found)
    records = found
    if config.drop_duplicates:
        records, dropped = without_duplicates(found)
        notes.append(
            f"{len(dropped)} training images are left out: each is a (near) duplicate of a test image, is of "
            "a test patient, or is a duplicate of another training image"
        )
    if both := patients_on_both_sides(found):
        notes.append(f"patients with both training and test images: {len(both)} (the first: {both[0]})")
    for name, rows in ((FOUND_FILE, found), (CATALOG_FILE, records)):
        write_table(place.out / name, "catalog", (to_row(r, place.store.root) for r in rows))
    return {"num_images": len(records), "notes": notes}


def check_test_set(records: Sequence[ImageRecord]) -> None:
    """Raise InputError unless every tested plane has test images."""
    test = select_test_images(records)
    if not test:
        rule, remedy = "has no test images, which every score needs", "Give a list with test rows (Train = 0)."
        raise InputError(fault("african", 0, rule, remedy))
    if absent := [plane.name for plane in TESTED_PLANES if plane.name not in {r.plane for r in test}]:
        rule = f"has test images of {len(TESTED_PLANES) - len(absent)} planes, none of {' and '.join(absent)}"
        remedy = "Every score is a mean over the four tested planes: give test images (Train = 0) of each."
        raise InputError(fault("african", sorted({r.plane for r in test}), rule, remedy))


def read_catalog(folder: Path, root: Path, name: str = CATALOG_FILE) -> list[ImageRecord]:
    """Return the records of a catalog's step, their paths of where the run's folder is now."""
    return [from_row(row, root) for row in read_rows(folder / name, "catalog")]
