"""results/README.md from the schemas: what every column of every table means, and how to read it from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweeps.core.schemas.column import Column, Table
from sweeps.core.schemas.runs import TRIAL_PREFIXES, TRIALS
from sweeps.core.schemas.versions import CHANGES, SCHEMA_VERSION

_INTRO = """\
# Results

This file is made by `python -m sweeps.core.schemas`; edit the texts in `sweeps/core/schemas/`.

`demo/` holds the tables of a finished `make demo` (`sweeps export runs/demo --to results/demo`). They are computed on
phantoms, with the bundled base model and classifiers trained from scratch: an example of the tables, not evidence about
patients. `paper/` holds Tables 1 and 2 as the paper prints them.

Tables are Parquet files with plain columns that pandas, polars, DuckDB and PyArrow read. Null means unknown or not
applicable. Scores are in percent. Intervals are 95 % percentile intervals of 2000 bootstrap resamples of test patients;
`accuracy` (`_low`, `_high`) below stands for the columns `accuracy`, `accuracy_low` and `accuracy_high`.

The file's metadata has the name of the table (`fulora.table`) and the version of the schema (`fulora.schema_version`);
the metadata of each Arrow field has its `meaning` and its `unit`:

```python
import pyarrow.parquet as pq

schema = pq.read_schema("results/demo/calibration.parquet")
schema.metadata[b"fulora.table"]            # b"calibration"
schema.field("ece").metadata[b"meaning"]    # b"Expected calibration error, 15 bins of equal width; ..."
```

DuckDB shows the name and version with `SELECT * FROM parquet_kv_metadata('FILE')`, polars with
`pl.read_parquet_metadata("FILE")`.
"""

_CHANGES = """\
## What became what from version 2 to 3

Files of version 2 are refused by version 3: run the study again, or read them with pandas, polars, DuckDB or PyArrow.
All other tables and columns keep their names, types and meanings. New in every table: each column has a `meaning` and,
where it has a unit, a `unit` in the metadata of its Arrow field.
"""


def render(groups: Mapping[str, Sequence[Table]]) -> str:
    """Return the text of results/README.md; `groups` has the tables by subject, in the order of the text."""
    lines = [_INTRO]
    for subject, tables in groups.items():
        lines.append(f"- {subject}: " + ", ".join(f"[{table.name}](#{table.name})" for table in tables))
    lines.append("- [What became what from version 2 to 3](#what-became-what-from-version-2-to-3)")
    for subject, tables in groups.items():
        lines.append(f"\n## {subject}")
        for table in tables:
            lines += _section(table)
    lines += ["", _CHANGES, f"| version 2 | version {SCHEMA_VERSION} | |", "| --- | --- | --- |"]
    for change in CHANGES:
        before = "new" if change.before is None else f"`{change.before}`"
        lines.append(f"| {before} | `{change.after}` | {_cell(change.why)} |")
    return "\n".join(lines) + "\n"


def _section(table: Table) -> list[str]:
    lines = [
        f"\n### {table.name}\n",
        f"{table.about}\n",
        "| column | type | unit | meaning |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {column.type} | {column.unit or ''} | {_cell(column.meaning)} |"
        for name, column in _rows(table.columns)
    ]
    if table is TRIALS:
        lines += [f"| `{prefix}*` | | | {_cell(meaning)} |" for prefix, meaning in TRIAL_PREFIXES.items()]
    return [*lines, *([f"\n{table.notes}"] if table.notes else [])]


def _rows(columns: Mapping[str, Column]) -> Iterator[tuple[str, Column]]:
    """Yield the columns with the name shown; the ends of an interval are shown in the row of their value."""
    ends = {f"{name}{end}" for name in columns for end in ("_low", "_high")}
    for name, column in columns.items():
        if name not in ends:
            has_interval = f"{name}_low" in columns and f"{name}_high" in columns
            yield f"`{name}`" + (" (`_low`, `_high`)" if has_interval else ""), column


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
