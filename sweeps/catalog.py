"""The first stage: read both sources into one catalog; and the leak gate, which looks for images that are there twice.

In: an experiment; later the synthetic images. Out: catalog.parquet and audit.parquet, and the records every later stage
works from. Everything that can be wrong with the images is found here, before anything is trained.
The gate warns; with `drop_duplicates` what leaks is left out of training, real and synthetic images alike.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from fulora.data.audit import describe_pairs, find_duplicates, patients_on_both_sides, without_duplicates
from fulora.data.near_duplicates import RULE, perceptual_hash
from fulora.data.phantoms import write_phantoms
from fulora.data.pixels import num_threads, read_grey
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_lora_images, select_test_images
from fulora.data.sources import count_left_out_rows, read_source
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.planes import TESTED_PLANES
from sweeps.paths import RunPaths, write_json
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
    found = records
    if experiment.drop_duplicates:
        records, dropped = without_duplicates(found)
        notes.append(
            f"{len(dropped)} training images are left out: each equals or nearly equals a test image, is of a patient "
            "who is tested on too, or equals another training image"
        )
    pairs = find_duplicates(found, lora=_lora_ids(experiment, records))
    notes += describe_pairs(pairs)
    if both := patients_on_both_sides(found):
        notes.append(f"patients with images to train on and to test on: {len(both)} (the first: {both[0]})")
    write_table(paths.catalog, "catalog", ({**asdict(r), "path": _within(r.path, paths)} for r in records))
    write_table(paths.audit, "audit", [*map(asdict, pairs), *_pairs_of_synthetic(paths)])
    return records, notes


def _pairs_of_synthetic(paths: RunPaths) -> list[dict[str, Any]]:
    """Return what a former call's audit says of the synthetic images; the grid stage makes it anew."""
    try:
        rows = read_rows(paths.audit, "audit")
    except InputError:  # not there, or of another version
        return []
    return [row for row in rows if "synthetic" in (row["set_a"], row["set_b"])]


def audit_synthetic(
    experiment: Experiment, records: Sequence[ImageRecord], paths: RunPaths
) -> tuple[list[ImageRecord], list[str]]:
    """Return the synthetic images to train on and notes, having added to the audit what the synthetic images equal.

    With `drop_duplicates` an image that equals or nearly equals a test image is not trained on. Pairs of real images
    stay in the audit as the first stage found them, before any were left out.
    """
    known = _hashes_of_synthetic(paths)
    synthetic = [replace(record, perceptual_hash=known[record.sha256]) for record in read_synthetic(paths)]
    pairs = find_duplicates([*records, *synthetic], lora=_lora_ids(experiment, records))
    pairs = [pair for pair in pairs if "synthetic" in (pair.set_a, pair.set_b)]
    before = [r for r in read_rows(paths.audit, "audit") if "synthetic" not in (r["set_a"], r["set_b"])]
    write_table(paths.audit, "audit", [*before, *map(asdict, pairs)])
    notes = describe_pairs(pairs)
    if experiment.drop_duplicates:
        kept = read_synthetic(paths, without_leaks=True)
        if num_leaks := len(synthetic) - len(kept):
            notes.append(f"{num_leaks} synthetic images are left out: each equals or nearly equals a test image")
        return kept, notes
    return synthetic, notes


def _lora_ids(experiment: Experiment, records: Sequence[ImageRecord]) -> set[str]:
    images, _ = select_lora_images(records, per_plane=experiment.lora.images_per_plane, seed=experiment.seed)
    return {image.image_id for image in images}


def _hashes_of_synthetic(paths: RunPaths) -> dict[str, str]:
    """Return the perceptual hash of each synthetic file by its SHA-256, decoding those that no call has before."""
    images = {record.sha256: record.path for record in read_synthetic(paths)}
    try:
        cached = json.loads(paths.perceptual.read_text())[RULE]
    except (OSError, ValueError, KeyError, TypeError):  # not there, damaged, or by another rule: it is made again
        cached = {}
    known = {sha256: text for sha256, text in cached.items() if sha256 in images}
    todo = [sha256 for sha256 in images if sha256 not in known]
    with ThreadPoolExecutor(num_threads()) as pool:
        made = pool.map(lambda sha256: perceptual_hash(read_grey(images[sha256])), todo)
        known |= dict(zip(todo, made, strict=True))
    if todo:
        write_json(paths.perceptual, {RULE: known})
    return known


def _check_test_set(records: Sequence[ImageRecord]) -> None:
    test = select_test_images(records)
    if not test:
        raise InputError(
            fault(
                "african", 0, "has no test images, which every score needs", "Give a list with test rows (Train = 0)."
            )
        )
    if absent := [plane.name for plane in TESTED_PLANES if plane.name not in {r.plane for r in test}]:
        rule = f"has test images of {len(TESTED_PLANES) - len(absent)} planes, none of {' and '.join(absent)}"
        remedy = "Every score is a mean over the four tested planes: give test images (Train = 0) of each."
        raise InputError(fault("african", sorted({r.plane for r in test}), rule, remedy))


def read_catalog(paths: RunPaths) -> list[ImageRecord]:
    """Return the catalog's records; a path within the run's folder is of where that is now."""
    rows = read_rows(paths.catalog, "catalog")
    root = paths.root.resolve()
    return [ImageRecord(**{name: row[name] for name in _FIELDS} | {"path": str(root / row["path"])}) for row in rows]


def _within(path: str, paths: RunPaths) -> str:
    """Return a path relative to the run's folder where it lies in it, so that the folder can be moved."""
    root = paths.root.resolve()
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def read_synthetic(paths: RunPaths, *, without_leaks: bool = False) -> list[ImageRecord]:
    """Return the synthetic training images as records, or none where nothing was sampled.

    `without_leaks` leaves out those that the audit pairs with a test image (`audit_synthetic` comes first).
    """
    file = paths.synthetic / "metadata.parquet"
    if not file.is_file():
        return []
    leaks: set[str] = set()
    if without_leaks:
        for row in read_rows(paths.audit, "audit"):
            if {row["set_a"], row["set_b"]} == {"synthetic", "test"}:
                leaks |= {row["image_a"], row["image_b"]}
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
        if f"synthetic/{row['image_id']}" not in leaks
    ]
