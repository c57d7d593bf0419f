"""The head of the page: the endpoint, what is claimed of it, and what is never claimed of one training."""

from __future__ import annotations

import json

from sweeps.core.paths import RunPaths
from sweeps.core.tables import SCHEMAS, read_rows, write_table
from sweeps.report import write_report

from .pages import words_of


def _headline(run: RunPaths) -> dict[tuple[str, str], dict]:
    return {(r["regime"], r["metric"]): r for r in read_rows(run.table("headline"), "headline")}


def test_the_head_states_what_the_table_says(run: RunPaths) -> None:
    rows = _headline(run)
    rows["HB+DA", "recall"] |= {"change": 12.34, "low": 1.04, "high": 20.0, "significant": True, "replicates_needed": 7}
    rows["HB", "accuracy"] |= {"change": -1.5, "low": -4.0, "high": 0.5, "significant": False}
    rows["HB+DA", "accuracy"] |= {"change": -9.0, "low": -14.0, "high": -4.0, "significant": True}
    write_table(run.table("headline"), "headline", rows.values())
    words = words_of(write_report(run, run.root).read_text())
    over = "significant over patients, replicates and seeds (3 trainings per cell)."
    assert "difference of balanced accuracy, HB+DA against ES+DA: +12.3 (95 % CI +1.0 to +20.0) percentage" in words
    assert "averaged over 5 models on 120 test images of 15 patients" in words
    assert f"Synthetic images help here: the increase is {over} To find a difference of 5 points" in words
    assert "a power of 80 %, about 7 replicates would be needed (" in words
    assert "images): accuracy −1.5 (95 % CI −4.0 to +0.5)" in words
    assert f"Neither help nor harm is shown: the difference is not {over}" in words
    assert f"Synthetic images harm here: the decrease is {over}" in words
    assert "predictions of Other change by" in words and "The paper reports +7.4" in words
    assert "Planned: 3 replicates of the pipeline with 1 seed each, 15 test patients." in words


def test_one_training_per_cell_claims_nothing_anywhere(run: RunPaths) -> None:
    alone = {"significant": None, "p_value": None, "covers": "patients", "num_trainings": 1, "num_replicates": 1}
    rows = [r | alone for r in _headline(run).values()]
    write_table(run.table("headline"), "headline", [r | {"replicates_needed": 34, "low": 3.0} for r in rows])
    for name in ("table1", "table2", "data_scaling", "comparisons"):
        rows, columns = read_rows(run.table(name), name), SCHEMAS[name]
        write_table(run.table(name), name, [r | {k: v for k, v in alone.items() if k in columns} for r in rows])
    words = words_of(write_report(run, run.root).read_text())
    assert "variation between trainings is unknown, so neither help nor harm is claimed." in words
    assert "about 34 replicates would be needed, if trainings differ as they do in the demo" in words
    assert "No difference in accuracy is tested: each classifier was trained once" in words
    assert "each set was trained once" in words and "each classifier was trained once, and how far another" in words
    for claim in ("increase", "decrease", "is significant", "are significant", "highest accuracy in Table", "*"):
        assert claim not in words, claim


def test_models_that_collapsed_are_named(run: RunPaths) -> None:
    rows = [r | {"models_collapsed": "ViT b16", "num_models": 4} for r in _headline(run).values()]
    write_table(run.table("headline"), "headline", rows)
    table = read_rows(run.table("table1"), "table1")
    write_table(run.table("table1"), "table1", [r | {"num_collapsed": int(r["model"] == "ViT b16")} for r in table])
    words = words_of(write_report(run, run.root).read_text())
    assert "Left out, as a cell collapsed to one class: ViT b16." in words
    assert words.count("collapsed to one class: 1 of 3 trainings") == 4


def test_an_endpoint_that_the_grid_lacks_is_said(run: RunPaths) -> None:
    plan = json.loads(run.plan.read_text())
    plan["endpoint"] |= {"in_grid": False, "smallest_difference": None}
    run.plan.write_text(json.dumps(plan))
    write_table(run.table("headline"), "headline", [r for r in _headline(run).values() if not r["primary"]])
    words = words_of(write_report(run, run.root).read_text())
    assert "against ES+DA) is not measured in this run: its grid lacks one of the two regimes" in words
    assert "With one training of each cell no difference can be tested" in words
