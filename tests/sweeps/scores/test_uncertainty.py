"""What intervals of a finished grid cover, and what is said where trainings or patients are few, equal or collapsed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from fulora.evaluate.decomposition import decompose
from fulora.evaluate.inference import estimate
from fulora.evaluate.intervals import draw_resamples
from fulora.evaluate.scores import score
from fulora.evaluate.trainings import measure_trainings
from fulora.planes import PLANES
from fulora.seeds import derive_seed

from .made_up_grid import CELLS, EXPERIMENT, IMAGES, LABELS, PATIENTS, FinishedGrid, pair


def _replicates(run: FinishedGrid) -> None:
    """Make the second seed of every cell the first seed of a second replicate."""
    for index, cell in enumerate(run.cells):
        if cell.config.seed_index == 1:
            other = replace(cell, config=replace(cell.config, replicate=1, seed_index=0))
            run.predictions[other.key] = [{**r, "trial_id": other.key} for r in run.predictions.pop(cell.key)]
            run.cells[index] = other


def _answer_all(run: FinishedGrid, key: str, plane: str) -> None:
    columns = {f"p_{p.name}": float(p.name == plane) for p in PLANES}
    run.predictions[key] = [row | columns for row in run.predictions[key]]


def _notes(run: FinishedGrid) -> list[str]:
    return json.loads((run.folder / "done.json").read_text())["notes"]


def test_intervals_cover_replicates_and_seeds_and_say_so(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.score()
    seeds = run.row("table1", CELLS[0])
    assert (seeds["covers"], seeds["num_trainings"], seeds["num_replicates"]) == ("patients and seeds", 2, 1)
    assert seeds["sd_seeds"] is not None and seeds["sd_replicates"] is None
    _replicates(run)
    run.score()
    row = run.row("table1", CELLS[0])
    assert (row["covers"], row["num_replicates"], row["num_seeds"]) == ("patients, replicates and seeds", 2, 1)
    resamples = draw_resamples(PATIENTS, seed=derive_seed(EXPERIMENT.seed, "intervals"))
    found = measure_trainings({(i, 0): p for i, p in enumerate(run.trainings(CELLS[0]))}, LABELS, resamples)
    plain = estimate(found.trainings, found.values["f1"], found.resampled["f1"], 16)
    assert (row["f1"], row["f1_low"], row["f1_high"]) == pytest.approx((plain.value, *plain.clipped()))
    assert {r["covers"] for r in run.rows("comparisons")} == {"patients, replicates and seeds"}
    assert {r["replicate"] for r in run.rows("confusion")} == {0, 1}


def test_one_training_per_cell_tests_nothing_and_says_so(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.failed = {c.key for c in run.cells if c.config.seed_index == 1}
    run.score()
    for name in ("comparisons", "headline"):
        rows = run.rows(name)
        assert rows and {(r["significant"], r["p_value"], r["covers"]) for r in rows} == {(None, None, "patients")}
        assert all(r["low"] <= r.get("difference", r.get("change")) <= r["high"] for r in rows)
    assert any("one training per cell: intervals cover patients alone" in note for note in _notes(run))


def test_errors_are_decomposed(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.score()
    for name in ("table1", "table2"):
        for row in run.rows(name):
            plain = [decompose(p, LABELS) for p in run.trainings((row["regime"], row["model"]))]
            for column in plain[0]:
                assert row[column] == pytest.approx(np.mean([p[column] for p in plain]))
                assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"]
            assert row["accuracy"] + row["share_other"] + row["share_wrong_plane"] == pytest.approx(100)


def test_a_collapsed_cell_is_flagged_and_said(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    for cell in run.cells[:2]:
        _answer_all(run, cell.key, "brain")
    run.score()
    assert [run.row("table1", cell)["num_collapsed"] for cell in CELLS[:4]] == [2, 0, 0, 0]
    (row,) = [r for r in run.rows("headline") if r["metric"] == "accuracy"]
    assert (row["models"], row["models_collapsed"]) == ("ViT b16", "ResNet18")
    assert any(n.startswith("ES, ResNet18: 2 of 2 trainings collapsed") and "left out" in n for n in _notes(run))


def test_a_seed_that_failed_in_one_cell_is_compared_on_what_both_have(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.failed = {run.cells[0].key}
    run.score()
    (row,) = [r for r in run.rows("comparisons")
              if (r["regime_a"], r["model_a"], r["regime_b"], r["model_b"]) == (*CELLS[0], *CELLS[2])
              and r["metric"] == "accuracy"]  # fmt: skip
    second = [score(run.trainings(cell)[1], LABELS)["accuracy"] for cell in (CELLS[0], CELLS[2])]
    assert row["difference"] == pytest.approx(second[1] - second[0])
    assert (row["num_trainings"], row["num_unmatched"], row["significant"]) == (1, 1, None)
    assert "ES, ResNet18: 1 of 2 trainings are missing (replicate 0, seed 0); " + (
        "differences are of the trainings that both sides have"
    ) in _notes(run)


def test_one_patient_in_all_test_images_gives_words_and_no_interval(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.predictions = {k: [{**r, "patient_id": "african/0"} for r in rows] for k, rows in run.predictions.items()}
    run.score()
    row = run.row("table1", CELLS[0])
    assert row["accuracy"] is not None and row["accuracy_low"] is None and row["covers"] == "nothing"
    assert {r["significant"] for r in run.rows("comparisons")} == {None}
    assert any("all test images are of one patient" in note for note in _notes(run))


def test_patients_who_share_an_image_are_resampled_as_one(finished_grid: FinishedGrid) -> None:
    """Images 0 and 3 are of two patients and equal in pixels."""
    run = finished_grid
    run.score()
    before = run.row("table1", CELLS[0])
    for row in run.catalog:
        if row["image_id"] in IMAGES:
            row |= {"pixel_hash": row["image_id"], "patient_id": PATIENTS[IMAGES.index(row["image_id"])]}
    for row in run.catalog:
        if row["image_id"] == IMAGES[3]:
            row["pixel_hash"] = IMAGES[0]
    run.score()
    after = run.row("table1", CELLS[0])
    assert after["accuracy"] == before["accuracy"] and after["se_patients"] != before["se_patients"]
    assert {r["num_patients"] for r in run.rows("headline")} == {15}
    assert any(note.startswith("16 test patients count as 15") for note in _notes(run))


def test_the_headline_of_a_run_without_duplicates_counts_no_test_image_twice(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.audit = [pair("pixels", IMAGES[3], IMAGES[7])]
    for drops in (False, True):
        run.score(drop_duplicates=drops)
        row = next(r for r in run.rows("headline") if r["metric"] == "accuracy")
        kept = [i for i in range(48) if i != 7 or not drops]
        assert (row["num_test"], row["num_left_out"]) == (len(kept), 48 - len(kept))
        means = {regime: np.mean([score(p[kept], LABELS[kept])["accuracy"]
                                  for model in ("ResNet18", "ViT b16") for p in run.trainings((regime, model))])
                 for regime in ("ES", "HB")}  # fmt: skip
        assert row["change"] == pytest.approx(means["HB"] - means["ES"])
        assert run.row("table1", CELLS[0])["num_test"] == 48, "Table 1 is of the paper's images"
