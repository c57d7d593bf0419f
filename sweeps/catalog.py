"""The first stage: read both sources into one catalog, and look for images that are there twice.

In: an experiment. Out: catalog.parquet and audit.parquet, and the records every later stage works from.
Everything that can be wrong with the images is found here, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

from fulora.data.audit import find_duplicates, without_duplicates
from fulora.data.phantoms import write_phantoms
from fulora.data.records import ImageRecord
from fulora.data.sources import count_left_out_rows, read_source
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.planes import TESTED_PLANES
from sweeps.paths import RunPaths
from sweeps.progress import Progress
from sweeps.tables import read_rows, write_table

_FIELDS = tuple(field.name for field in fields(ImageRecord))


def build_catalog(experiment: Experiment, paths: RunPaths, progress: Progress) -> tuple[list[ImageRecord], list[str]]:
    """Return the records of both sources and notes on what was left out, having written catalog and audit.

    Raises InputError for images or lists that cannot be used.
    """
    spanish, african, notes = experiment.spanish, experiment.african, []
    if spanish is None or african is None:
        progress.say("making phantoms: no folder of real images was given")
        write_phantoms(paths.phantoms, experiment.phantoms, seed=experiment.seed)
        spanish, african = paths.phantoms / "spanish", paths.phantoms / "african"
        notes.append("the images are phantoms: simulated ultrasound, made for trying the study out")
    records = [*read_source(spanish, source="spanish"), *read_source(african, source="african")]
    for folder, source in ((spanish, "spanish"), (african, "african")):
        for label, count in count_left_out_rows(folder, source=source).items():  # type: ignore[arg-type]
            notes.append(f"{count} {source} images labelled {label} are left out")
    _check_test_set(records)
    pairs = find_duplicates(records)
    leaks = [pair for pair in pairs if {pair.split_a, pair.split_b} == {"train", "test"}]
    if pairs:
        notes.append(
            f"{len(pairs)} pairs of images have equal pixels; {len(leaks)} of them are a training and a test image"
        )
    if experiment.drop_duplicates:
        records, dropped = without_duplicates(records)
        notes.append(f"{len(dropped)} training images are left out: each equals a test image or another training image")
    write_table(paths.catalog, "catalog", map(asdict, records))
    write_table(paths.audit, "audit", map(asdict, pairs))
    return records, notes


def _check_test_set(records: Sequence[ImageRecord]) -> None:
    test = [r for r in records if r.source == "african" and r.split == "test"]
    if not test:
        raise InputError(
            fault(
                "african", 0, "has no test images, which every score needs", "Give a list with test rows (Train = 0)."
            )
        )
    if not {plane.name for plane in TESTED_PLANES} & {r.plane for r in test}:
        raise InputError(
            fault("african", sorted({r.plane for r in test}), "has none of the tested planes", "See README.")
        )


def read_catalog(paths: RunPaths) -> list[ImageRecord]:
    """Return the catalog's records."""
    return [ImageRecord(**{name: row[name] for name in _FIELDS}) for row in read_rows(paths.catalog, "catalog")]


def read_synthetic(paths: RunPaths) -> list[ImageRecord]:
    """Return the synthetic training images as records, or none where nothing was sampled."""
    file = paths.synthetic / "metadata.parquet"
    if not file.is_file():
        return []
    return [
        ImageRecord(
            image_id=f"synthetic/{row['image_id']}",
            path=str(paths.synthetic / row["file_name"]),
            source="synthetic",
            plane=row["plane"],
            patient_id="",
            centre="",
            machine=None,
            split="train",
            width_px=0,
            height_px=0,
            sha256=row["sha256"],
            pixel_hash=row["pixel_hash"],
        )
        for row in read_rows(file, "metadata")
    ]
