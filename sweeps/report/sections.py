"""The parts of the page besides the score tables: samples, ranks, embedding, images, notes, provenance.

In: a run's files. Out: HTML per part; where a file is missing, one plain sentence in its place.
"""

from __future__ import annotations

import json
from collections import Counter

from fulora.data.near_duplicates import RULE
from fulora.planes import PLANES
from sweeps.report import figures, samples
from sweeps.report.files import Row, RunFiles
from sweeps.report.illustrations import drawing, pictures, sheet_table
from sweeps.report.markup import Child, Columns, Html, absent, duration, grid, memory, number, tag

_MOST_PAIRS = 30
"""Duplicates listed one by one; more are counted."""


def sample_section(run: RunFiles) -> list[Html]:
    """Return the examples per plane: samplers, the base, Spanish, African."""
    if not run.images["synthetic"] and not run.tables["catalog"]:
        return [absent(run.absent("synthetic"))]
    caption = (
        "As in the paper’s Fig. 2, and the base besides. Nothing is picked by eye: the first image of each set, "
        "and real "
        "images drawn from the run’s seed. The African set has no plane Other."
    )
    if any(run.on_phantoms(s) for s in ("spanish", "african")):
        caption += " Spanish and African are phantoms here: simulated, of no patient."
    sheet = samples.overview(run)
    jpeg = pictures(sheet)
    whole = figures.samples(
        [(row.title, [jpeg[cell] for cell in row.cells]) for row in sheet], [p.name for p in samples.COLUMNS]
    )
    figures.save(run.paths.figures / "samples.png", figures.rendered(whole, ("png",))[0])
    parts = [sheet_table(sheet, jpeg, caption)]
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
        ends = "; ".join(
            f"rank {rank} ends at {number(found[-1]['loss'], 4)}" for rank, found in sorted(run.losses.items())
        )
        parts.append(
            drawing(
                run,
                "loss",
                figures.loss(run.losses),
                f"Training loss over steps for ranks {ranks}: {ends}.",
                "Fine-tuning loss per rank: as logged (pale) and its running mean over a tenth of the steps; "
                "circles: the loss on images of patients that were not trained on, at noise of its own.",
                width_px=730,
            )
        )
    else:
        parts.append(absent("This run has no loss curves yet: no adapter is finished."))
    if sheet := samples.ranks(run):
        parts.append(
            sheet_table(sheet, pictures(sheet), "The same prompts and seeds by rank: what the rank alone changes.")
        )
    return parts


def _rank_table(run: RunFiles) -> Html:
    rows = run.tables["ranks"]
    first = rows[0]
    columns: Columns = [
        ("Adapter", "text"), ("Recognised, %", "number"), ("Images", "number"), ("Trainable weights", "number"),
        ("Steps", "number"), ("Final loss", "number"), ("Time", "number"), ("Peak memory", "number"),
    ]  # fmt: skip
    most = max((r["recognised"] for r in rows if r["recognised"] is not None), default=None)
    base = number(first["recognised_base"], 1)
    body: list[list[Child]] = [["none (the base)", base, number(first["num_base_images"], 0), "0", "0", *["–"] * 3]]
    for r in rows:
        shown = number(r["recognised"], 1)
        samplers = ", ".join(
            f"{name} {number(r[f'recognised_{key}'], 1)}" for key, name in samples.SAMPLER_NAMES.items()
        )
        chosen = tag("span", "classifiers train on its images", class_="ci") if r["chosen"] else None
        watched = r["heldout_loss"]
        heldout = None if watched is None else tag("span", f"held out {watched:.4f}", class_="ci")
        body.append(
            [
                [f"rank {r['rank']}", chosen],
                [tag("strong", shown) if r["recognised"] == most else shown, tag("span", samplers, class_="ci")],
                number(r["num_images"], 0), number(r["num_trainable"], 0), number(r["num_steps"], 0),
                [number(r["final_loss"], 4), heldout], duration(r["seconds"]), memory(r["peak_memory_bytes"]),
            ]
        )  # fmt: skip
    note = (
        f" “Recognised”: the share of images a judge, {first['judge'] or 'not named'}, sees as the plane asked "
        "for; the "
        f"judge itself is right on {number(first['judge_accuracy'], 1)} % of {first['judge_num_heldout'] or '–'} "
        "held-out "
        f"images. Base: {first['base'] or 'not recorded'}. Device: {first['device'] or 'not recorded'}. "
        f"Alpha is {_alphas(run)}."
    )
    return grid("Adapters by rank.", columns, body, note=note)


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
    different = (
        "" if "inception" in features.lower() else " The paper’s are Inception v3’s, which this run does not have."
    )
    sizes = {
        plane: ", ".join(f"{counts[plane, key]} {name}" for key, (name, _, _) in figures.SOURCES.items())
        for plane in planes
    }
    if len(set(sizes.values())) == 1:
        counted = f"In each panel {sizes[planes[0]]}"
    else:
        counted = "; ".join(f"{plane}: {size}" for plane, size in sizes.items())
    return [
        drawing(
            run,
            "tsne",
            figures.tsne(rows),
            f"t-SNE of Spanish, synthetic and African images, one panel per plane. {counted}.",
            f"t-SNE per plane, as the paper’s Fig. 3. {counted}. Features: {features}.{different} Each panel is an "
            "embedding of "
            "its own; how far apart groups are means nothing, whether they mix does.",
        )
    ]


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
        body.append(
            [
                f"{source.capitalize()}, {split}",
                kind,
                *per_plane,
                str(len(mine)),
                str(patients),
                str(len({r["centre"] for r in mine})),
                str(machines) if machines else "–",
            ]
        )
    names = (*(p.name for p in PLANES), "all", "patients", "centres", "machines")
    columns: Columns = [("Source, split", "text"), ("Kind", "text"), *((name, "number") for name in names)]  # type: ignore[misc]
    return [grid("Images by source, split and plane.", columns, body), *_duplicates(run)]


def _duplicates(run: RunFiles) -> list[Html]:
    pairs = run.tables["audit"]
    if not pairs:
        if "audit" in run.missing:
            return [absent(run.absent("audit"))]
        return [tag("p", "No two images have equal or nearly equal pixels.")]
    exact = [p for p in pairs if p["kind"] == "pixels"]
    near = [p for p in pairs if p["kind"] != "pixels"]
    parts = [tag("p", "Images that are there twice, pixel for pixel: ", _counted(exact))]
    parts.append(tag("p", f"Images that are nearly equal ({RULE}): ", _counted(near)))
    shown = sorted(pairs, key=lambda p: not _leaks(p))[:_MOST_PAIRS]
    table = grid(
        f"The first {len(shown)} pairs, leaks first." if len(shown) < len(pairs) else "All pairs, leaks first.",
        [("Image", "text"), ("Set", "text"), ("Same as", "text"), ("Set", "text"), ("Bits apart", "number")],
        [
            [p["image_a"], p["set_a"], p["image_b"], p["set_b"], "equal" if p["kind"] == "pixels" else p["distance"]]
            for p in shown
        ],
    )
    return [*parts, tag("details", tag("summary", "The pairs"), table)]


def _leaks(pair: Row) -> bool:
    return (pair["set_a"] == "test") != (pair["set_b"] == "test")


def _counted(pairs: list[Row]) -> str:
    """Return how many pairs there are and what is wrong with them, as a sentence."""
    if not pairs:
        return "none."
    leaks = [{p["set_a"], p["set_b"]} for p in pairs if _leaks(p)]
    inside = sum(p["set_a"] == p["set_b"] == "test" for p in pairs)
    both = [p for p in pairs if p["patient_a"] and p["patient_b"]]
    others = sum(p["patient_a"] != p["patient_b"] for p in both)
    return (
        f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'}. Of these, {len(leaks)} with one image to train on and one "
        f"in the test set (LoRA learns from {sum('lora' in leak for leak in leaks)}, "
        f"{sum('synthetic' in leak for leak in leaks)} synthetic), {inside} inside the test set (counted twice "
        f"in every score), {others} under two patients, {sum(not p['same_plane'] for p in pairs)} under two planes."
    )


def note_section(run: RunFiles) -> list[Html]:
    """Return what a reader of the tables must know."""
    rows = run.tables["notes"]
    if not rows:
        return [absent(run.absent("notes")) if "notes" in run.missing else tag("p", "Nothing to note.")]
    return [
        tag("ul", [tag("li", tag("span", r["stage"], class_="stage"), " ", r["note"]) for r in rows], class_="notes")
    ]


def provenance_section(run: RunFiles) -> list[Html]:
    """Return code, versions, data and configuration that made the numbers."""
    known = dict(run.plan.get("provenance") or {})
    facts: list[tuple[str, Child]] = [
        ("recipe", run.recipe),
        ("seed", str(run.seed)),
        ("run folder", run.paths.root.resolve().name),
    ]
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
