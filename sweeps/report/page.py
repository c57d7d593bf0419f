"""The page itself: head, verdict, parts in the order a reader asks for them.

In: a run's files. Out: one HTML document that loads nothing from anywhere (a content policy in it forbids it to).
"""

from __future__ import annotations

from importlib.resources import files as package_files

from fulora.evaluate.published import published_table1
from sweeps.report import differences, figures, illustrations, score_tables, sections, timing
from sweeps.report.amounts import amount_section
from sweeps.report.calibration import calibration_section
from sweeps.report.files import RunFiles
from sweeps.report.markup import Html, tag
from sweeps.report.quality import quality_section
from sweeps.report.verdict import changes, key_numbers, stand_ins, verdict, what_ran

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(run: RunFiles) -> str:
    """Return the report as one HTML document, and write the run's figures."""
    parts = [
        ("samples", "Samples", sections.sample_section(run)),
        ("ranks", "Adapters by rank", sections.rank_section(run)),
        ("quality", "Are they good, are they copies?", quality_section(run)),
        ("scores", "Zero-shot classification", _scores(run)),
        ("amounts", "How many synthetic images help", amount_section(run)),
        ("calibration", "How sure classifiers are", calibration_section(run)),
        ("embedding", "Where synthetic images lie", sections.embedding_section(run)),
        ("images", "Images", sections.image_section(run)),
        ("time", "What ran where, and for how long", timing.time_section(run)),
        ("notes", "Notes of the run", sections.note_section(run)),
        ("provenance", "Provenance", sections.provenance_section(run)),
    ]
    title = f"FU-LoRA, recipe {run.recipe}, seed {run.seed}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Html((package_files("sweeps.report") / "report.css").read_text(encoding="utf-8"))),
    )
    parts = [part for part in parts if part[2]]
    links = tag("nav", [tag("a", name, href=f"#{key}") for key, name, _ in parts], aria_label="Sections")
    blocks = [
        tag("section", tag("h2", name, id=f"{key}-title"), body, id=key, aria_labelledby=f"{key}-title")
        for key, name, body in parts
    ]
    footer = tag(
        "footer",
        "Every number comes from this run’s tables: ",
        tag("code", "sweeps export"),
        " gives them as Parquet, CSV, Markdown or LaTeX. Paper: Wang, Whelan, Silvestre, Curran, “Generative Diffusion "
        "Model Bootstraps Zero-shot Classification of Fetal Ultrasound Images In Underrepresented African "
        "Populations”, "
        "arXiv 2407.20072.",
    )
    body = tag("body", _header(run), links, tag("main", blocks), footer)
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _header(run: RunFiles) -> Html:
    found = changes(run)
    sentences = verdict(run, found)
    about = what_ran(run)
    banner = None
    if replaced := stand_ins(run):
        items = [tag("li", tag("strong", f"{what}:"), " ", meaning) for what, meaning in replaced]
        banner = tag(
            "aside", tag("p", "Stand-ins in this run", class_="head"), tag("ul", items), class_="banner", role="note"
        )
    tiles = [
        tag(
            "div",
            tag("p", n.value, class_="value"),
            tag("p", n.what, class_="what"),
            tag("p", n.detail, class_="detail"),
        )
        for n in key_numbers(run, found)
    ]
    return tag(
        "header",
        tag(
            "p",
            "Synthetic images by a LoRA-tuned diffusion model, and what they do for zero-shot classification",
            class_="kicker",
        ),
        tag("h1", "FU-LoRA: ", tag("span", f"recipe {run.recipe}, seed {run.seed}")),
        tag("p", f"What ran: {about}.", class_="ran") if about else None,
        banner,
        tag("p", sentences[0], class_="verdict"),
        tag("ul", [tag("li", sentence) for sentence in sentences[1:]], class_="verdict more")
        if sentences[1:]
        else None,
        tag("div", tiles, class_="tiles") if tiles else None,
    )


def _scores(run: RunFiles) -> list[Html]:
    parts: list[Html] = []
    rows = run.tables["table1"]
    if any(r["accuracy"] is not None for r in rows):
        parts.append(
            illustrations.drawing(
                run,
                "scores",
                figures.scores(rows, {(str(r["regime"]), str(r["model"])): r for r in published_table1()}),
                "Accuracy and F1 of each regime and model with 95 % intervals, beside the paper’s; the numbers are "
                "in Table 1 below.",
                "Each row of Table 1: this run (filled) with its 95 % interval over test patients, and the paper’s "
                "value on its "
                "own data (hollow). Dashed: mean of a regime’s models. The interval of a difference between "
                "regimes is in the "
                "text above: it compares them on the same patients and is narrower than these two suggest.",
            )
        )
    parts += [score_tables.table(run, "table1"), score_tables.table(run, "table2")]
    parts.append(tag("p", score_tables.AUC_NOTE, class_="note"))
    parts += differences.differences(run)
    parts += [*differences.without_duplicates(run), *differences.by_part(run), score_tables.confusion(run)]
    return parts
