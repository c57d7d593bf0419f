"""The parts of the page besides the score tables: samples, ranks, embedding, images, time, notes, provenance.

In: a run's files. Out: HTML per part; where a file is missing, one plain sentence in its place.
"""

from __future__ import annotations

import json
from collections import Counter

from fulora.planes import PLANES
from sweeps.report import figures, samples, timeline
from sweeps.report.files import RunFiles
from sweeps.report.markup import Child, Html, absent, data_uri, duration, grid, memory, number, tag
from sweeps.report.samples import Cell, SheetRow

_MOST_PAIRS = 30
"""Duplicates listed one by one; more are counted."""


def drawing(draw: figures.Draw, words: str, caption: Child, wide: int, narrow: int = 403) -> Html:
    """Return a figure for both widths of page; `words` says what it shows to who cannot see it."""
    pictures = {
        size: data_uri(figures.embedded(draw, size == narrow), "image/svg+xml") for size in (wide, narrow)
    }
    picture = tag(
        "picture",
        tag("source", media="(max-width: 640px) and (not print)", srcset=pictures[narrow]),
        tag("img", src=pictures[wide], alt=words, width=wide),
    )
    return tag("figure", picture, tag("figcaption", caption))


def pictures(sheet: list[SheetRow]) -> dict[Cell, bytes | None]:
    """Return each cell's JPEG; None for a cell that has none or whose file cannot be read."""
    found: dict[Cell, bytes | None] = {}
    for row in sheet:
        for cell in row.cells:
            try:
                found[cell] = samples.thumbnail(cell.path) if cell.path else None
            except OSError:
                found[cell] = None
    return found


def sheet_table(rows: list[SheetRow], caption: str) -> Html:
    """Return a sheet of example images as a table, planes across."""
    jpeg = pictures(rows)
    head = tag("tr", tag("td"), [tag("th", p.name, scope="col") for p in samples.COLUMNS])
    body = []
    for row in rows:
        cells = []
        for cell in row.cells:
            content = jpeg[cell]
            if content is None:
                shown: Html = tag("span", cell.words if cell.path is None else "cannot be read", class_="none")
            else:
                side = samples.THUMBNAIL_PX
                shown = tag("img", src=data_uri(content, "image/jpeg"), alt=cell.words, title=cell.words, width=side, height=side)
            cells.append(tag("td", shown))
        label = tag("th", tag("span", row.title, class_="name"), " ", tag("span", row.detail, class_="ci"), scope="row")
        body.append(tag("tr", label, cells))
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_="sheet")


def sample_section(run: RunFiles) -> list[Html]:
    """Return the examples per plane: samplers, the base, Spanish, African."""
    if not run.images["synthetic"] and not run.tables["catalog"]:
        return [absent(run.absent("synthetic"))]
    caption = (
        "As in the paper’s Fig. 2, and the base besides. Nothing is picked by eye: the first image of each set, and real "
        "images drawn from the run’s seed. The African set has no plane Other."
    )
    if any(run.on_phantoms(s) for s in ("spanish", "african")):
        caption += " Spanish and African are phantoms here: simulated, of no patient."
    parts = [sheet_table(samples.overview(run), caption)]
    if not run.images["synthetic"]:
        parts.append(absent(run.absent("synthetic")))
    return parts


def rank_section(run: RunFiles) -> list[Html]:
    """Return the comparison of ranks: table, loss curves, examples."""
    parts: list[Html] = []
    rows = run.tables["ranks"]
    if rows:
        parts.append(_rank_table(run))
    else:
        parts.append(absent(run.absent("ranks")))
    if run.losses:
        ranks = ", ".join(map(str, sorted(run.losses)))
        ends = "; ".join(f"rank {rank} ends at {number(found[-1]['loss'], 4)}" for rank, found in sorted(run.losses.items()))
        parts.append(
            drawing(
                figures.loss(run.losses),
                f"Training loss over steps for ranks {ranks}: {ends}.",
                "Fine-tuning loss per rank: as logged (pale) and its running mean over a tenth of the steps.",
                730,
            )
        )
    else:
        parts.append(absent("This run has no loss curves yet: no adapter is finished."))
    if sheet := samples.ranks(run):
        parts.append(sheet_table(sheet, "The same prompts and seeds by rank: what the rank alone changes."))
    return parts


def _rank_table(run: RunFiles) -> Html:
    rows = run.tables["ranks"]
    first = rows[0]
    columns = [
        ("Adapter", "text"), ("Recognised, %", "number"), ("Euler, %", "number"), ("UniPC, %", "number"),
        ("Images", "number"), ("Trainable", "number"), ("Final loss", "number"), ("Steps", "number"), ("Time", "number"),
        ("Peak memory", "number"), ("Device", "text"),
    ]  # fmt: skip
    most = max((r["recognised"] for r in rows if r["recognised"] is not None), default=None)
    body: list[list[Child]] = [
        ["none (the base)", number(first["recognised_base"], 1), "–", "–", str(first["num_base_images"] or "–"), "0", "–", "0", "–", "–", "–"]
    ]
    for r in rows:
        shown = number(r["recognised"], 1)
        chosen = tag("span", "classifiers train on its images", class_="ci") if r["chosen"] else None
        body.append(
            [
                [f"rank {r['rank']}", chosen], tag("strong", shown) if r["recognised"] == most else shown,
                number(r["recognised_euler"], 1), number(r["recognised_unipc"], 1), number(r["num_images"], 0),
                number(r["num_trainable"], 0), number(r["final_loss"], 4), number(r["num_steps"], 0),
                duration(r["seconds"]), memory(r["peak_memory_bytes"]), r["device"] or "–",
            ]
        )  # fmt: skip
    note = (
        f" “Recognised”: the share of images a judge, {first['judge'] or 'not named'}, sees as the plane asked for; the "
        f"judge itself is right on {number(first['judge_accuracy'], 1)} % of {first['judge_num_heldout'] or '–'} held-out "
        f"images. Base: {first['base'] or 'not recorded'}. Alpha is {_alphas(run)}."
    )
    return grid("Adapters by rank.", columns, body, note=note)  # type: ignore[arg-type]


def _alphas(run: RunFiles) -> str:
    rows = run.tables["ranks"]
    if all(r["alpha"] == r["rank"] for r in rows):
        return "the rank"
    return ", ".join(f"{r['alpha']:g}" for r in rows)


def embedding_section(run: RunFiles) -> list[Html]:
    """Return the t-SNE panels with counts and the name of what made the features."""
    rows = run.tables["embedding"]
    if not rows:
        return [absent(run.absent("embedding"))]
    counts = Counter((r["plane"], r["source"]) for r in rows)
    planes = list(dict.fromkeys(r["plane"] for r in rows))
    features = ", ".join(sorted({r["features"] or "not named" for r in rows}))
    different = "" if "inception" in features.lower() else " The paper’s are Inception v3’s, which this run does not have."
    drawn = drawing(
        figures.tsne(rows),
        "t-SNE of Spanish, synthetic and African images, one panel per plane: " + ", ".join(planes) + ".",
        [
            f"t-SNE per plane, as the paper’s Fig. 3. Features: {features}.{different} Each panel is an embedding of its own; "
            "distances between groups carry no meaning, being mixed or apart does.",
        ],
        1018,
    )
    table = grid(
        "Images in each panel.",
        [("Plane", "text"), *((name, "number") for name, _, _ in figures.SOURCES.values())],
        [[plane, *(str(counts[plane, source]) for source in figures.SOURCES)] for plane in planes],
    )
    return [drawn, table]


def image_section(run: RunFiles) -> list[Html]:
    """Return what images there were, and which of them are the same image twice."""
    rows = run.tables["catalog"]
    if not rows:
        return [absent(run.absent("catalog"))]
    counts = Counter((r["source"], r["split"], r["plane"]) for r in rows)
    groups = list(dict.fromkeys((r["source"], r["split"]) for r in rows))
    body = []
    for source, split in groups:
        mine = [r for r in rows if (r["source"], r["split"]) == (source, split)]
        kind = {True: "phantoms", False: "real images", None: "not known"}[run.on_phantoms(source)]
        per_plane = [str(counts[source, split, p.name]) for p in PLANES]
        patients = len({r["patient_id"] for r in mine if r["patient_id"]})
        machines = len({r["machine"] for r in mine if r["machine"]})
        body.append([f"{source.capitalize()}, {split}", kind, *per_plane, str(len(mine)), str(patients), str(len({r["centre"] for r in mine})), str(machines) if machines else "–"])
    columns = [("Source, split", "text"), ("Kind", "text"), *((p.name, "number") for p in PLANES)]
    columns += [("all", "number"), ("patients", "number"), ("centres", "number"), ("machines", "number")]
    return [grid("Images by source, split and plane.", columns, body), *_duplicates(run)]  # type: ignore[arg-type]


def _duplicates(run: RunFiles) -> list[Html]:
    pairs = run.tables["audit"]
    if not pairs:
        if "audit" in run.missing:
            return [absent(run.absent("audit"))]
        return [tag("p", "No two images have equal pixels.")]
    across = [p for p in pairs if {p["split_a"], p["split_b"]} == {"train", "test"}]
    within = [p for p in pairs if p["split_a"] == p["split_b"] == "test"]
    other = [p for p in pairs if p["patient_a"] != p["patient_b"]]
    labels = [p for p in pairs if not p["same_plane"]]
    words = (
        f"{len(pairs)} {'pair' if len(pairs) == 1 else 'pairs'} of images are the same image twice. {len(across)} of them "
        f"put a training image into the test set, {len(within)} lie inside the test set (and count twice in every score), "
        f"{len(other)} stand under two patients, {len(labels)} under two planes."
    )
    shown = pairs[:_MOST_PAIRS]
    table = grid(
        f"The first {len(shown)} pairs." if len(shown) < len(pairs) else "All pairs.",
        [("Image", "text"), ("Split", "text"), ("Same as", "text"), ("Split", "text"), ("Found by", "text")],
        [[p["image_a"], p["split_a"], p["image_b"], p["split_b"], p["kind"]] for p in shown],
    )
    return [tag("p", words), tag("details", tag("summary", "The pairs"), table)]


def time_section(run: RunFiles) -> list[Html]:
    """Return what ran where and for how long: stages, the time axis, failures, every attempt."""
    parts: list[Html] = []
    stages, trials = run.tables["stages"], run.tables["trials"]
    if stages:
        total = sum(r["seconds"] or 0 for r in stages)
        body = [
            [r["stage"], duration(r["seconds"]), number(r["num_done"], 0), number(r["num_reused"], 0), r["where"] or "–", (r["started_at"] or "–").replace("T", " ")]
            for r in stages
        ]  # fmt: skip
        body.append(["all", duration(total), "", "", "", ""])
        columns = [("Stage", "text"), ("Time", "number"), ("Done", "number"), ("Found done", "number"), ("Where", "text"), ("Began", "text")]
        note = " Done: images read, trials trained, images sampled; found done: of an earlier start of the same run."
        parts.append(grid("Stages.", columns, body, note=note))  # type: ignore[arg-type]
    else:
        parts.append(absent(run.absent("stages")))
    if found := timeline.bars(trials, stages):
        busy = sum(bar.seconds for bar in found)
        length = max(bar.start + bar.seconds for bar in found)
        words = f"{len(found)} bars in {1 + max(bar.lane for bar in found)} lanes; {duration(busy)} of work in {duration(length)}."
        caption = f"What ran when, one lane per trial at the same time: {duration(busy)} of work in {duration(length)}. Failed attempts are hatched."
        parts.append(drawing(timeline.drawing(found), words, caption, 1018))
    if not trials:
        return [*parts, absent(run.absent("trials"))]
    failed = [r for r in trials if r["status"] != "SUCCEEDED"]
    if failed:
        body = [[r["label"], str(r["attempt"]), r["status"].lower(), r["error_type"] or "–", r["error_message"] or "–"] for r in failed]
        columns = [("Trial", "text"), ("Attempt", "number"), ("Status", "text"), ("Error", "text"), ("Message", "text")]
        parts.append(grid(f"{len(failed)} of {len(trials)} attempts did not succeed.", columns, body))  # type: ignore[arg-type]
    else:
        parts.append(tag("p", f"All {len(trials)} attempts succeeded."))
    return [*parts, tag("details", tag("summary", f"All {len(trials)} attempts"), _attempts(run))]


def _attempts(run: RunFiles) -> Html:
    columns = [
        ("Trial", "text"), ("Stage", "text"), ("Attempt", "number"), ("Status", "text"), ("Time", "number"),
        ("Speed", "number"), ("Peak memory", "number"), ("Device", "text"), ("Id", "text"),
    ]  # fmt: skip
    body = []
    for r in run.tables["trials"]:
        steps, images = r.get("metric_steps_per_second"), r.get("metric_images_per_second")
        speed = f"{number(steps, 1)} steps/s" if steps else f"{number(images, 0)} images/s" if images else "–"
        place = f"GPU {r['provenance_gpu_ids']}" if r.get("provenance_gpu_ids") else r["device"] or "–"
        body.append([r["label"], r["stage"], str(r["attempt"]), r["status"].lower(), duration(r["seconds"]), speed, memory(r["peak_memory_bytes"]), place, tag("code", r["trial_id"])])
    return grid("Every attempt.", columns, body)  # type: ignore[arg-type]


def note_section(run: RunFiles) -> list[Html]:
    """Return what a reader of the tables must know."""
    rows = run.tables["notes"]
    if not rows:
        return [absent(run.absent("notes")) if "notes" in run.missing else tag("p", "Nothing to note.")]
    return [tag("ul", [tag("li", tag("span", r["stage"], class_="stage"), " ", r["note"]) for r in rows], class_="notes")]


def provenance_section(run: RunFiles) -> list[Html]:
    """Return code, versions, data and configuration that made the numbers."""
    known = dict(run.plan.get("provenance") or {})
    facts: list[tuple[str, Child]] = [("recipe", run.recipe), ("seed", str(run.seed)), ("run folder", run.paths.root.resolve().name)]
    facts += [(key, str(run.plan[key])) for key in ("data_hash", "cluster") if run.plan.get(key)]
    commits = {r.get("provenance_commit") for r in run.tables["trials"]} - {None}
    if len(commits) > 1:
        known["commit"] = ", ".join(sorted(map(str, commits))) + " (attempts of this run are of several commits)"
    facts += [(key.replace("_", " "), str(value) if value is not None else "unknown") for key, value in known.items()]
    parts = [tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="facts")]
    if run.experiment:
        text = json.dumps(run.experiment, indent=2)
        parts.append(tag("details", tag("summary", "The resolved configuration"), tag("pre", text, tabindex="0")))
    else:
        parts.append(absent("This run has no readable plan.json: its configuration is not known."))
    return parts
