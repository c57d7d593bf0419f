"""A run's reporting checklist: items of CLAIM 2024 and TRIPOD+AI that its files answer, and a methods paragraph.

In: a run's files. Out: Markdown. What no file can answer is listed as open, for the authors.
"""

from __future__ import annotations

from fulora.errors import InputError, fault
from sweeps.core.paths import RunPaths
from sweeps.publish.answers import ANSWERS
from sweeps.publish.guidelines import GUIDELINES
from sweeps.report.files import read_run

_METHODS = (
    "sources", "exclusions", "partitions", "preprocessing", "model", "training", "selection", "metrics", "uncertainty",
    "sample_size", "software",
)  # fmt: skip
_RESULTS = ("endpoint", "performance", "failures", "fairness")


def checklist(paths: RunPaths) -> str:
    """Return the checklist of a run as Markdown.

    Raises InputError where the run has no catalog yet: then it answers nothing.
    """
    run = read_run(paths)
    if not run.tables["catalog"]:
        remedy = "Run the command that began the run again."
        raise InputError(fault("run", str(paths.root), "has no catalog.parquet that can be read", remedy))
    known = {name: answer(run) for name, answer in ANSWERS.items()}
    lines = [f"# Reporting checklist of a run of the recipe `{run.recipe}`, seed {run.seed}", ""]
    if run.on_phantoms("spanish") or run.on_phantoms("african"):
        lines += ["**The images are phantoms: nothing here is about patients.**", ""]
    lines += ["## Methods", "", _paragraph(known, _METHODS), "", "## Results", "", _paragraph(known, _RESULTS), ""]
    for name, items in GUIDELINES.items():
        answered = [item for item in items if item.answer and known[item.answer]]
        open_items = [item for item in items if item not in answered]
        lines += [f"## {name}: {len(answered)} of {len(items)} items answered from the run's files", ""]
        lines += ["| Item | Topic | Answer |", "| --- | --- | --- |"]
        lines += [f"| {i.number} | {i.topic} | {_cell(known[i.answer or ''])} |" for i in answered]
        lines += ["", "Open, for the authors: " + "; ".join(f"{i.number} {i.topic}" for i in open_items) + ".", ""]
    return "\n".join(lines)


def _paragraph(known: dict[str, str | None], names: tuple[str, ...]) -> str:
    return " ".join(text for name in names if (text := known[name]))


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")
