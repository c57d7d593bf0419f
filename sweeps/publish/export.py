"""Copy a run's tables out of it, in the formats of papers and spreadsheets.

In: a run's folder. Out: Parquet, CSV, Markdown or LaTeX files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fulora.errors import InputError, fault
from sweeps.core.files import atomic_path
from sweeps.core.paths import RunPaths


def export(paths: RunPaths, to: Path, formats: Sequence[str]) -> list[Path]:
    """Copy the run's tables to a folder as Parquet, CSV, Markdown or LaTeX; return the files written."""
    import shutil

    sources = sorted(paths.tables.glob("*.parquet")) + [p for p in (paths.trials, paths.predictions) if p.is_file()]
    if not sources:
        raise InputError(fault("run", str(paths.root), "has no tables", "Finish it first: `sweeps run`."))
    files = []
    for source in sources:
        for kind in formats:
            target = to / f"{source.stem}.{_SUFFIX[kind]}"
            with atomic_path(target) as beside:
                if kind == "parquet":
                    shutil.copyfile(source, beside)
                else:
                    beside.write_text(_TEXT[kind](pq.read_table(source)))
            files.append(target)
    return files


def _csv(table: pa.Table) -> str:
    import io

    import pyarrow.csv

    sink = io.BytesIO()
    pyarrow.csv.write_csv(table, sink)
    return sink.getvalue().decode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _markdown(table: pa.Table) -> str:
    lines = [table.column_names, ["---"] * table.num_columns]
    lines += [[_cell(v).replace("|", "\\|") for v in row.values()] for row in table.to_pylist()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _latex(table: pa.Table) -> str:
    special = str.maketrans({c: "\\" + c for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"})
    body = [table.column_names, *([_cell(v) for v in row.values()] for row in table.to_pylist())]
    rows = [" & ".join(cell.translate(special) for cell in line) + r" \\" for line in body]
    spec = "".join("r" if pa.types.is_floating(f.type) or pa.types.is_integer(f.type) else "l" for f in table.schema)
    head, *rest = rows
    return "\n".join(
        [rf"\begin{{tabular}}{{{spec}}}", r"\hline", head, r"\hline", *rest, r"\hline", r"\end{tabular}", ""]
    )


_SUFFIX = {"parquet": "parquet", "csv": "csv", "markdown": "md", "latex": "tex"}
_TEXT = {"csv": _csv, "markdown": _markdown, "latex": _latex}
