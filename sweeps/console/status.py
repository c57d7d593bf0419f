"""What `plan` and `status` print: the steps of a study, and how far a run has come.

In: an experiment, or a run's files. Out: text that fits 80 columns. Neither starts anything.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fulora.data.audit import without_duplicates
from fulora.data.records import ImageRecord
from fulora.data.sources import read_source
from fulora.diffusion.base_files import check_base
from fulora.errors import InputError, fault, raise_if_any
from fulora.experiment import Experiment
from fulora.replicates import of_replicate
from sweeps.console.outlook import in_words
from sweeps.console.terminal import grid, new_console
from sweeps.core.attempts import Attempt, AttemptLog
from sweeps.core.gpu_hours import gpu_hours
from sweeps.core.lock import is_running, plan_of
from sweeps.core.paths import RunPaths
from sweeps.core.step import STAGES, Step
from sweeps.core.store import DONE, Damaged, Store
from sweeps.grid.cells import cell_label, cells_of, control_cells
from sweeps.images.sets import repeated_set, synthetic_sets
from sweeps.ranks.plan import judge_step, rank_steps, repeated_step
from sweeps.sources.catalog import read_catalog
from sweeps.study import make_plan, plan_catalog

_FOLLOW_EVERY = 2.0
"""Seconds between two looks of `status --follow`."""


def print_plan(experiment: Experiment, folder: Path) -> None:
    """Print every trial and image set of an experiment, and which trials are done in the folder.

    Trial ids need the images: without data (or phantoms already made) they are left out.
    """
    raise_if_any(replace(experiment, data_required=False).validate())
    check_base(experiment.base, allow_pickle=experiment.allow_pickle)
    store = RunPaths(folder).store
    records = records_of(experiment, store)
    console = new_console()
    console.print(f"recipe {experiment.recipe}, seed {experiment.seed}, base {experiment.base}", soft_wrap=True)
    table = grid(["stage", "trial", "id", "state"], 9)
    if records is None:
        ranks, numbers = rank_steps(experiment, None, None), range(experiment.replicates)
        adapters = {number: repeated_step(experiment, number, None).step for number in numbers[1:]}
        sets = synthetic_sets(experiment, ranks)
        sets += [repeated_set(of_replicate(experiment, n), adapter, n) for n, adapter in adapters.items()]
        steps = [judge_step(experiment, None), *ranks, *adapters.values()]
        rows = [(step.kind.name, step.label) for step in steps]
        cells = cells_of(experiment) + [
            c for of_base in (False, True) for c in control_cells(experiment, of_base=of_base)
        ]
        rows += [("grid", cell_label(cell, experiment, n)) for n in numbers for cell in cells]
        for stage, label in rows:
            table.add_row(stage, label, "-", "to do")
    else:
        plan = make_plan(experiment, records)
        sets = [*plan.sets, *(each.images for each in plan.replicates)]
        for step in plan.trials:
            table.add_row(step.kind.name, step.label, step.key, "done" if _is_done(store, step) else "to do")
        rows = [(step.kind.name, step.label) for step in plan.trials]
    for which in sets:
        state = "to train on" if which.chosen else "to compare"
        table.add_row("sample", f"{which.label}: {which.num_images} images", "-", state)
    console.print(table)
    counts = Counter(stage for stage, _ in rows)
    sampled = sum(which.num_images for which in sets)
    summary = f"{counts['lora']} rank trials and a judge, {sampled} images, {counts['grid']} classifier trials"
    console.print(f"\n{summary}", soft_wrap=True)
    if records is None:
        console.print("no data was read: ids need the images (give --spanish and --african, or run the demo first)")


def records_of(experiment: Experiment, store: Store) -> list[ImageRecord] | None:
    """Return the catalog's records: of the run where it has them, else read from the folders; None without either."""
    catalog = plan_catalog(experiment)
    if _is_done(store, catalog):
        return read_catalog(store.folder(catalog), store.root)
    if experiment.spanish is None or experiment.african is None:
        return None
    records = [
        *read_source(experiment.spanish, source="spanish"),
        *read_source(experiment.african, source="african"),
    ]
    return without_duplicates(records)[0] if experiment.drop_duplicates else records


def _is_done(store: Store, step: Step) -> bool:
    try:
        return store.done(step) is not None
    except Damaged:
        return False


def print_status(paths: RunPaths, *, follow: bool = False) -> None:
    """Print, per stage, how many steps are done, failed and missing, what runs now, and the last failures.

    With `follow`, again every two seconds until nothing runs.
    """
    console = new_console()
    while True:
        now = _now(paths)
        if follow and console.is_terminal:
            console.clear()
        _print_once(paths, now, console)
        if not follow or now is None:
            return
        time.sleep(_FOLLOW_EVERY)


def _print_once(paths: RunPaths, now: dict[str, Any] | None, console: Console) -> None:
    plan, log = plan_of(paths), AttemptLog(paths.attempts)
    if plan is None:
        remedy = "Run the command that began the run again: it writes it."
        raise InputError(fault("run", str(paths.root), "has a plan.json that cannot be read", remedy))
    console.print(f"{paths.root}: recipe {plan['recipe']}, seed {plan['seed']}", soft_wrap=True)
    latest = {a.trial_id: a for a in log.attempts}
    folders = paths.root / "steps"
    done = {s["key"]: (folders / s["kind"] / s["key"] / DONE).is_file() for s in plan["steps"]}
    table = grid(["stage", "planned", "done", "failed", "cancelled", "blocked", "missing"], 1)
    for stage in STAGES:
        keys = [s["key"] for s in plan["steps"] if s["stage"] == stage and s["kind"] != "selection"]
        states = Counter(latest[k].status for k in keys if k in latest and not done[k])
        finished = sum(done[k] for k in keys)
        counts = (len(keys), finished, states["FAILED"], states["CANCELLED"], states["BLOCKED"], len(keys) - finished)
        table.add_row(stage, *map(str, counts))
    console.print(table)
    if now is not None:
        _print_running(now, console)
    elif used := gpu_hours(log.attempts):
        console.print(f"GPU-hours used: {used:.2f}")
    _print_failures([a for k, a in latest.items() if a.status == "FAILED" and not done.get(k, True)], console)
    if paths.report.is_file():
        console.print(f"report: {paths.report}", soft_wrap=True)


def _print_running(now: dict[str, Any], console: Console) -> None:
    words = in_words(now)
    left = f", {words}" if words else ""
    console.print(f"running: {now['num_done']} of {now['num_steps']} steps done{left}", style="bold")
    table = grid(["step", "node", "device", "done", ""], 3)
    for step in now["running"]:
        device = step.get("device") or "-"
        table.add_row(step["label"][:34], (step.get("node") or "-")[-8:], device, f"{step['fraction']:.0%}",
                      step["note"][:24])  # fmt: skip
    console.print(table)


def _print_failures(failed: Sequence[Attempt], console: Console) -> None:
    for attempt in failed:
        console.print(f"{attempt.label}: {attempt.error_type}: {attempt.error_message}", soft_wrap=True)


def _now(paths: RunPaths) -> dict[str, Any] | None:
    """Return what runs now; None where nothing does: the run's lock tells, whatever a killed run left."""
    if not is_running(paths):
        return None
    try:
        return json.loads(paths.now.read_text())
    except (OSError, ValueError):
        return {"num_done": 0, "num_steps": 0, "seconds_left": None, "running": []}
