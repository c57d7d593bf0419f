"""Where the report's data are: the file of each table, the stage that writes it, and columns under another name.

The report's code and templates use the names on the left only, so a renamed table or column is one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]

TABLES: Mapping[str, tuple[str, str]] = {
    "headline": ("headline", "grid"),
    "table1": ("table1", "grid"),
    "table2": ("table2", "grid"),
    "confusion": ("confusion", "grid"),
    "comparisons": ("comparisons", "grid"),
    "deduplicated": ("deduplicated", "grid"),
    "subgroups": ("subgroups", "grid"),
    "data_scaling": ("data_scaling", "grid"),
    "controls": ("controls", "grid"),
    "centres": ("centres", "grid"),
    "calibration": ("calibration", "grid"),
    "reliability": ("reliability", "grid"),
    "ranks": ("ranks", "sample"),
    "fidelity": ("fidelity", "sample"),
    "memorisation": ("copies", "sample"),
    "planted": ("planted_copies", "sample"),
    "nearest": ("worst_copies", "sample"),
    "embedding": ("embedding", "report"),
    "stages": ("stages", "sources"),
    "cost": ("cost", "sources"),
    "notes": ("notes", "sources"),
}
"""Table here: its name in `tables/`, and the stage that writes it."""

OTHER_FILES: Mapping[str, str] = {
    "catalog": "sources",
    "audit": "sources",
    "trials": "lora",
    "synthetic": "sample",
    "plan": "sources",
}
"""Files outside `tables/` and the stage that writes them."""

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "ranks": {
        "agreement": "recognised",
        "agreement_euler": "recognised_euler",
        "agreement_unipc": "recognised_unipc",
        "agreement_base": "recognised_base",
    },
    "subgroups": {"group": "by"},
    "calibration": {"ece_calibrated": "ece_by_chance"},
    "fidelity": {"kid_std": "kid_deviation"},
    "memorisation": {"share_expected": "share_by_chance"},
}
"""Column here: its name in the file, by table; columns that are not listed have the same name in both."""


def stage_of(name: str) -> str:
    """Return the stage that writes a table or file."""
    return TABLES[name][1] if name in TABLES else OTHER_FILES.get(name, name)


def named(name: str, rows: list[Row]) -> list[Row]:
    """Return the rows of a table with the report's column names."""
    here = {column: shown for shown, column in COLUMNS.get(name, {}).items()}
    return [{here.get(column, column): value for column, value in row.items()} for row in rows] if here else rows
