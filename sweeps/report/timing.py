"""What ran where and for how long, on the page.

In: a run's stages and attempts. Out: HTML.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.report import timeline
from sweeps.report.files import Row, RunFiles
from sweeps.report.illustrations import drawing
from sweeps.report.markup import Child, Columns, Html, absent, duration, grid, memory, number, tag

_STAGE_COLUMNS: Columns = [
    ("Stage", "text"), ("Time", "number"), ("Done", "number"), ("Found done", "number"), ("Where", "text"),
    ("Began", "text"),
]  # fmt: skip


def time_section(run: RunFiles) -> list[Html]:
    """Return what ran where and for how long: stages, the time axis, failures, every attempt."""
    parts: list[Html] = []
    stages, trials = run.tables["stages"], run.tables["trials"]
    if stages:
        parts.append(_stages(stages))
    else:
        parts.append(absent(run.absent("stages")))
    if found := timeline.bars(trials, stages):
        busy, length = sum(bar.seconds for bar in found), max(bar.start + bar.seconds for bar in found)
        work = f"{duration(busy)} of work in {duration(length)}"
        words = f"{len(found)} bars in {1 + max(bar.lane for bar in found)} lanes: {work}."
        caption = f"What ran when, one lane per trial at the same time: {work}. Failed attempts are hatched."
        parts.append(drawing(run, "timeline", timeline.drawing(found), words, caption))
    if not trials:
        return [*parts, absent(run.absent("trials"))]
    failed = [r for r in trials if r["status"] != "SUCCEEDED"]
    if failed:
        body = [
            [r["label"], str(r["attempt"]), r["status"].lower(), r["error_type"] or "–", r["error_message"] or "–"]
            for r in failed
        ]
        columns: Columns = [
            ("Trial", "text"),
            ("Attempt", "number"),
            ("Status", "text"),
            ("Error", "text"),
            ("Message", "text"),
        ]
        parts.append(grid(f"{len(failed)} of {len(trials)} attempts did not succeed.", columns, body))
    else:
        parts.append(tag("p", f"All {len(trials)} attempts succeeded."))
    return [*parts, tag("details", tag("summary", f"All {len(trials)} attempts"), _attempts(run))]


def _stages(stages: Sequence[Row]) -> Html:
    body: list[list[Child]] = []
    for r in stages:
        began = (r["started_at"] or "–").replace("T", " ").replace("+00:00", " UTC")
        counts = (number(r["num_done"], 0), number(r["num_reused"], 0))
        body.append([r["stage"], duration(r["seconds"]), *counts, r["where"] or "–", began])
    body.append(["all", duration(sum(r["seconds"] or 0 for r in stages)), "", "", "", ""])
    note = " Done: images read, trials trained, images sampled; found done: by an earlier start of the same run."
    return grid("Stages.", _STAGE_COLUMNS, body, note=note)


def _attempts(run: RunFiles) -> Html:
    columns: Columns = [
        ("Trial", "text"), ("Stage", "text"), ("Attempt", "number"), ("Status", "text"), ("Time", "number"),
        ("Speed", "number"), ("Peak memory", "number"), ("Device", "text"), ("Id", "text"),
    ]  # fmt: skip
    body = []
    for r in run.tables["trials"]:
        steps, images = r.get("metric_steps_per_second"), r.get("metric_images_per_second")
        speed = f"{number(steps, 1)} steps/s" if steps else f"{number(images, 0)} images/s" if images else "–"
        place = f"GPU {r['provenance_gpu_ids']}" if r.get("provenance_gpu_ids") else r["device"] or "–"
        cost = (duration(r["seconds"]), speed, memory(r["peak_memory_bytes"]), place)
        body.append([r["label"], r["stage"], str(r["attempt"]), r["status"].lower(), *cost, tag("code", r["trial_id"])])
    return grid("Every attempt.", columns, body)
