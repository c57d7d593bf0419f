"""What the verbs print on standard output: tables that fit 80 columns.

In: a run's files, or a plan. Out: text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sweeps.console.headline import print_headline
from sweeps.core.paths import RunPaths
from sweeps.core.tables import METRICS, read_rows

if TYPE_CHECKING:
    from sweeps.publish.paper import Comparison

_METRIC_WORDS = {"f1": "F1", "auc": "AUC"}


def new_console() -> Console:
    return Console(highlight=False, soft_wrap=False)


def grid(columns: list[str], numbers_from: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index >= numbers_from else "left", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.1f}"


def print_outcome(paths: RunPaths, until: str) -> None:
    """Print what a run has come to: ranks after sampling, Table 1 after the grid, the report's path at the end."""
    console = new_console()
    if until in ("sample", "grid", "report") and paths.table("ranks").is_file():
        _print_ranks(paths, console)
    if until in ("grid", "report"):
        _print_scores(paths, console)
        print_headline(paths, console)
    if until == "search":
        _print_search(paths, console)
    console.print(f"\nrun: {paths.root}", soft_wrap=True)
    if until == "report":
        console.print(f"report: {paths.report}", soft_wrap=True)


def _print_search(paths: RunPaths, console: Console) -> None:
    rows = read_rows(paths.table("search"), "search")
    console.print("Candidates, best first, by held-out loss (patients LoRA is not trained on)", style="bold")
    table = grid(["held out", "rank", "alpha", "rate", "steps", "layers", "status"], 0)
    for row in rows:
        stopped = f" at {row['stopped_at_step']}" if row["stopped_at_step"] else ""
        table.add_row(
            f"{row['heldout_loss']:.4f}", str(row["rank"]), f"{row['alpha']:g}", f"{row['learning_rate']:.1e}",
            str(row["num_steps"]), row["targets"], row["status"].lower() + stopped,
        )  # fmt: skip
    console.print(table)


def _print_ranks(paths: RunPaths, console: Console) -> None:
    rows = read_rows(paths.table("ranks"), "ranks")
    console.print("Synthetic images recognised as the plane of their prompt (%), by the judge", style="bold")
    table = grid(["rank", "adapter", "base", "loss", "seconds"], 0)
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
    table = grid(names, 2)
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
    covers = sorted({str(r["covers"]) for r in rows if r["covers"]})
    numbers = sorted({r["num_trainings"] for r in rows if r["num_trainings"]})
    trained = f"{' or '.join(map(str, numbers)) or 'no'} training{'' if numbers == [1] else 's'} per row"
    console.print(f"95 %: over {'; or '.join(covers) or 'nothing'}; {trained}", style="dim", soft_wrap=True)
    for row in rows:
        if row["num_collapsed"]:
            words = f"{row['regime']}, {row['model']}: {row['num_collapsed']} of {row['num_trainings']} trainings"
            console.print(f"{words} collapsed to one class", style="dim", soft_wrap=True)


def print_comparison(found: Comparison, metrics: Sequence[str]) -> None:
    """Print a run beside the paper: a table per published table and metric, the training images, the doubts."""
    console = new_console()
    _print_errors(found, console)
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


def _print_errors(found: Comparison, console: Console) -> None:
    """Say before any score what its errors consist of: most are of a class that is never tested."""
    from sweeps.publish.decomposition import in_words

    console.print("Test images predicted as Other, and as a wrong plane (%, mean over models)", style="bold")
    table = grid(["", "data", "#ES", "#syn", "models", "ACC", "Other", "wrong plane"], 2)
    for row in found.errors:
        where = f"{row['source']}, Table {row['table'][-1]}"
        counts = [str(row[name]) for name in ("num_es", "num_synthetic", "num_models")]
        shares = [f"{row[name]:.1f}" for name in ("accuracy", "share_other", "share_wrong_plane")]
        table.add_row(where, row["regime"], *counts, *shares)
    console.print(table)
    for source in dict.fromkeys(row["source"] for row in found.errors):
        if words := in_words([row for row in found.errors if row["source"] == source]):
            console.print(words)
    console.print()


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
    table = grid(["data", "model", "here", "another", "paper ", "differ", "paper is", "comparable"], 2)
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
    words = "another: where 95 % of further trainings fall; the paper's figures against it"
    console.print(f"differ: here - paper; {words}: {told}\n", style="dim")


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
    table = grid(["", "data", "here", "test", "paper", "test"], 6)
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print()
