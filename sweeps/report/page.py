"""Renders the page: facts of every section from Python, all text and markup from `templates/`.

In: a run's files. Out: one HTML document that loads nothing: images are inside, and a content policy forbids the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fulora.data.regimes import REGIMES
from sweeps.core.paths import BASE_LABEL
from sweeps.report import formats
from sweeps.report.adapters import rank_section
from sweeps.report.calibration import calibration_section
from sweeps.report.colours import regime_colours
from sweeps.report.controls import controls_section
from sweeps.report.data_scaling import data_scaling_section
from sweeps.report.datasets import dataset_section
from sweeps.report.embedding import embedding_section
from sweeps.report.fidelity import fidelity_section
from sweeps.report.files import RunFiles
from sweeps.report.provenance import note_section, provenance_section
from sweeps.report.runtime import runtime_section
from sweeps.report.samples import SAMPLERS, THUMBNAIL_PX, sample_section
from sweeps.report.scores import score_section
from sweeps.report.significance import deduplicated_section, significance_section, subgroup_section
from sweeps.report.verdict import head

if TYPE_CHECKING:
    from jinja2 import Environment

_FILTERS = (formats.number, formats.signed, formats.duration, formats.memory, formats.counted)


def environment() -> Environment:
    """Return the environment of the templates: values are escaped, and an unknown name raises UndefinedError."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("sweeps.report", "templates")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {each.__name__: each for each in _FILTERS}
    return found


def facts(run: RunFiles) -> dict[str, Any]:
    """Return what the templates show, by section, and write the run's figures."""
    colours = regime_colours(run.regimes)
    return {
        "run": run,
        "phantoms": {source: run.on_phantoms(source) for source in ("spanish", "african")},
        "colours": colours,
        "regimes": REGIMES,
        "base_label": BASE_LABEL,
        "samplers": SAMPLERS,
        "thumbnail_px": THUMBNAIL_PX,
        "head": head(run),
        "samples": sample_section(run),
        "ranks": rank_section(run),
        "fidelity": fidelity_section(run),
        "scores": score_section(run, colours),
        "significance": significance_section(run),
        "deduplicated": deduplicated_section(run),
        "subgroups": subgroup_section(run),
        "data_scaling": data_scaling_section(run),
        "controls": controls_section(run),
        "calibration": calibration_section(run, colours),
        "embedding": embedding_section(run),
        "datasets": dataset_section(run),
        "runtime": runtime_section(run),
        "notes": note_section(run),
        "provenance": provenance_section(run),
    }


def render(run: RunFiles) -> str:
    """Return the report as one HTML document, and write the run's figures."""
    return environment().get_template("page.html").render(facts(run))
