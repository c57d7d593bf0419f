"""The part of the page that asks whether synthetic images are any good, and whether they are copies.

In: a run's files. Out: HTML: scores beside real images' own, the near-copy audit in words, and its worst cases.
"""

from __future__ import annotations

from pathlib import Path

from sweeps.core.paths import BASE_LABEL
from sweeps.report import samples
from sweeps.report.files import Row, RunFiles
from sweeps.report.illustrations import pictures, sheet_table
from sweeps.report.markup import Child, Columns, Html, absent, grid, number, tag
from sweeps.report.samples import Cell, SheetRow

_MOST_CASES = 5


def quality_section(run: RunFiles) -> list[Html]:
    """Return the scores, what the audit found, and the worst cases."""
    rows, real = run.tables["fidelity"], "phantom" if run.on_phantoms("spanish") else "real"
    parts = [_score_table(rows, real)] if rows else [absent(run.absent("fidelity"))]
    if not run.tables["copies"]:
        return [*parts, absent(run.absent("copies"))]
    parts.append(_audit(run.tables["copies"], real))
    if sheet := _worst(run):
        parts.append(
            sheet_table(
                sheet,
                pictures(sheet),
                "The synthetic images closest to a training image, the closest first, as measured against how close "
                f"{real} images of other patients come. To be looked at: a flag is a case, not a proof.",
                [f"{index}." for index in range(1, len(sheet[0].cells) + 1)],
            )
        )
    return parts


def _score_table(rows: list[Row], real: str) -> Html:
    columns: Columns = [
        ("Images", "text"), ("Sampler", "text"), ("FID", "number"), ("KID × 1000", "number"),
        ("Precision, %", "number"), ("Recall, %", "number"), ("Images a side", "number"),
    ]  # fmt: skip
    body: list[list[Child]] = []
    for row in sorted(rows, key=lambda r: (r["sampler"] is None, r["rank"] or 0)):
        if row["sampler"] is None:
            name: Child = [f"{real} images", tag("span", "of other patients again: what is good", class_="ci")]
        else:
            name = "none (the base)" if row["adapter"] == BASE_LABEL else f"rank {row['rank']}"
        kid = [number(1000 * row["kid"], 1), tag("span", f"± {number(1000 * row['kid_deviation'], 1)}", class_="ci")]
        body.append(
            [
                name, samples.SAMPLER_NAMES.get(row["sampler"], "–"), number(row["fid"], 1), kid,
                number(row["precision"], 1), number(row["recall"], 1), number(row["num_generated"], 0),
            ]
        )  # fmt: skip
    note = (
        f" Against {real} Spanish images of patients LoRA does not see, every row at the same number of images, "
        f"planes mixed alike. FID falls as the sets grow: read it against the last row, never across studies. "
        f"KID’s ± is its standard deviation over random halves. Features: {rows[0]['features']}."
    )
    return grid(f"How close synthetic images are to {real} ones.", columns, body, note=note)


def _audit(rows: list[Row], real: str) -> Html:
    row = next((r for r in rows if r["chosen"]), rows[0])
    if row["share_closer"] is None:
        words = (
            f"Near copies: there are no {real} images of other patients here, so nothing can be said of which "
            "synthetic images are too close to a training image."
        )
    else:
        words = (
            f"Near copies: {number(row['share_closer'], 1)} % of the {row['num_synthetic']} images classifiers train "
            f"on lie closer to one of LoRA’s {row['num_training']} training images than any of "
            f"{row['num_heldout']} {real} images of {row['num_heldout_patients']} other patients does, by pixels or by "
            f"features; new images of new patients would in at most {number(row['share_by_chance'], 1)} %."
        )
    return tag("p", words)


def _worst(run: RunFiles) -> list[SheetRow]:
    """Return three rows: the synthetic images, and the training images nearest by pixels and by features."""
    cases = run.tables["worst_copies"][:_MOST_CASES]
    files = {r["image_id"]: run.folder("synthetic") / r["file_name"] for r in run.images["synthetic"]}
    real = {r["image_id"]: Path(r["path"]) for r in run.tables["catalog"]}
    if not cases or not files:
        return []

    def cell(path: Path | None, words: str) -> Cell:
        return Cell(words=words, path=path) if path and path.is_file() else Cell(words="file missing")

    ratios = [case["ratio"] for case in cases]
    detail = (
        f"closeness {', '.join(number(r, 2) for r in ratios)}: below 1 is closer than real"
        if ratios[0] is not None
        else ""
    )
    rows = [
        SheetRow(
            title="Synthetic",
            detail=detail,
            cells=[cell(files.get(c["image_id"]), f"Synthetic image {c['image_id']}") for c in cases],
        )
    ]
    for what, title in (("pixels", "Nearest by pixels"), ("features", "Nearest by features")):
        cells = []
        for case in cases:
            turned = ", turned left to right" if what == "pixels" and case["flipped"] else ""
            name, far = case[f"nearest_{what}"], number(case[f"distance_{what}"], 2)
            cells.append(cell(real.get(name), f"Training image {name}, at distance {far} by {what}{turned}"))
        rows.append(SheetRow(title=title, detail="of LoRA’s training images", cells=cells))
    return rows
