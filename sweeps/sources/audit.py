"""The leak gate: duplicates and near duplicates within and across the sets of a study.

In: the catalog and, once they are drawn, the synthetic images. Out: audit.parquet, a row per pair. The gate warns; with
`drop_duplicates` what leaks is left out of training (real images by the catalog, synthetic ones by `leaking_images`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fulora.data.audit import describe_pairs, find_duplicates
from fulora.data.near_duplicates import perceptual_hash
from fulora.data.pixels import num_threads, read_grey
from fulora.data.records import ImageRecord
from fulora.data.regimes import select_lora_images
from sweeps.core.step import Report, Step
from sweeps.core.store import Place
from sweeps.core.tables import read_rows, write_table
from sweeps.images.rows import drawn_rows, record_of
from sweeps.sources.catalog import FOUND_FILE, read_catalog
from sweeps.sources.plan import AuditConfig

AUDIT_FILE = "audit.parquet"


def audit_images(step: Step, place: Place, report: Report) -> dict[str, Any]:
    """Write every pair of equal or nearly equal images; the notes say what leaks."""
    config: AuditConfig = step.config
    catalog = place.of("catalog")
    found = read_catalog(catalog, place.store.root, FOUND_FILE)
    used = read_catalog(catalog, place.store.root)
    lora, _ = select_lora_images(used, per_plane=config.lora_images_per_plane, seed=config.seed)
    lora_ids = {image.image_id for image in lora}
    real = find_duplicates(found, lora=lora_ids)
    pairs, notes = list(real), describe_pairs(real)
    if shards := place.all("images"):
        synthetic = _hashed([record_of(row, folder) for folder in shards for row in drawn_rows(folder)])
        both = find_duplicates([*used, *synthetic], lora=lora_ids)
        mixed = [pair for pair in both if "synthetic" in (pair.set_a, pair.set_b)]
        pairs, notes = [*pairs, *mixed], describe_pairs(mixed)
    write_table(place.out / AUDIT_FILE, "audit", map(asdict, pairs))
    return {"num_pairs": len(pairs), "notes": notes}


def _hashed(records: list[ImageRecord]) -> list[ImageRecord]:
    """Return records with the perceptual hash of their files."""
    from dataclasses import replace

    with ThreadPoolExecutor(num_threads()) as pool:
        hashes = pool.map(lambda record: perceptual_hash(read_grey(record.path)), records)
        return [replace(record, perceptual_hash=text) for record, text in zip(records, hashes, strict=True)]


def leaking_images(folder: Path) -> set[str]:
    """Return the synthetic images that an audit pairs with a test image."""
    leaks: set[str] = set()
    for row in read_rows(folder / AUDIT_FILE, "audit"):
        if {row["set_a"], row["set_b"]} == {"synthetic", "test"}:
            leaks |= {i for i in (row["image_a"], row["image_b"]) if i.startswith("synthetic/")}
    return leaks
