"""The flow of patients counts what the catalog and the trainings say."""

from __future__ import annotations

from pathlib import Path

from sweeps.core.paths import RunPaths
from sweeps.core.tables import read_rows
from sweeps.report.files import read_run
from sweeps.report.flow import flow_boxes, flow_figure


def test_boxes_lead_from_sources_to_what_is_trained_and_tested(fabricated: RunPaths, tmp_path: Path) -> None:
    run = read_run(fabricated, figures=tmp_path)
    boxes = flow_boxes(run)
    titles = [box.title for box in boxes]
    assert titles[:2] == ["Spanish images", "train split"] and "tested on" in titles
    catalog = read_rows(fabricated.catalog, "catalog")
    test = [r for r in catalog if (r["source"], r["split"]) == ("african", "test")]
    tested = boxes[titles.index("tested on")]
    assert tested.words.startswith(f"{len(test)} image") and boxes[tested.parent or 0].title == "African images"
    for box in boxes:
        assert box.parent is None if box.level == 0 else boxes[box.parent].level == box.level - 1  # type: ignore[index]
    hybrid = boxes[titles.index("HB")]
    assert "synthetic" in hybrid.words and boxes[hybrid.parent or 0].title == "train split"
    assert titles.count("ES") == 1, "ES+DA trains on the same images"
    assert flow_figure(run) is not None and (tmp_path / "flow.svg").is_file()


def test_without_a_catalog_there_is_no_figure(tmp_path: Path) -> None:
    run = read_run(RunPaths(tmp_path))
    assert flow_boxes(run) == [] and flow_figure(run) is None
