"""Parquet tables: their columns, writing, reading, export.

In: rows as dicts. Out: Parquet files of plain columns whose metadata names the schema and its version; a reader refuses
another version. What each column means: `results/README.md`, and the comments here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fulora.errors import InputError, fault
from sweeps.core.attempts import Attempt
from sweeps.core.files import atomic_path
from sweeps.core.hashing import to_jsonable

SCHEMA_VERSION = "3"

_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()
METRICS = ("accuracy", "recall", "precision", "f1", "auc")
"""In percent; macro averages over the four tested planes."""

AUDITED = ("nearest_pixels", "distance_pixels", "nearest_features", "distance_features", "closer_than_real")
"""Columns of metadata.parquet that the near-copy audit adds, as in `fulora.evaluate.copies.NearestImage`."""

_METRIC_COLUMNS = {name + end: _F for name in METRICS for end in ("", "_low", "_high")}
_TESTED = {
    "num_patients": _I, "num_seeds": _I, **_METRIC_COLUMNS, "auc_published": _F, "auc_hard": _F, "num_test": _I,
    "weights": _S, "trial_ids": _S,
}  # fmt: skip

SCHEMAS: dict[str, dict[str, pa.DataType]] = {
    "catalog": {
        "image_id": _S, "path": _S, "source": _S, "plane": _S, "patient_id": _S, "centre": _S, "machine": _S,
        "split": _S, "width_px": _I, "height_px": _I, "sha256": _S, "pixel_hash": _S, "perceptual_hash": _S,
    },
    "manifest": {
        "role": _S, "image_id": _S, "path": _S, "source": _S, "plane": _S, "patient_id": _S, "centre": _S,
        "machine": _S, "split": _S, "width_px": _I, "height_px": _I, "sha256": _S, "pixel_hash": _S,
        "perceptual_hash": _S,
    },
    "audit": {
        "kind": _S, "distance": _I, "image_a": _S, "image_b": _S, "set_a": _S, "set_b": _S, "split_a": _S,
        "split_b": _S, "source_a": _S, "source_b": _S, "patient_a": _S, "patient_b": _S, "same_plane": _B,
    },
    "predictions": {
        "trial_id": _S, "image_id": _S, "patient_id": _S, "centre": _S, "plane": _S,
        "p_other": _F, "p_abdomen": _F, "p_brain": _F, "p_femur": _F, "p_thorax": _F,
    },
    "metadata": {
        "file_name": _S, "image_id": _S, "plane": _S, "prompt": _S, "sampler": _S, "seed": _I, "adapter": _S,
        "rank": _I, "num_steps": _I, "guidance": _F, "sha256": _S, "base": _S, "pixel_hash": _S, "device": _S,
        "node": _S, "gpu_ids": _S,
        "nearest_pixels": _S, "distance_pixels": _F, "nearest_features": _S, "distance_features": _F,
        "closer_than_real": _B,
    },
    "loss": {"step": _I, "loss": _F, "learning_rate": _F, "heldout_loss": _F, "seconds": _F},
    "table1": {"regime": _S, "model": _S, "num_es": _I, "num_synthetic": _I, **_TESTED},
    "table2": {"regime": _S, "model": _S, "num_es": _I, "num_af": _I, "num_synthetic": _I, **_TESTED},
    "ranks": {
        "adapter": _S, "rank": _I, "alpha": _F, "chosen": _B, "base": _S, "num_trainable": _I, "num_steps": _I,
        "final_loss": _F, "heldout_loss": _F,
        "recognised": _F, "recognised_euler": _F, "recognised_unipc": _F, "num_images": _I,
        "recognised_base": _F, "num_base_images": _I, "judge": _S, "judge_accuracy": _F, "judge_num_heldout": _I,
        "seconds": _F, "peak_memory_bytes": _I, "device": _S, "adapter_sha256": _S, "trial_id": _S,
    },
    "search": {
        "rank": _I, "alpha": _F, "alpha_over_rank": _F, "learning_rate": _F, "num_steps": _I, "targets": _S,
        "status": _S, "objective": _S, "heldout_loss": _F, "kid": _F, "num_generated": _I, "num_real": _I,
        "features": _S, "stopped_at_step": _I, "seconds": _F,
        "peak_memory_bytes": _I, "trial_id": _S,
    },
    "fidelity": {
        "adapter": _S, "rank": _I, "sampler": _S, "fid": _F, "kid": _F, "kid_deviation": _F, "precision": _F,
        "recall": _F, "num_real": _I, "num_generated": _I, "features": _S,
    },
    "copies": {
        "adapter": _S, "rank": _I, "chosen": _B, "share_closer": _F, "share_by_chance": _F, "least_pixels": _F,
        "least_features": _F, "num_synthetic": _I, "num_training": _I, "num_heldout": _I, "num_heldout_patients": _I,
        "features": _S,
    },
    "worst_copies": {
        "image_id": _S, "nearest_pixels": _S, "distance_pixels": _F, "flipped": _B, "nearest_features": _S,
        "distance_features": _F, "closer_than_real": _B, "ratio": _F,
    },
    "data_scaling": {
        "kind": _S, "regime": _S, "model": _S, "asked_real": _I, "asked_synthetic": _I, "num_es": _I,
        "num_synthetic": _I, "num_patients": _I, "num_seeds": _I, **_METRIC_COLUMNS,
        **{f"{name}_gain{end}": _F for name in ("accuracy", "f1") for end in ("", "_low", "_high")},
        "num_test": _I, "weights": _S, "trial_ids": _S,
    },
    "confusion": {
        "trial_id": _S, "regime": _S, "model": _S, "seed_index": _I, "truth": _S, "prediction": _S, "count": _I,
    },
    "comparisons": {
        "regime_a": _S, "model_a": _S, "regime_b": _S, "model_b": _S, "metric": _S, "difference": _F, "low": _F,
        "high": _F, "p_value": _F, "p_adjusted": _F, "significant": _B,
    },
    "headline": {
        "regime": _S, "reference": _S, "metric": _S, "change": _F, "low": _F, "high": _F, "significant": _B,
        "paper_change": _F, "models": _S, "num_models": _I, "num_test": _I, "num_patients": _I,
    },
    "deduplicated": {
        "regime": _S, "model": _S, "num_test": _I, "num_left_out": _I, "num_trained_on": _I, "num_near_trained_on": _I,
        "num_repeated": _I, "num_near_repeated": _I, **_METRIC_COLUMNS,
    },
    "subgroups": {
        "regime": _S, "model": _S, "by": _S, "value": _S, "num_images": _I, "num_patients": _I, **_METRIC_COLUMNS,
    },
    "calibration": {
        "regime": _S, "model": _S, "num_test": _I, "num_seeds": _I, "ece": _F, "ece_low": _F, "ece_high": _F,
        "ece_by_chance": _F, "ece_equal_mass": _F, "brier": _F, "brier_low": _F, "brier_high": _F, "confidence": _F,
        "accuracy": _F,
    },
    "reliability": {
        "regime": _S, "model": _S, "bin": _I, "low": _F, "high": _F, "count": _I, "confidence": _F, "accuracy": _F,
    },
    "published": {
        "regime": _S, "model": _S, "num_es": _I, "num_af": _I, "num_synthetic": _I, "num_patients": _I,
        **{name: _F for name in METRICS}, "num_test": _I, "auc_fits": _S, "doubt": _S, "source": _S,
    },
    "compare": {
        "table": _S, "regime": _S, "model": _S, "metric": _S, "ours": _F, "low": _F, "high": _F, "paper": _F,
        "difference": _F, "inside": _B, "paper_doubt": _S, "comparable": _B, "why_not": _S,
        "num_es": _I, "num_af": _I, "num_synthetic": _I, "num_test": _I,
        "paper_num_es": _I, "paper_num_af": _I, "paper_num_synthetic": _I, "paper_num_test": _I,
    },
    "embedding": {"plane": _S, "source": _S, "image_id": _S, "x": _F, "y": _F, "features": _S},
    "stages": {
        "stage": _S, "seconds": _F, "num_done": _I, "num_reused": _I, "num_failed": _I, "where": _S, "started_at": _S,
    },
    "steps": {
        "kind": _S, "stage": _S, "label": _S, "key": _S, "attempt": _I, "status": _S, "started_at": _S, "seconds": _F,
        "device": _S, "node": _S, "gpu_ids": _S, "peak_memory_bytes": _I, "error_type": _S, "error_message": _S,
        "reused": _B,
    },
    "notes": {"stage": _S, "note": _S},
}  # fmt: skip
"""Column names and types of every table, in order. trials.parquet grows a column per configuration key and metric."""

# Images with their bytes: what an audit of the whole set adds is not known where a part of it is drawn.
SCHEMAS["images"] = {k: v for k, v in SCHEMAS["metadata"].items() if k not in AUDITED} | {"image": pa.binary()}

_TRIAL_COLUMNS: dict[str, pa.DataType] = {
    "trial_id": _S, "stage": _S, "label": _S, "attempt": _I, "status": _S, "started_at": _S, "seconds": _F,
    "peak_memory_bytes": _I, "device": _S, "error_type": _S, "error_message": _S,
}  # fmt: skip


def _metadata(name: str) -> dict[str, str]:
    return {"fulora.table": name, "fulora.schema_version": SCHEMA_VERSION}


def schema_of(name: str) -> pa.Schema:
    """Return the table's columns, with its name and version as metadata."""
    return pa.schema(list(SCHEMAS[name].items()), metadata=_metadata(name))


def to_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as the table `name`; columns a row lacks are null. KeyError for a column the table does not have."""
    columns, rows = SCHEMAS[name], list(rows)
    for row in rows:
        if unknown := row.keys() - columns.keys():
            raise KeyError(f"table {name} has no column {sorted(unknown)}")
    arrays = {c: pa.array([row.get(c) for row in rows], type=t) for c, t in columns.items()}
    return pa.table(arrays, schema=schema_of(name))


def write_table(path: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as the table `name`, whole or not at all; see `to_table`."""
    table = to_table(name, rows)
    with atomic_path(path) as beside:
        pq.write_table(table, beside)


def read_table(path: Path, name: str) -> pa.Table:
    """Return the table; raises InputError where the file is missing, unreadable, another table or another version."""
    if not path.is_file():
        raise InputError(fault("file", str(path), "does not exist", "Run the stage that writes it."))
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(fault("file", str(path), f"is no readable Parquet ({error})", "Write it again.")) from error
    found = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items() if k.startswith(b"fulora.")}
    if found != _metadata(name):
        rule = f"is not table {name!r} of schema version {SCHEMA_VERSION} but {found or 'unmarked'}"
        raise InputError(fault("file", str(path), rule, "Write it again with this version."))
    return table


def read_rows(path: Path, name: str) -> list[dict[str, Any]]:
    """Return a table's rows as dicts."""
    return read_table(path, name).to_pylist()


def write_trials(path: Path, attempts: Sequence[Attempt]) -> None:
    """Write one row per attempt; config_*, metric_* and provenance_* columns are the union over stages."""
    rows = [_flat(attempt) for attempt in attempts]
    names = dict.fromkeys(_TRIAL_COLUMNS)
    for prefix in ("config_", "metric_", "provenance_"):
        names |= dict.fromkeys(sorted({key for row in rows for key in row if key.startswith(prefix)}))
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        arrays[name] = pa.array(values, type=_TRIAL_COLUMNS.get(name) or _common_type(values))
    table = pa.table(arrays).replace_schema_metadata(_metadata("trials"))
    with atomic_path(path) as beside:
        pq.write_table(table, beside)


def _flat(attempt: Attempt) -> dict[str, Any]:
    row = {name: getattr(attempt, name) for name in _TRIAL_COLUMNS}
    for prefix, values in (
        ("config_", attempt.config),
        ("metric_", attempt.metrics),
        ("provenance_", attempt.provenance),
    ):
        row |= {prefix + key: value for key, value in _leaves(values).items()}
    return row


def _leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in to_jsonable(values).items():
        if isinstance(value, dict):
            flat |= {f"{key}_{inner}": leaf for inner, leaf in _leaves(value).items()}
        else:
            flat[key] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _common_type(values: Sequence[Any]) -> pa.DataType:
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {bool} and kinds:
        return _B
    if kinds <= {int} and kinds:
        return _I
    if kinds <= {int, float} and kinds:
        return _F
    if not kinds <= {str}:
        raise TypeError(f"a trials column mixes {sorted(k.__name__ for k in kinds)}")
    return _S
