"""Scores of parts of the test set: without images that are there twice, and by centre and machine."""

from __future__ import annotations

import numpy as np
import pytest

from fulora.evaluate.scores import score
from sweeps.core.tables import METRICS
from sweeps.scores.subgroups import duplicates

from .made_up_grid import IMAGES, LABELS, FinishedGrid, catalog_row, pair


def test_images_that_are_there_twice_are_left_out_for_who_trains_on_them(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.audit = [
        pair("pixels", IMAGES[3], IMAGES[7]),
        pair("perceptual", IMAGES[7], IMAGES[9]),  # near one that is left out itself: stays
        pair("perceptual", IMAGES[10], IMAGES[11]),
        pair("pixels", IMAGES[20], "african/train-0"),
        pair("perceptual", IMAGES[21], "african/train-1"),
        pair("pixels", IMAGES[22], "african/train-dropped"),  # not in the catalog: the recipe left it out
    ]
    run.score()
    for cell, leaks in ((("ES", "ViT b16"), []), (("AF", "ViT b16"), [20, 21])):
        row = run.row("deduplicated", cell)
        kept = [i for i in range(48) if i not in {7, 11, *leaks}]
        counts = [row[f"num_{n}"] for n in ("trained_on", "near_trained_on", "repeated", "near_repeated")]
        assert counts == [bool(leaks), bool(leaks), 1, 1]
        assert (row["num_test"], row["num_left_out"]) == (len(kept), 48 - len(kept))
        for name in METRICS:
            plain = np.mean([score(p[kept], LABELS[kept])[name] for p in run.trainings(cell)])
            assert row[name] == pytest.approx(plain)
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_a_synthetic_image_that_is_a_test_image_leaks_into_the_hybrid_regimes(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    sets = {"set_a": "test", "set_b": "synthetic"}
    run.audit = [pair("perceptual", IMAGES[5], "synthetic/1") | sets]
    run.score()
    assert {r["regime"]: r["num_near_trained_on"] for r in run.rows("deduplicated")} == {"ES": 0, "HB": 1, "AF": 0}
    run.score(drop_duplicates=True)
    assert {r["num_left_out"] for r in run.rows("deduplicated")} == {0}, "the run did not train on it"


def test_three_equal_images_count_once_and_a_pair_of_both_kinds_is_of_pixels() -> None:
    pairs = [pair("pixels", a, b) for a, b in (("t1", "t2"), ("t1", "t3"), ("t2", "t3"))]
    assert duplicates(["t3", "t2", "t1"], pairs, set()) == {"t2": "repeated", "t3": "repeated"}
    both = [pair("perceptual", "t1", "x"), pair("pixels", "t1", "x")]
    assert duplicates(["t1"], both, {"x"}) == {"t1": "trained_on"}
    leak = [*pairs, *(pair("pixels", t, "x") for t in ("t1", "t2", "t3"))]
    assert set(duplicates(["t1", "t2", "t3"], leak, {"x"}).values()) == {"trained_on"}


def test_a_synthetic_image_like_one_of_two_equal_test_images_was_trained_on_for_both() -> None:
    pairs = [
        {"image_a": "a", "image_b": "b", "kind": "pixels"},
        {"image_a": "a", "image_b": "s", "kind": "perceptual"},  # the audit lists the nearest test image alone
    ]
    assert duplicates(["a", "b", "c"], pairs, {"s"}) == {"a": "near_trained_on", "b": "near_trained_on"}
    assert duplicates(["a", "b", "c"], pairs, set()) == {"b": "repeated"}


def test_scores_by_centre_and_machine(finished_grid: FinishedGrid) -> None:
    run = finished_grid
    run.score()
    assert {r["by"] for r in run.rows("subgroups")} == {"centre"}, "no machine is known"
    cell = ("ES", "ViT b16")
    for centre, images, patients in (
        ("Ghana", range(30), 10),
        ("Egypt", range(30, 45), 5),
        ("Malawi", range(45, 48), 1),
    ):
        row, places = run.row("subgroups", cell, value=centre), list(images)
        assert (row["num_images"], row["num_patients"]) == (len(places), patients)
        for name in METRICS:
            plain = np.mean([score(p[places], LABELS[places])[name] for p in run.trainings(cell)])
            assert row[name] == pytest.approx(plain)
            assert (row[f"{name}_low"] is None) == (centre == "Malawi"), "one patient has no interval"
    run.catalog = [catalog_row(i, "african", "test", "Voluson" if n < 20 else None) for n, i in enumerate(IMAGES)]
    run.score()
    machines = {r["value"]: r["num_images"] for r in run.rows("subgroups") if r["by"] == "machine"}
    assert machines == {"Voluson": 20, "unknown": 28}
