"""What synthetic images change, as the terminal says it after a run: the endpoint first, no claim of one training.

In: a run's table `headline`. Out: lines of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows

_SHOWN = ("accuracy", "f1")
_WORDS = {"recall": "balanced accuracy", "f1": "F1", "auc": "AUC"}


def print_headline(paths: RunPaths, console: Console) -> None:
    """Print the primary endpoint, then accuracy and F1 of each comparison; nothing without the table."""
    if not paths.table("headline").is_file():
        return
    rows = read_rows(paths.table("headline"), "headline")
    primary = [row for row in rows if row["primary"]]
    if rows:
        console.print("\nWith synthetic images against without, mean over models, percentage points", style="bold")
    for row in [*primary, *(r for r in rows if r["metric"] in _SHOWN and not r["primary"])]:
        console.print(line(row) + (" (primary endpoint)" if row["primary"] else ""), soft_wrap=True)
    for row in primary or rows[:1]:
        console.print(reading(row), style="dim", soft_wrap=True)


def line(row: Mapping[str, Any]) -> str:
    """Return a difference with its interval: `HB+DA - ES+DA, F1: +2.1 (95 %: -1.0 to +5.2)`."""
    what = f"{row['regime']} - {row['reference']}, {_WORDS.get(row['metric'], row['metric'])}"
    if row["change"] is None:
        return f"{what}: not known"
    ends = "no interval" if row["low"] is None else f"95 %: {row['low']:+.1f} to {row['high']:+.1f}"
    return f"{what}: {row['change']:+.1f} ({ends})"


def reading(row: Mapping[str, Any]) -> str:
    """Return whether synthetic images help, harm, or neither, as far as a row tells."""
    if row["change"] is None:
        return "no difference can be given: in every model a cell collapsed to one class"
    if row["low"] is None:
        return "no interval: all test images are of one patient"
    left = f"; left out, as they collapsed: {row['models_collapsed']}" if row["models_collapsed"] else ""
    if row["significant"] is None:
        needed = row["replicates_needed"]
        more = f"; about {needed} --replicates would find a difference of 5 points" if needed else ""
        return (
            f"each classifier was trained once: variation between trainings is unknown, nothing is claimed{more}{left}"
        )
    over = f"over {row['covers']} ({row['num_trainings']} trainings per cell)"
    if not row["significant"]:
        return f"neither help nor harm is shown {over}{left}"
    return f"synthetic images {'help' if row['change'] > 0 else 'harm'} here, {over}{left}"
