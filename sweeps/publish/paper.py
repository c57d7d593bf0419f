"""A run beside the paper's Tables 1 and 2, and those tables as files.

In: a run's tables and plan.json, `fulora.evaluate.published`. Out: tables/compare.parquet, a `Comparison` to print;
the published tables as Parquet, CSV and Markdown. Reads no images and follows no path stored in a run.
The AUC compared is `auc_published`, the paper's formula applied to the run's predictions; the run's own AUC, from
probabilities, measures something else and is compared with nothing.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora.diffusion.base_files import RANDOM, TINY
from fulora.errors import InputError, fault
from fulora.evaluate.plausibility import NUM_TEST, check_row
from fulora.evaluate.published import published_table1, published_table2
from sweeps.paths import RunPaths
from sweeps.report.files import RunFiles, read_run
from sweeps.report.verdict import FROM_SCRATCH
from sweeps.tables import METRICS, export, read_rows, write_table

SOURCE = "arXiv 2407.20072"
"""Where the published figures are from."""

_COUNTS = ("num_es", "num_af", "num_synthetic")
_PUBLISHED = {"table1": (published_table1, f"{SOURCE}, Table 1"), "table2": (published_table2, f"{SOURCE}, Table 2")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A run beside the paper."""

    rows: list[dict[str, Any]]
    """Rows of the table `compare`: one per row of the paper that the run has, and metric."""
    reasons: dict[str, int]
    """Why rows cannot be compared with the paper's, and how many rows each reason holds for; empty where all can be."""
    num_rows: int
    """Rows of the paper that the run has scores of."""
    num_absent: int
    """Rows of the paper that the run has no scores of."""


def compare(paths: RunPaths) -> Comparison:
    """Return a run beside the paper and write it to the run's tables/compare.parquet.

    Raises InputError where the run has neither table yet, or one that cannot be read.
    """
    present = [name for name in _PUBLISHED if paths.table(name).is_file()]
    if not present:
        remedy = "Run the command that began the run again: it trains the classifiers that are missing."
        raise InputError(fault("run", str(paths.root), "has no tables to compare yet", remedy))
    ours = {(name, r["regime"], r["model"]): r for name in present for r in read_rows(paths.table(name), name)}
    run, rows, num_absent, reasons = read_run(paths), [], 0, Counter[str]()
    for name in _PUBLISHED:
        for paper in published_rows(name):
            mine = ours.get((name, paper["regime"], paper["model"]))
            if mine is None or mine["accuracy"] is None:
                num_absent += 1
            else:
                found = _differences(mine, paper, run)
                reasons.update(found)
                rows += [_beside(name, metric, mine, paper, "; ".join(found) or None) for metric in METRICS]
    write_table(paths.table("compare"), "compare", rows)
    return Comparison(rows=rows, reasons=dict(reasons), num_rows=len(rows) // len(METRICS), num_absent=num_absent)


def _differences(mine: Mapping[str, Any], paper: Mapping[str, Any], run: RunFiles) -> list[str]:
    """Return what sets a row apart from the paper's row of the same name; empty where they can be compared."""
    says = {True: "are phantoms, simulated, of no patient", None: "are of an unknown source"}
    kinds = {source: run.on_phantoms(source) for source in ("spanish", "african")}
    found = [f"the {source.capitalize()} images {says[kind]}" for source, kind in kinds.items() if kind is not False]
    if FROM_SCRATCH in (mine["weights"] or FROM_SCRATCH):
        found.append("classifiers start from scratch, not from ImageNet weights")
    base = str(run.experiment.get("base") or "unknown")
    if mine["num_synthetic"] and base in (TINY, RANDOM, "unknown"):
        found.append(f"synthetic images by the base {base}, not Stable Diffusion 1.5")
    if any((mine.get(name) or 0) != paper[name] for name in _COUNTS):
        found.append("other numbers of training images")
    if mine["num_test"] != paper["num_test"]:
        found.append(f"tested on {mine['num_test']} images, not {paper['num_test']}")
    return found


def _beside(
    table: str, metric: str, mine: Mapping[str, Any], paper: Mapping[str, Any], why_not: str | None
) -> dict[str, Any]:
    column = "auc_published" if metric == "auc" else metric
    ours, low, high = (mine.get(column + end) for end in ("", "_low", "_high"))
    bounded = None not in (ours, low, high)  # auc_published has no interval
    return {
        "table": table, "regime": paper["regime"], "model": paper["model"], "metric": metric,
        "ours": ours, "low": low, "high": high, "paper": paper[metric],
        "difference": None if ours is None else ours - paper[metric],
        "inside": bool(low <= paper[metric] <= high) if bounded else None,
        "paper_doubt": check_row(paper).doubt(metric), "comparable": why_not is None, "why_not": why_not,
        **{name: mine.get(name) or 0 for name in _COUNTS}, "num_test": mine["num_test"],
        **{f"paper_{name}": paper[name] for name in (*_COUNTS, "num_test")},
    }  # fmt: skip


def published_rows(table: str) -> list[dict[str, Any]]:
    """Return the rows of the schema `published` of `table1` or `table2`: as printed, and what the check says."""
    read, source = _PUBLISHED[table]
    rows: list[dict[str, Any]] = []
    for row in read():
        verdict = check_row(row)
        kept = {name: value for name, value in row.items() if name != "auc_doubt"}
        about = {"num_test": NUM_TEST, "auc_fits": verdict.auc_fits, "doubt": verdict.doubt(), "source": source}
        rows.append({**kept, **about})
    return rows


def write_published(to: Path) -> list[Path]:
    """Write both published tables to a folder as Parquet, CSV and Markdown; return the files written."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = RunPaths(Path(scratch))
        for name in _PUBLISHED:
            write_table(paths.table(name), "published", published_rows(name))
        return export(paths, to, ("parquet", "csv", "markdown"))
