"""A run beside the paper's Tables 1 and 2, and those tables as files.

In: a run's tables, predictions and plan.json, `fulora.evaluate.published`. Out: tables/compare.parquet and
regime_errors.parquet, a `Comparison` to print; the published tables, and what their errors consist of, as Parquet, CSV
and Markdown. Reads no images and follows no path stored in a run.
The AUC compared is `auc_published`, the paper's formula applied to the run's predictions; the run's own AUC, from
probabilities, measures something else and is compared with nothing.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulora.data.regimes import HYBRIDS
from fulora.diffusion.base_files import RANDOM, TINY
from fulora.errors import InputError, fault
from fulora.evaluate.plausibility import NUM_TEST, check_row
from fulora.evaluate.published import published_table1, published_table2
from sweeps.core.paths import RunPaths
from sweeps.core.tables import METRICS, read_rows, write_table
from sweeps.publish.decomposition import paper_errors, printed_errors, run_errors
from sweeps.publish.export import export
from sweeps.publish.settings import other_settings
from sweeps.publish.yardstick import Spread, spread, training_scores
from sweeps.report.files import RunFiles, read_run
from sweeps.report.verdict import FROM_SCRATCH
from sweeps.scores.predictions import read_predictions

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
    errors: list[dict[str, Any]]
    """Rows of the table `regime_errors`: the paper's, then the run's."""


def compare(paths: RunPaths) -> Comparison:
    """Return a run beside the paper and write it to the run's tables/compare.parquet and tables/regime_errors.parquet.

    Raises InputError where the run has neither table yet, or one that cannot be read.
    """
    present = [name for name in _PUBLISHED if paths.table(name).is_file()]
    if not present:
        remedy = "Run the command that began the run again: it trains the classifiers that are missing."
        raise InputError(fault("run", str(paths.root), "has no tables to compare yet", remedy))
    tables = {name: read_rows(paths.table(name), name) for name in present}
    trained, errors = dict[str, dict[str, float]](), paper_errors()
    with suppress(InputError):  # none or damaged: the tables are compared without predictions
        test, predicted = read_predictions(paths.predictions)
        trained = training_scores(test, predicted)
        errors += run_errors(test, predicted, tables)
    run, rows, num_absent, reasons = read_run(paths), [], 0, Counter[str]()
    for name in _PUBLISHED:
        for paper in published_rows(name):
            mine = _row_of(tables.get(name, []), paper)
            if mine is None:
                num_absent += 1
            else:
                found = _differences(mine, paper, run)
                reasons.update(found)
                group = [trained[i] for i in (mine.get("trial_ids") or "").split(", ") if i in trained]
                why_not = "; ".join(found) or None
                rows += [_beside(name, metric, mine, paper, why_not, spread(group, metric)) for metric in METRICS]
    write_table(paths.table("compare"), "compare", rows)
    write_table(paths.table("regime_errors"), "regime_errors", errors)
    num_rows = len(rows) // len(METRICS)
    return Comparison(rows=rows, reasons=dict(reasons), num_rows=num_rows, num_absent=num_absent, errors=errors)


def _row_of(rows: Sequence[Mapping[str, Any]], paper: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the run's row of a printed one; None where it has no scores.

    Table 2 prints HB with 6148 Spanish images: where a run has that regime too, it is the one to compare.
    """
    found = [
        r for r in rows if HYBRIDS.get(r["regime"], r["regime"]) == paper["regime"] and r["model"] == paper["model"]
    ]
    found = [r for r in found if r["accuracy"] is not None]
    alike = [r for r in found if all((r.get(name) or 0) == paper[name] for name in _COUNTS)]
    own = [r for r in found if r["regime"] == paper["regime"]]
    return next(iter([*alike, *own, *found]), None)


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
    return found + other_settings(run.experiment, with_synthetic=bool(mine["num_synthetic"]))


def _beside(
    table: str, metric: str, mine: Mapping[str, Any], paper: Mapping[str, Any], why_not: str | None, found: Spread
) -> dict[str, Any]:
    ours = mine.get("auc_published" if metric == "auc" else metric)
    inside = None if found.low is None or found.high is None else bool(found.low <= paper[metric] <= found.high)
    return {
        "table": table, "regime": paper["regime"], "model": paper["model"], "metric": metric,
        "run_regime": mine["regime"], "ours": ours, "num_trainings": found.num_trainings, "deviation": found.deviation,
        "low": found.low, "high": found.high, "paper": paper[metric],
        "difference": None if ours is None else ours - paper[metric],
        "inside": inside,
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
    """Write both published tables and what their errors consist of to a folder; return the files written.

    As Parquet, CSV and Markdown.
    """
    with tempfile.TemporaryDirectory() as scratch:
        paths = RunPaths(Path(scratch))
        for name in _PUBLISHED:
            write_table(paths.table(name), "published", published_rows(name))
        write_table(paths.table("printed_errors"), "printed_errors", printed_errors())
        write_table(paths.table("regime_errors"), "regime_errors", paper_errors())
        return export(paths, to, ("parquet", "csv", "markdown"))
