"""A run's folder as people read it: `adapters/rank-008`, `synthetic/`, `tables/`, ... are views of the steps' files.

In: a plan and the store. Out: links and, where a file joins what two steps wrote, the file itself. Repeated, it
changes what differs and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeps.core.files import atomic_path, remove, write_json
from sweeps.core.hashing import content_hash, to_jsonable
from sweeps.core.paths import RunPaths, rank_label, replicate_label
from sweeps.core.step import Step
from sweeps.core.store import Store
from sweeps.core.tables import AUDITED, SCHEMAS, write_table
from sweeps.images.quality import audited_columns
from sweeps.images.quality_plan import QUALITY
from sweeps.images.rows import drawn_rows
from sweeps.images.sets import SyntheticSet
from sweeps.scores.plan import SCORES
from sweeps.study import IsDone, Plan

_TOP_FILES = ("predictions.parquet", "catalog.parquet", "audit.parquet")
"""Files that lie at the top, not in tables/."""
_OF_NO_STEP = ("stages", "notes", "steps", "search", "compare", "regime_errors")
_ROWS = "metadata.parquet"


def show(plan: Plan, summaries: Iterable[Step], paths: RunPaths, is_done: IsDone, say: Callable[[str], None]) -> None:
    """Make the run's folder show what is done of a plan; `say` is told of a table that was damaged."""
    store, summaries = paths.store, list(summaries)
    if "phantoms" in plan.catalog.needs:
        link_folder(paths.phantoms, store.folder(plan.catalog.need("phantoms")))
    link_file(paths.catalog, store.folder(plan.catalog) / "catalog.parquet")
    for audit in (plan.targets("sources")[1], plan.audit):
        if is_done(audit):
            link_file(paths.audit, store.folder(audit) / "audit.parquet")
    if is_done(plan.judge):
        link_folder(paths.judge, store.folder(plan.judge))
    shown = {rank_label(step.config.lora.rank): step for step in plan.ranks if is_done(step)}
    shown |= {replicate_label(each.number): each.adapter for each in plan.replicates if is_done(each.adapter)}
    for label, step in shown.items():
        link_folder(paths.adapters / label, store.folder(step))
    _remove_others(paths.adapters, shown)
    quality = next((step for step in summaries if step.kind.name == QUALITY.name and is_done(step)), None)
    for which in plan.sets:
        if all(is_done(step) for step in which.steps):
            folder = paths.synthetic if which.chosen else paths.images(which.label)
            if not show_images(which, folder, store, quality):
                say(f"damaged, written again: {(folder / _ROWS).relative_to(paths.root)}")
    repeated = [each.images for each in plan.replicates]
    for which in repeated:
        if all(is_done(step) for step in which.steps):
            show_images(which, paths.images(which.label), store, None)
    _remove_others(paths.samples, {w.label for w in (*plan.sets, *repeated) if w in repeated or not w.chosen})
    embedding = [plan.embedding] if plan.embedding is not None else []
    for step in (*summaries, *embedding):
        if is_done(step):
            for file in sorted(f for f in store.folder(step).glob("*.parquet") if f.stem in SCHEMAS):
                link_file(paths.root / file.name if file.name in _TOP_FILES else paths.table(file.stem), file)
    if not any(step.kind.name == SCORES.name for step in summaries):
        return
    # A table that this plan no longer writes would show an older one.
    written = {file.stem for step in (*summaries, *embedding) if is_done(step) for file in store.folder(step).iterdir()}
    for table in paths.tables.glob("*.parquet"):
        if table.stem not in written and table.stem not in (
            "stages",
            "cost",
            "notes",
            "steps",
            "search",
            "compare",
            "regime_errors",
        ):
            table.unlink()


def show_report(step: Step, paths: RunPaths) -> None:
    """Show the report of a step."""
    folder = paths.store.folder(step)
    link_file(paths.report, folder / "report.html")
    if (folder / "figures").is_dir():
        link_folder(paths.figures, folder / "figures")


def show_images(which: SyntheticSet, folder: Path, store: Store, quality: Step | None) -> bool:
    """Show a set as a Hugging Face imagefolder: PLANE/*.png with metadata.parquet, the audit's columns among them.

    Returns False where metadata.parquet was not as it was last written.
    """
    audit = store.folder(quality) if quality is not None else None
    about = {"label": which.label, "science": which.science, "num_images": which.num_images}
    key = content_hash(
        [[step.key for step in which.steps], quality.key if quality and which.rank is not None else None]
    )
    state = folder / "set.json"
    files = {
        f"{row['file_name']}": store.folder(step) / row["file_name"] for step in which.steps for row in _names(step)
    }
    for name, source in files.items():
        link_file(folder / name, source)
    for plane in folder.iterdir():
        if plane.is_dir():
            for file in plane.glob("*.png"):
                if f"{plane.name}/{file.name}" not in files:
                    file.unlink()
    table, (known, *stamp) = folder / _ROWS, _known(state)
    intact = table.is_file() and stamp == _stamp(table)
    if intact and known == key:
        return True
    rows = [row for step in which.steps for row in drawn_rows(store.folder(step))]
    order = {row.image_id: index for index, row in enumerate(which.rows())}
    rows.sort(key=lambda row: order[row["image_id"]])
    audited = audited_columns(audit, which.label) if audit is not None and which.rank is not None else {}
    empty = dict.fromkeys(AUDITED)
    write_table(table, "metadata", ({**row, **audited.get(row["image_id"], empty)} for row in rows))
    write_json(state, {**about, "shown": [key, *_stamp(table)], "sampling": to_jsonable(which.config)})
    return intact or known is None


def _names(step: Step) -> list[dict[str, str]]:
    return [{"file_name": f"{row.plane}/{row.image_id}.png"} for row in step.config.rows]


def _stamp(file: Path) -> list[int]:
    return [file.stat().st_size, file.stat().st_mtime_ns]


def _known(state: Path) -> list[Any]:
    """Return what a set's folder showed when it was written: a key, and size and time of its table."""
    try:
        return list(json.loads(state.read_text())["shown"])
    except (OSError, ValueError, KeyError, TypeError):
        return [None]


def link_folder(view: Path, target: Path) -> None:
    """Make `view` a relative link to a folder, so that the run can be moved."""
    relative = os.path.relpath(target, view.parent)
    if view.is_symlink() and os.readlink(view) == relative:
        return
    view.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(view) as beside:
        os.symlink(relative, beside)
        if view.is_dir() and not view.is_symlink():
            remove(view)


def link_file(view: Path, target: Path) -> None:
    """Make `view` the same file as `target`; a copy where the disk has no hard links."""
    if view.is_file() and _same(view, target):
        return
    with atomic_path(view) as beside:
        try:
            os.link(target, beside)
        except OSError:
            shutil.copy2(target, beside)


def _same(view: Path, target: Path) -> bool:
    a, b = view.stat(), target.stat()
    return os.path.samestat(a, b) or (a.st_size, a.st_mtime_ns) == (b.st_size, b.st_mtime_ns)


def _remove_others(folder: Path, kept: Iterable[str] | Mapping[str, Any]) -> None:
    """Remove views that the plan does not have; the steps' files stay."""
    names = set(kept)
    for view in folder.iterdir() if folder.is_dir() else ():
        if view.name not in names:
            remove(view)
