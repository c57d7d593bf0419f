"""What an upload of a run's images consists of: the images, their table, a card, Croissant. Contacts nothing.

In: a run's folder. Out: an `Upload` in the layout of a Hugging Face `imagefolder`. What could name a patient, or a
machine of the author's, is left out of the table.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fulora.diffusion.base_files import TINY
from fulora.errors import InputError, fault
from sweeps.core.paths import BASE_LABEL, RunPaths, rank_label
from sweeps.core.tables import read_rows
from sweeps.publish.card import public_name
from sweeps.publish.croissant import croissant
from sweeps.publish.dataset_card import Facts, dataset_card
from sweeps.publish.fingerprint import HashedFile, hash_file
from sweeps.publish.upload import CARD, TRIAL, Upload, adapter_trial, check_name, settings_of

ROWS = "metadata.parquet"
CROISSANT = "croissant.json"
PRIVATE = ("nearest_pixels", "nearest_features", "device", "node", "gpu_ids")
"""Columns that are not uploaded: names of real images and of machines."""


def plan_images(paths: RunPaths, *, to: str, licence: str | None = None, private: bool = False) -> Upload:
    """Return the upload of the images that the run trains on.

    Raises InputError where `to` is not OWNER/NAME, the run has no images, one is not as it was recorded, or no licence
    is given for images made from real ones or from another model's weights.
    """
    check_name(to)
    settings = settings_of(paths)
    rows = _rows(paths)
    phantoms = not settings.get("spanish")
    if licence is None:
        if not phantoms or settings.get("base") != TINY:
            rule = "is not given, and the images are made from real ones or with another model's weights"
            remedy = "Give --licence, an identifier of the hub such as cc-by-4.0, that both of them allow."
            raise InputError(fault("licence", None, rule, remedy))
        licence = "mit"
    files = tuple(_checked(paths, row) for row in rows)
    rank = rows[0]["rank"]
    label = BASE_LABEL if rank is None else rank_label(rank)
    trial: dict[str, Any] = {}
    if rank is not None and (paths.adapter(rank) / TRIAL).is_file():
        trial = dict(adapter_trial(paths.adapter(rank))["config"])
    spec = str(trial.get("base") or settings.get("base") or "unknown")
    facts = Facts(
        to=to, licence=licence, label=label, phantoms=phantoms, base=spec, trial=trial,
        base_name=_public(rows[0]["base"], spec), settings=settings.get("sampling") or {}, rows=rows,
        fidelity=[r for r in _table(paths, "fidelity") if r["adapter"] in (label, "real")],
        copies=[r for r in _table(paths, "copies") if r["adapter"] == label],
    )  # fmt: skip
    table = _public_table(paths, spec)
    about = croissant(facts, table, [f"{row['file_name']}" for row in rows])
    made = {CARD: dataset_card(facts).encode(), CROISSANT: json.dumps(about, indent=2).encode(), ROWS: table}
    return Upload(
        to=to, private=private, rank=rank, files=files, made=made, repo_type="dataset", folder=paths.synthetic,
        summary=f"Upload {len(files)} synthetic images of {label}",
    )  # fmt: skip


def _rows(paths: RunPaths) -> list[dict[str, Any]]:
    """Return what is recorded of every image."""
    file = paths.synthetic / ROWS
    rows = read_rows(file, "metadata") if file.is_file() else []
    if not rows:
        rule = "has no synthetic images"
        raise InputError(fault("run", str(paths.root), rule, "Draw them first: `sweeps sample`."))
    return rows


def _checked(paths: RunPaths, row: dict[str, Any]) -> HashedFile:
    """Return an image's file. Raises InputError where it is gone or not the one that was recorded."""
    path = paths.synthetic / row["file_name"]
    remedy = "Run the command that began the run again: it draws what is missing."
    if not path.is_file():
        raise InputError(fault("image", str(path), "is gone", remedy))
    file = hash_file(path)
    if file.sha256 != row["sha256"]:
        rule = f"is not the file the run recorded (sha256 {row['sha256'][:8]})"
        raise InputError(fault("image", str(path), rule, f"Delete it. {remedy}"))
    return file


def _table(paths: RunPaths, name: str) -> list[dict[str, Any]]:
    return read_rows(paths.table(name), name) if paths.table(name).is_file() else []


def _public(base: str, spec: str) -> str:
    """Return a base's name without its path on the author's disk."""
    return base.replace(spec, public_name(spec))


def _public_table(paths: RunPaths, spec: str) -> bytes:
    """Return metadata.parquet without what is private."""
    table = pq.read_table(paths.synthetic / ROWS)
    table = table.drop_columns([name for name in PRIVATE if name in table.column_names])
    place = table.schema.get_field_index("base")
    bases = pa.array([base and _public(base, spec) for base in table.column("base").to_pylist()], pa.string())
    sink = io.BytesIO()
    pq.write_table(table.set_column(place, table.schema.field(place), bases), sink)
    return sink.getvalue()
