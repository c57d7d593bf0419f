"""Parquet tables: writing and reading.

In: rows as dicts. Out: Parquet files of plain columns whose metadata names the schema and its version; a reader refuses
another version. What each column means: `sweeps.core.schemas`.
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
from sweeps.core.schemas import (
    AUDITED,
    METRICS,
    SCHEMA_VERSION,
    SCHEMAS,
    TRIAL_COLUMNS,
    TRIAL_PREFIXES,
    schema_metadata,
    schema_of,
    trials_schema,
)

__all__ = [
    "AUDITED", "METRICS", "SCHEMAS", "SCHEMA_VERSION", "read_rows", "read_table", "to_table", "write_table",
    "write_trials",
]  # fmt: skip


def to_table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as the table `name`; columns a row lacks are null. KeyError for a column the table does not have."""
    columns, rows = SCHEMAS[name], list(rows)
    for row in rows:
        if unknown := row.keys() - columns.keys():
            raise KeyError(f"table {name} has no column {sorted(unknown)}")
    arrays = {c: pa.array([row.get(c) for row in rows], type=t.type) for c, t in columns.items()}
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
        raise InputError(
            fault("file", str(path), f"is not a readable Parquet file ({error})", "Write it again.")
        ) from error
    found = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items() if k.startswith(b"fulora.")}
    if found != schema_metadata(name):
        rule = f"is not table {name!r} of schema version {SCHEMA_VERSION} but {found or 'unmarked'}"
        raise InputError(fault("file", str(path), rule, "Write it again with this version."))
    return table


def read_rows(path: Path, name: str) -> list[dict[str, Any]]:
    """Return a table's rows as dicts; columns that this version added are null where an older file lacks them."""
    columns = dict.fromkeys(SCHEMAS.get(name, ()))
    return [columns | row for row in read_table(path, name).to_pylist()]


def write_trials(path: Path, attempts: Sequence[Attempt]) -> None:
    """Write one row per attempt; config_*, metric_* and provenance_* columns are the union over stages."""
    rows = [_flat(attempt) for attempt in attempts]
    found = sorted({name for row in rows for name in row})
    others = [name for prefix in TRIAL_PREFIXES for name in found if name.startswith(prefix)]
    values = {name: [row.get(name) for row in rows] for name in (*TRIAL_COLUMNS, *others)}
    schema = trials_schema({name: _common_type(values[name]) for name in others})
    arrays = {name: pa.array(column, type=schema.field(name).type) for name, column in values.items()}
    table = pa.table(arrays, schema=schema)
    with atomic_path(path) as beside:
        pq.write_table(table, beside)


def _flat(attempt: Attempt) -> dict[str, Any]:
    row = {name: getattr(attempt, name) for name in TRIAL_COLUMNS}
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
        return pa.bool_()
    if kinds <= {int} and kinds:
        return pa.int64()
    if kinds <= {int, float} and kinds:
        return pa.float64()
    if not kinds <= {str}:
        raise TypeError(f"a trials column mixes {sorted(k.__name__ for k in kinds)}")
    return pa.string()
