"""Every table of a run: columns with type, meaning and unit, by subject. `readme` renders results/README.md from them.

The meaning and unit of a column are metadata of its Arrow field, so a Parquet file explains itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from sweeps.core.schemas import controls, images, paper, ranks, runs, scores
from sweeps.core.schemas.column import METRICS, Column, Table
from sweeps.core.schemas.images import AUDITED
from sweeps.core.schemas.readme import render
from sweeps.core.schemas.runs import TRIAL_COLUMNS, TRIAL_PREFIXES, TRIALS
from sweeps.core.schemas.versions import CHANGES, SCHEMA_VERSION, Change

__all__ = [
    "AUDITED", "CHANGES", "GROUPS", "METRICS", "SCHEMAS", "SCHEMA_VERSION", "TABLES", "TRIAL_COLUMNS", "TRIAL_PREFIXES",
    "Change", "Column", "Table", "readme", "schema_metadata", "schema_of", "trials_schema",
]  # fmt: skip

GROUPS: dict[str, tuple[Table, ...]] = {
    "Classifier scores": (*scores.TABLES, *controls.TABLES),
    "LoRA ranks and synthetic images": ranks.TABLES,
    "Images": images.TABLES,
    "The paper's results": paper.TABLES,
    "The run": runs.TABLES,
}
"""Every table, by subject, in the order of results/README.md."""

TABLES: dict[str, Table] = {table.name: table for tables in GROUPS.values() for table in tables}
"""Every table by name."""

SCHEMAS: dict[str, dict[str, Column]] = {
    name: dict(table.columns) for name, table in TABLES.items() if table is not TRIALS
}
"""Columns of every table in the order of the file; without `trials`, whose columns depend on the run."""


def schema_metadata(name: str) -> dict[str, str]:
    """Return the metadata that marks a file as table `name` of this version."""
    return {"fulora.table": name, "fulora.schema_version": SCHEMA_VERSION}


def schema_of(name: str) -> pa.Schema:
    """Return the Arrow schema of a table: fields with `meaning` and `unit`, and the table's name and version.

    KeyError for a table that is not in SCHEMAS.
    """
    return pa.schema([column.field(key) for key, column in SCHEMAS[name].items()], metadata=schema_metadata(name))


def trials_schema(others: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the Arrow schema of trials.parquet: TRIAL_COLUMNS, then `others`, whose names start with a TRIAL_PREFIX.

    KeyError for a name without one of these prefixes.
    """
    fields = [column.field(name) for name, column in TRIAL_COLUMNS.items()]
    for name, kind in others.items():
        prefix = name.split("_", 1)[0] + "_"
        fields.append(Column(type=kind, meaning=TRIAL_PREFIXES[prefix], unit=None).field(name))
    return pa.schema(fields, metadata=schema_metadata("trials"))


def readme() -> str:
    """Return the text of results/README.md."""
    return render(GROUPS)
