"""The section of controls: verdicts from the tables alone, strong encoders, centres; and memorisation by rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows, write_table
from sweeps.report.controls import controls_section
from sweeps.report.fidelity import fidelity_section
from sweeps.report.files import read_run
from sweeps.report.page import environment, facts

METRICS = ("accuracy", "recall", "accuracy_4way", "share_other")


def control(name: str, about: str, value: float, verdict: str | None = None, **more: Any) -> list[dict[str, Any]]:
    """Return the rows of a control, its scores between ES at 50 and HB at 70."""
    row = {
        "control": name, "about": about, "value": value, "value_low": value - 3, "value_high": value + 3,
        "against_es": value - 50, "against_es_low": value - 54, "against_es_high": value - 46,
        "below_hb": 70 - value, "below_hb_low": 66 - value, "below_hb_high": 74 - value, "num_trainings": 9,
        "covers": "patients, replicates and seeds", "num_es": 40, "num_synthetic": 80, "num_steps": 100,
        "models": "ResNet18", "num_models": 1,
    }  # fmt: skip
    return [
        {**row, "metric": metric, "verdict": verdict if metric == "accuracy" else None, **more} for metric in METRICS
    ]


ROWS = [
    *control("ES+DA", "ES+DA itself", 50), *control("HB+DA", "HB+DA itself", 70),
    *control("hb_priors", "as many Spanish images as ES, in HB's shares of the planes", 69, "explains it"),
    *control("real_alone", "HB's real images alone", 52, "does not explain it"),
    *control("base_images", "HB with images of the base model without an adapter", 60, "undecided"),
]  # fmt: skip
CENTRES = [
    {"regime": "HB", "reference": "ES", "centre": centre, "num_here": 40, "num_patients": 9, "here": gain,
     "here_low": gain - 9, "here_high": gain + 9, "num_without": 80, "without": 5.0, "without_low": -1.0,
     "without_high": 11.0, "covers": "patients", "num_centres": 3, "num_positive": 2, "p_sign": 1.0, "models": "x"}
    for centre, gain in (("Egypt", 4.0), ("Ghana", -2.0), ("Malawi", 9.0))
]  # fmt: skip


@pytest.fixture
def run(fabricated_run: Callable[[Path], RunPaths], tmp_path: Path) -> RunPaths:
    paths = fabricated_run(tmp_path / "run")
    write_table(paths.table("controls"), "controls", ROWS)
    write_table(paths.table("centres"), "centres", CENTRES)
    return paths


def shown(paths: RunPaths) -> str:
    template = environment().get_template("sections/controls.html")
    return " ".join(template.render(facts(read_run(paths))).split())


def test_verdicts_are_said_by_intervals(run: RunPaths) -> None:
    text = shown(run)
    assert "HB+DA is +20.0 points of accuracy against ES+DA" in text
    assert "each of these would explain it: as many Spanish images as ES, in HB&#39;s shares of the planes." in text
    assert "none of these explains it, as HB is above each: HB&#39;s real images alone." in text
    assert "of these the study cannot tell: HB with images of the base model without an adapter." in text
    assert "accuracy is higher at 2 of 3 centres" in text and text.count("<tr>") == 2 + len(ROWS) // 4 + 3
    none = [row | {"against_es_low": -1.0} if row["control"] == "HB+DA" else row for row in ROWS]
    write_table(run.table("controls"), "controls", none)
    text = shown(run)
    assert "there is no gain to explain" in text and "explain it:" not in text


def test_what_synthetic_images_do_to_a_frozen_encoder_is_said(run: RunPaths) -> None:
    assert controls_section(read_run(run))["encoders"] == []  # type: ignore[index]
    rows = read_rows(run.table("comparisons"), "comparisons")
    probe = {"model_a": "DINOv2 b14, head", "model_b": "DINOv2 b14, head", "metric": "accuracy", "difference": 2.0}
    ends = {"low": -1.0, "high": 5.0, "significant": False, "covers": "patients"}
    turned = {"regime_a": "HB+DA", "regime_b": "ES+DA", **probe, **ends}
    write_table(
        run.table("comparisons"), "comparisons", [*rows, {"regime_a": "ES", "regime_b": "HB", **probe, **ends}, turned]
    )
    text = shown(run)
    assert (
        "DINOv2 b14, head: HB is +2.0 points of accuracy against ES (95&nbsp;% CI −1.0 to +5.0), not significant"
        in text
    )
    assert "HB+DA is −2.0 points of accuracy against ES+DA (95&nbsp;% CI −5.0 to +1.0)" in text


def test_no_controls_and_no_centres_are_no_section(fabricated: RunPaths) -> None:
    assert controls_section(read_run(fabricated)) is None


def test_memorisation_is_drawn_by_rank_where_there_are_several(run: RunPaths, tmp_path: Path) -> None:
    assert fidelity_section(read_run(run, figures=tmp_path))["by_rank"] is None, "one rank was audited"
    (row,) = read_rows(run.table("copies"), "copies")
    write_table(run.table("copies"), "copies", [row, {**row, "adapter": "rank-008", "rank": 8, "chosen": False}])
    assert fidelity_section(read_run(run, figures=tmp_path))["by_rank"] is not None
    assert (tmp_path / "copies_by_rank.svg").is_file()
