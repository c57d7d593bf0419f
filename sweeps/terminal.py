"""What the verbs print on standard output: tables that fit 80 columns.

In: a run's files, or a plan. Out: text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fulora.errors import InputError, raise_if_any
from fulora.experiment import Experiment
from sweeps.paths import RunPaths
from sweeps.tables import METRICS, read_rows
from sweeps.trials import latest_success, read_attempts

if TYPE_CHECKING:
    from sweeps.publish.paper import Comparison

_METRIC_WORDS = {"f1": "F1", "auc": "AUC"}


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def _grid(columns: list[str], numbers_from: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index >= numbers_from else "left", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.1f}"


def print_outcome(paths: RunPaths, until: str) -> None:
    """Print what a run has come to: ranks after sampling, Table 1 after the grid, the report's path at the end."""
    console = _console()
    if until in ("sample", "grid", "report") and paths.table("ranks").is_file():
        _print_ranks(paths, console)
    if until in ("grid", "report"):
        _print_scores(paths, console)
    if until == "search":
        _print_search(paths, console)
    console.print(f"\nrun: {paths.root}", soft_wrap=True)
    if until == "report":
        console.print(f"report: {paths.report}", soft_wrap=True)


def _print_search(paths: RunPaths, console: Console) -> None:
    rows = read_rows(paths.table("search"), "search")
    console.print("Candidates, best first, by the loss on patients LoRA does not see", style="bold")
    table = _grid(["held out", "rank", "alpha", "rate", "steps", "layers", "status"], 0)
    for row in rows:
        stopped = f" at {row['stopped_at_step']}" if row["stopped_at_step"] else ""
        table.add_row(
            f"{row['heldout_loss']:.4f}", str(row["rank"]), f"{row['alpha']:g}", f"{row['learning_rate']:.1e}",
            str(row["num_steps"]), row["targets"], row["status"].lower() + stopped,
        )  # fmt: skip
    console.print(table)


def _print_ranks(paths: RunPaths, console: Console) -> None:
    rows = read_rows(paths.table("ranks"), "ranks")
    console.print("Synthetic images that show the plane asked for (%), by the judge", style="bold")
    table = _grid(["rank", "adapter", "base", "loss", "seconds"], 0)
    for row in rows:
        mark = "*" if row["chosen"] else ""
        table.add_row(
            f"{mark}{row['rank']}", _number(row["recognised"]), _number(row["recognised_base"]),
            f"{row['final_loss']:.4f}", f"{row['seconds']:.0f}",
        )  # fmt: skip
    console.print(table)
    console.print(f"judge: {rows[0]['judge']}, {rows[0]['judge_accuracy']:.1f} % on held-out images", style="dim")
    console.print("* sampled for training\n", style="dim")


def _print_scores(paths: RunPaths, console: Console) -> None:
    rows = read_rows(paths.table("table1"), "table1")
    names = ["data", "model", "#ES", "#syn", "#pat", "ACC", "95 %", "Rec", "Pre", "F1", "AUC"]
    console.print("Table 1: zero-shot on the African test images (%)", style="bold")
    table = _grid(names, 2)
    for row in rows:
        counts = [str(row[n]) if row[n] is not None else "-" for n in ("num_es", "num_synthetic", "num_patients")]
        low, high = row["accuracy_low"], row["accuracy_high"]
        interval = "-" if low is None else f"{low:.0f}-{high:.0f}"
        accuracy, *others = (_number(row[name]) for name in METRICS)
        table.add_row(row["regime"], row["model"], *counts, accuracy, interval, *others)
    console.print(table)
    weights = sorted({str(r["weights"]) for r in rows if r["weights"]})
    num_test = sorted({r["num_test"] for r in rows if r["num_test"]})
    tested = ", ".join(map(str, num_test)) or "no"
    console.print(f"{tested} test images; weights: {'; '.join(weights)}", style="dim", soft_wrap=True)


def print_plan(experiment: Experiment, folder: Path) -> None:
    """Print every trial and image set of an experiment, and which are done in the folder; starts nothing.

    Trial ids need the data's hash: without data (or phantoms already made) they are left out.
    """
    from dataclasses import replace

    from fulora.data.audit import without_duplicates
    from fulora.data.sources import read_source
    from fulora.diffusion.base_files import check_base
    from sweeps.catalog import read_catalog
    from sweeps.experiment import make_plan

    raise_if_any(replace(experiment, data_required=False).faults())
    check_base(experiment.base, allow_pickle=experiment.allow_pickle)
    paths, records = RunPaths(folder), None
    if experiment.spanish is not None and experiment.african is not None:
        records = [
            *read_source(experiment.spanish, source="spanish"),
            *read_source(experiment.african, source="african"),
        ]
        if experiment.drop_duplicates:
            records = without_duplicates(records)[0]
    elif paths.catalog.is_file():
        records = read_catalog(paths)
    plan, done = make_plan(experiment, records), latest_success(paths)
    console = _console()
    console.print(f"recipe {experiment.recipe}, seed {experiment.seed}, base {experiment.base}", soft_wrap=True)
    table = _grid(["stage", "trial", "id", "state"], 9)
    for trial in plan.trials:
        state = "done" if trial.trial_id in done else "to do"
        table.add_row(trial.stage, trial.label, trial.trial_id if records is not None else "-", state)
    for which in plan.images:
        count = which.num_images
        table.add_row("sample", f"{which.label}: {count} images", "-", "to train on" if which.chosen else "to compare")
    console.print(table)
    sampled = sum(s.num_images for s in plan.images)
    summary = f"{len(plan.lora)} rank trials and a judge, {sampled} images, {len(plan.grid)} classifier trials"
    console.print(f"\n{summary}", soft_wrap=True)
    if records is None:
        console.print("no data was read: ids need the images (give --spanish and --african, or run the demo first)")


def print_status(paths: RunPaths) -> None:
    """Print, per stage, how many trials of the plan are done, failed and missing, and the last failures."""
    plan, attempts, done = json.loads(paths.plan.read_text()), read_attempts(paths), latest_success(paths)
    console = _console()
    console.print(f"{paths.root}: recipe {plan['recipe']}, seed {plan['seed']}", soft_wrap=True)
    table = _grid(["stage", "planned", "done", "failed", "cancelled", "missing"], 1)
    latest = {a.trial_id: a for a in attempts}
    for stage in ("judge", "lora", "grid"):
        ids = [t["trial_id"] for t in plan["trials"] if t["stage"] == stage]
        states = [latest[i].status if i in latest and i not in done else None for i in ids]
        finished = sum(i in done for i in ids)
        table.add_row(
            stage,
            *map(str, (len(ids), finished, states.count("FAILED"), states.count("CANCELLED"), len(ids) - finished)),
        )
    planned = sum(s["num_images"] for s in plan["images"])
    sampled = 0
    for which in plan["images"]:
        file = (paths.synthetic if which["chosen"] else paths.images(which["label"])) / "metadata.parquet"
        try:
            sampled += len(read_rows(file, "metadata"))
        except InputError:
            continue
    table.add_row("images", str(planned), str(sampled), "-", "-", str(planned - sampled))
    console.print(table)
    for trial in plan["trials"]:
        last = latest.get(trial["trial_id"])
        if last is not None and last.status == "FAILED" and trial["trial_id"] not in done:
            console.print(f"{last.label}: {last.error_type}: {last.error_message}", soft_wrap=True)
    if paths.report.is_file():
        console.print(f"report: {paths.report}", soft_wrap=True)


def print_comparison(found: Comparison, metrics: Sequence[str]) -> None:
    """Print a run beside the paper: a table per published table and metric, the training images, the doubts."""
    console = _console()
    _print_reasons(found, console)
    for table in ("table1", "table2"):
        for metric in metrics:
            rows = [r for r in found.rows if (r["table"], r["metric"]) == (table, metric)]
            if rows:
                _print_beside(f"Table {table[-1]}, {_METRIC_WORDS.get(metric, metric)}", rows, console)
    _print_training_images(found, console)
    shown = [r for r in found.rows if r["metric"] in metrics and r["paper_doubt"]]
    for row in shown:
        where = f"Table {row['table'][-1]}, {row['regime']}, {row['model']}"
        console.print(f"† {where}: {row['paper_doubt']}")
    hidden = [r for r in found.rows if r["metric"] not in metrics and r["paper_doubt"]]
    for metric, num in Counter(r["metric"] for r in hidden).items():
        what = _METRIC_WORDS.get(metric, metric)
        console.print(f"{num} published figures of {what} are doubtful: --metric {metric} says why", style="dim")
    if "auc" in metrics:
        words = "AUC here: hard labels, by the paper's formula. The AUC from scores is not bounded and not compared."
        console.print(words, style="dim")


def _print_reasons(found: Comparison, console: Console) -> None:
    """Say first, and loudly, what forbids a comparison."""
    if found.num_absent:
        console.print(f"{found.num_absent} of the paper's rows are not in this run")
    if not found.reasons:
        return
    alike = len({(r["table"], r["regime"], r["model"]) for r in found.rows if r["comparable"]})
    which = "ALL ROWS" if not alike else f"{found.num_rows - alike} OF {found.num_rows} ROWS"
    console.print(f"{which} NOT COMPARABLE: the differences say nothing about the paper", style="bold red")
    for reason, num in found.reasons.items():
        console.print(f"  - {reason} ({'all' if num == found.num_rows else f'{num} of {found.num_rows}'} rows)")
    console.print()


def _print_beside(title: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    console.print(f"{title} (%)", style="bold")
    table = _grid(["data", "model", "here", "95 %", "paper ", "differ", "paper is", "comparable"], 2)
    verdicts = []
    for row in rows:
        low, high, difference = row["low"], row["high"], row["difference"]
        bounded = row["inside"] is not None
        verdicts.append("without one" if not bounded else "inside" if row["inside"] else _side(row))
        table.add_row(
            row["regime"], row["model"], "-" if row["ours"] is None else f"{row['ours']:.2f}",
            f"{low:.1f}-{high:.1f}" if bounded else "-", f"{row['paper']:.2f}{'†' if row['paper_doubt'] else ' '}",
            "-" if difference is None else f"{difference:+.2f}", verdicts[-1] if bounded else "-",
            "yes" if row["comparable"] else "no",
        )  # fmt: skip
    console.print(table)
    counts = Counter(verdicts)
    told = ", ".join(f"{counts[v]} {v}" for v in ("inside", "below", "above", "without one") if counts[v])
    console.print(f"differ: here - paper; the paper's figures against our intervals: {told}\n", style="dim")


def _side(row: Mapping[str, Any]) -> str:
    return "above" if row["paper"] > row["high"] else "below"


def _print_training_images(found: Comparison, console: Console) -> None:
    names = (("num_es", "ES"), ("num_af", "AF"), ("num_synthetic", "syn"))
    lines: dict[tuple[str, ...], None] = {}
    for row in found.rows:
        sides = []
        for prefix in ("", "paper_"):
            sides.append(" + ".join(f"{row[prefix + name]} {what}" for name, what in names if row[prefix + name]))
            sides.append(str(row[f"{prefix}num_test"]))
        lines[f"Table {row['table'][-1]}", row["regime"], *sides] = None
    console.print("Images trained and tested on", style="bold")
    table = _grid(["", "data", "here", "test", "paper", "test"], 6)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print()
