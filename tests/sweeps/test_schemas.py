"""Schemas: every column says what it means, the files carry it, and results/README.md is made from it."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fulora.data.audit import DuplicatePair
from fulora.data.records import ImageRecord
from fulora.diffusion.sampler import SampleRow
from fulora.evaluate import scores
from fulora.evaluate.copies import NearestImage
from fulora.evaluate.fidelity import Fidelity
from fulora.planes import PLANES
from sweeps.core.attempts import Attempt
from sweeps.core.schemas import (
    AUDITED,
    CHANGES,
    METRICS,
    SCHEMA_VERSION,
    SCHEMAS,
    TABLES,
    TRIAL_COLUMNS,
    readme,
    schema_of,
    trials_schema,
)

ROOT = Path(__file__).parents[2]
COLUMNS = [(table.name, name, column) for table in TABLES.values() for name, column in table.columns.items()]
UNITS = {"_px": "px", "_bytes": "bytes", "seconds": "s"}
VALUES = {pa.string(): "x", pa.int64(): 3, pa.float64(): 0.5, pa.bool_(): True, pa.binary(): b"\x89PNG"}


def names(record: type) -> list[str]:
    """Return the field names of a dataclass."""
    return [field.name for field in fields(record)]


def test_the_readme_is_the_rendering_of_the_schemas():
    assert (ROOT / "results" / "README.md").read_text() == readme(), "run `python -m sweeps.core.schemas`"


def test_the_readme_explains_every_column_in_the_section_of_its_table():
    sections = dict(re.findall(r"^### (\w+)$(.*?)(?=^##|\Z)", readme(), re.MULTILINE | re.DOTALL))
    assert list(sections) == list(TABLES)
    for table, name, column in COLUMNS:
        value = name.removesuffix("_low").removesuffix("_high")
        shown = value if value != name and value in TABLES[table].columns else name
        (line,) = re.findall(rf"^\| `{shown}`( \(`_low`, `_high`\))? \| (.*) \|$", sections[table], re.MULTILINE)
        assert bool(line[0]) == (f"{shown}_low" in TABLES[table].columns)
        if shown == name:
            assert line[1] == f"{column.type} | {column.unit or ''} | {column.meaning}"


def test_every_column_has_a_meaning_of_its_own_and_a_unit_that_fits_its_name():
    for table in TABLES.values():
        meanings = [column.meaning for column in table.columns.values()]
        assert len(set(meanings)) == len(meanings), table.name
        assert re.fullmatch(r"One row per .+\.", table.about)
    for table, name, column in COLUMNS:
        where = f"{table}.{name}"
        assert re.fullmatch(r"[A-Z`].*[^.\s]", column.meaning) and "  " not in column.meaning, where
        for end, unit in UNITS.items():
            assert not name.endswith(end) or column.unit == unit, where
        if name.removesuffix("_low").removesuffix("_high") in METRICS:
            assert column.unit == "%", where
        if name.startswith("num_") and table != "stages":
            assert column.unit is not None and column.type == pa.int64(), where


def test_columns_are_those_of_the_records_that_rows_are_made_from():
    assert METRICS == scores.METRICS
    assert list(SCHEMAS["catalog"]) == names(ImageRecord)
    assert list(SCHEMAS["manifest"]) == ["role", *names(ImageRecord)]
    assert list(SCHEMAS["audit"]) == names(DuplicatePair)
    assert list(SCHEMAS["worst_copies"]) == names(NearestImage)
    assert list(SCHEMAS["fidelity"]) == ["adapter", "rank", "sampler", *names(Fidelity)]
    assert set(names(SampleRow)) < set(SCHEMAS["metadata"])
    assert set(AUDITED) == set(names(NearestImage)) & set(SCHEMAS["metadata"]) - {"image_id"}
    assert list(SCHEMAS["images"]) == [*(c for c in SCHEMAS["metadata"] if c not in AUDITED), "image"]
    assert [c for c in SCHEMAS["predictions"] if c.startswith("p_")] == [f"p_{plane.name}" for plane in PLANES]
    assert set(TRIAL_COLUMNS) == set(names(Attempt)) - {"config", "metrics", "provenance", "notes"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_file_keeps_meaning_unit_table_and_version(name, tmp_path):
    schema, file = schema_of(name), tmp_path / "file.parquet"
    row = {field.name: VALUES[field.type] for field in schema}
    pq.write_table(pa.Table.from_pylist([row, dict.fromkeys(row)], schema=schema), file)
    marked = {"fulora.table": name, "fulora.schema_version": SCHEMA_VERSION}

    found = pq.read_schema(file)
    assert found.equals(schema, check_metadata=True)
    for key, column in SCHEMAS[name].items():
        about = {k.decode(): v.decode() for k, v in found.field(key).metadata.items()}
        assert about == {"meaning": column.meaning} | ({"unit": column.unit} if column.unit else {})

    # DuckDB and polars show the file's metadata, in which Arrow keeps the schema with that of the fields.
    in_polars = pl.read_parquet_metadata(file)
    query = f"SELECT decode(key), decode(value) FROM parquet_kv_metadata('{file}')"
    for metadata in (in_polars, dict(duckdb.sql(query).fetchall())):
        assert marked.items() <= metadata.items()
        assert pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata["ARROW:schema"]))).equals(schema, True)

    # pandas shows no metadata: names and values are as without it.
    assert pd.read_parquet(file).iloc[0].to_dict() == row
    assert pl.read_parquet(file).to_dicts()[0] == row
    assert dict(zip(row, duckdb.sql(f"FROM '{file}'").fetchall()[0])) == row


def test_trials_explain_the_columns_that_depend_on_the_run():
    schema = trials_schema({"config_rank": pa.int64(), "metric_final_loss": pa.float64()})
    assert schema.names == [*TRIAL_COLUMNS, "config_rank", "metric_final_loss"]
    assert b"configuration" in schema.field("config_rank").metadata[b"meaning"]
    assert schema.field("seconds").metadata[b"unit"] == b"s"
    assert schema.metadata == {b"fulora.table": b"trials", b"fulora.schema_version": SCHEMA_VERSION.encode()}
    with pytest.raises(KeyError, match="result_"):
        trials_schema({"result_loss": pa.float64()})


def test_what_changed_since_version_2_names_what_is_here_and_what_is_gone():
    here = {*TABLES, *(f"{table}.{name}" for table, name, _ in COLUMNS)}
    assert {change.after for change in CHANGES} <= here
    assert not {change.before for change in CHANGES if change.before != change.after} & here
    assert {(c.before, c.after) for c in CHANGES} >= {
        ("amounts", "data_scaling"),
        ("breakdown", "subgroups"),
        ("comparisons.told_from_chance", "comparisons.significant"),
    }


def test_the_schemas_stand_on_pyarrow_alone():
    program = """if True:
        import json, sys, sweeps.core.schemas
        print(json.dumps([n for n in sys.modules if n.split(".")[0] in ("fulora", "sweeps", "ray", "torch", "pandas")]))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(json.loads(done.stdout)) - {"sweeps", "sweeps.core"}
    assert loaded and all(name.startswith("sweeps.core.schemas") for name in loaded)
