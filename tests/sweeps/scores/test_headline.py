"""The headline table: which way it points, when it is significant, and the published change beside it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fulora.evaluate.comparison import compare_all
from fulora.evaluate.intervals import Measured, draw_resamples, measure
from fulora.evaluate.published import published_table1
from fulora.evaluate.trainings import measure_trainings
from sweeps.scores.headline import headline_rows

MODELS = ("DenseNet169", "ResNet18")
PATIENTS = [f"p{i // 2}" for i in range(80)]
LABELS = np.tile(np.arange(1, 5), 20)


def _measured(shares: dict[tuple[str, str], float], patients: list[str] = PATIENTS) -> dict[tuple[str, str], Measured]:
    """Return the scores of classifiers that are right in a share of the images."""
    resamples = draw_resamples(patients, seed=0, num_resamples=400)
    found = {}
    for index, (cell, share) in enumerate(shares.items()):
        right = np.random.default_rng(index).random(len(LABELS)) < share
        found[cell] = measure(np.eye(5)[np.where(right, LABELS, 0)], LABELS, resamples)
    return found


SHARES = {("ES", "DenseNet169"): 0.4, ("ES", "ResNet18"): 0.5, ("HB", "DenseNet169"): 0.9, ("HB", "ResNet18"): 0.8}


def test_a_change_is_regime_minus_reference_averaged_over_models() -> None:
    measured = _measured(SHARES)
    rows = headline_rows(measured, models=MODELS, num_images=80)
    assert {(r["regime"], r["reference"]) for r in rows} == {("HB", "ES")}, "HB+DA has no scores"
    row = next(r for r in rows if r["metric"] == "accuracy")
    gains = [measured["HB", m].values["accuracy"] - measured["ES", m].values["accuracy"] for m in MODELS]
    assert row["change"] == pytest.approx(np.mean(gains)) and row["low"] < row["change"] < row["high"]
    assert row["significant"] is True
    assert (row["models"], row["num_models"]) == ("DenseNet169, ResNet18", 2)
    assert (row["num_test"], row["num_patients"]) == (80, 40)


def test_the_interval_is_that_of_the_pairwise_comparison_where_there_is_one_model() -> None:
    """One model: the mean over models is the pair's own difference, so both tables must say the same."""
    measured = _measured({cell: share for cell, share in SHARES.items() if cell[1] == "ResNet18"})
    (pair,) = compare_all(list(measured.values()), "f1")
    row = next(r for r in headline_rows(measured, models=MODELS, num_images=80) if r["metric"] == "f1")
    assert (row["change"], row["low"], row["high"]) == pytest.approx((pair.value, pair.low, pair.high))


def test_equal_regimes_do_not_differ_significantly_and_a_loss_may() -> None:
    measured = _measured(SHARES)
    for pair, expected in ((("ES", "ES"), False), (("ES", "HB"), True)):
        row = headline_rows(measured, models=MODELS, num_images=80, comparisons=[pair])[0]
        assert row["significant"] is expected and row["change"] <= 0


def test_one_patient_gives_no_interval() -> None:
    row = headline_rows(_measured(SHARES, ["p"] * 80), models=MODELS, num_images=80)[0]
    assert row["change"] > 0 and row["low"] is row["high"] is row["significant"] is None


def test_the_published_change_is_of_the_same_models_and_never_of_auc() -> None:
    rows = {r["metric"]: r for r in headline_rows(_measured(SHARES), models=MODELS, num_images=80)}
    paper = {(r["regime"], r["model"]): float(r["f1"]) for r in published_table1()}
    assert rows["f1"]["paper_change"] == pytest.approx(np.mean([paper["HB", m] - paper["ES", m] for m in MODELS]))
    assert rows["auc"]["paper_change"] is None
    own = {(regime, "ResNet34"): 0.5 for regime in ("ES", "HB")}
    unknown = headline_rows(_measured({**SHARES, **own}), models=[*MODELS, "ResNet34"], num_images=80)
    assert unknown[0]["num_models"] == 3 and unknown[0]["paper_change"] is None


def test_models_without_both_regimes_are_left_out() -> None:
    measured = _measured(SHARES)
    for left, right in combinations(MODELS, 2):
        del measured["HB", left]
        rows = headline_rows(measured, models=MODELS, num_images=80)
        assert {r["models"] for r in rows} == {right}
        del measured["ES", right]
        assert headline_rows(measured, models=MODELS, num_images=80) == []


def _trainings(shares: dict[tuple[str, str], float], num: int, spread: float) -> dict[tuple[str, str], np.ndarray]:
    """Return predictions [num, N, 5] of classifiers whose trainings differ by a spread in the share they get right."""
    rng = np.random.default_rng(7)
    found = {}
    for cell, share in shares.items():
        rights = [rng.random(len(LABELS)) < np.clip(share + spread * rng.standard_normal(), 0, 1) for _ in range(num)]
        found[cell] = np.stack([np.eye(5)[np.where(right, LABELS, 0)] for right in rights])
    return found


def _rows_of(predicted: dict[tuple[str, str], np.ndarray]) -> dict[str, dict]:
    resamples = draw_resamples(PATIENTS, seed=0, num_resamples=400)
    measured = {cell: measure(p, LABELS, resamples) for cell, p in predicted.items()}
    trained = {
        cell: measure_trainings({(0, s): one for s, one in enumerate(p)}, LABELS, resamples)
        for cell, p in predicted.items()
    }
    rows = headline_rows(measured, models=MODELS, num_images=80, trained=trained)
    return {r["metric"]: r for r in rows}


def test_one_training_claims_nothing_and_several_are_part_of_the_interval() -> None:
    """The gain is large and so is the spread of trainings: patients alone would call it certain."""
    alone = _rows_of(_trainings(SHARES, 1, 0.0))["accuracy"]
    assert alone["low"] > 0 and alone["significant"] is None
    assert (alone["covers"], alone["num_trainings"]) == ("patients", 1)
    steady, shaky = (_rows_of(_trainings(SHARES, 4, spread))["accuracy"] for spread in (0.01, 0.25))
    assert steady["significant"] is True and steady["num_trainings"] == 4
    assert steady["covers"] == shaky["covers"] == "patients and seeds"
    assert shaky["high"] - shaky["low"] > 1.5 * (steady["high"] - steady["low"])
