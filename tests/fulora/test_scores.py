"""Scores give the published numbers, and scikit-learn's."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from fulora.evaluate.intervals import _weighted_auc, paired_change, patient_intervals
from fulora.evaluate.published import published_table1, published_table2
from fulora.evaluate.scores import (
    METRICS,
    auc_from_hard_labels,
    auc_from_scores,
    auc_published,
    confusion_matrix,
    score,
    scores_from_confusion,
)

SAVED_RUN = np.array([[0, 0, 0, 0, 0], [25, 37, 0, 2, 1], [1, 0, 64, 0, 0], [11, 0, 0, 53, 0], [8, 0, 1, 1, 29]])
"""Confusion matrix of the released ViT run: rows truth, columns prediction."""


def predictions(num: int = 233, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 5, num)
    scores = rng.dirichlet(np.ones(5), num)
    scores[np.arange(num), labels] += 0.2
    scores = (scores / scores.sum(1, keepdims=True)).round(2)  # ties
    return scores, labels, [f"patient {number}" for number in rng.integers(0, 64, num)]


def test_saved_run_gives_table_2_to_two_decimals() -> None:
    row = next(row for row in published_table2() if row["regime"] == "HB")
    scores = scores_from_confusion(SAVED_RUN)
    for name in ("accuracy", "recall", "precision", "f1"):
        assert round(float(scores[name]), 2) == row[name]
    assert (row["accuracy"], row["recall"], row["precision"], row["f1"]) == (78.54, 78.14, 97.44, 85.85)
    assert round(auc_published(SAVED_RUN), 2) == row["auc"] == 88.76
    assert round(auc_from_hard_labels(SAVED_RUN), 2) == 88.71


def test_scores_equal_scikit_learn() -> None:
    probabilities, labels, _ = predictions()
    ours = score(probabilities, labels)
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=[1, 2, 3, 4], average="macro", zero_division=0
    )
    areas = [roc_auc_score(labels == plane, probabilities[:, plane]) for plane in range(1, 5)]
    expected = [(labels == probabilities.argmax(1)).mean(), recall, precision, f1, np.mean(areas)]
    assert tuple(ours) == METRICS
    assert list(ours.values()) == pytest.approx([100 * value for value in expected])


def test_hard_label_auc_is_scikit_learns_of_one_hot_predictions() -> None:
    truth, predicted = np.nonzero(SAVED_RUN)
    times = SAVED_RUN[truth, predicted]
    labels, guesses = np.repeat(truth, times), np.repeat(predicted, times)
    assert np.array_equal(confusion_matrix(np.eye(5)[guesses], labels), SAVED_RUN)
    assert auc_from_scores(np.eye(5)[guesses], labels) == pytest.approx(auc_from_hard_labels(SAVED_RUN))


def test_many_matrices_at_once_and_planes_that_are_not_there() -> None:
    twice = scores_from_confusion(np.stack([SAVED_RUN, SAVED_RUN * 3]))
    assert twice["f1"].shape == (2,) and twice["f1"][0] == pytest.approx(twice["f1"][1])
    only_brain = np.zeros((5, 5), dtype=int)
    only_brain[2] = [1, 0, 3, 0, 0]
    assert scores_from_confusion(only_brain)["recall"] == pytest.approx(75)
    assert np.isnan(score(np.eye(5)[[2, 2]], np.array([2, 2]))["auc"])
    with pytest.raises(ValueError, match="at least one"):
        score(np.zeros((0, 5)), np.zeros(0))


def test_intervals_hold_the_score_repeat_and_are_fast() -> None:
    probabilities, labels, patients = predictions()
    start = time.process_time()
    intervals = patient_intervals(probabilities, labels, patients, num_resamples=2000, seed=0)
    assert time.process_time() - start < 2
    assert tuple(intervals) == METRICS
    for name, value in score(probabilities, labels).items():
        low, high = intervals[name]
        assert low < value < high and high - low < 20
    assert intervals == patient_intervals(probabilities, labels, patients, num_resamples=2000, seed=0)
    assert intervals != patient_intervals(probabilities, labels, patients, num_resamples=2000, seed=1)


def test_interval_is_wider_where_patients_repeat_themselves() -> None:
    """Four copies of each image are no news if they are of the same patient."""
    probabilities, labels, _ = predictions(60)
    one = patient_intervals(probabilities, labels, [str(row) for row in range(60)], seed=0)
    copies = [np.repeat(array, 4, axis=0) for array in (probabilities, labels)]
    clustered = patient_intervals(*copies, [str(row // 4) for row in range(240)], seed=0)
    naive = patient_intervals(*copies, [str(row) for row in range(240)], seed=0)
    width = {
        name: {m: i[m][1] - i[m][0] for m in METRICS}
        for name, i in (("one", one), ("clustered", clustered), ("naive", naive))
    }
    for metric in METRICS:
        assert width["clustered"][metric] == pytest.approx(width["one"][metric], rel=0.1)
        assert width["naive"][metric] < 0.7 * width["clustered"][metric]


def test_weighted_auc_equals_repeating_images() -> None:
    probabilities, labels, _ = predictions(80)
    weights = np.random.default_rng(1).integers(0, 3, (4, 80))
    expected = [auc_from_scores(np.repeat(probabilities, row, 0), np.repeat(labels, row)) for row in weights]
    assert _weighted_auc(probabilities, labels, weights.astype(float)) == pytest.approx(expected)


def test_one_patient_has_no_interval() -> None:
    probabilities, labels, _ = predictions(10)
    assert np.isnan(patient_intervals(probabilities, labels, ["a"] * 10, seed=0)["accuracy"]).all()
    with pytest.raises(ValueError, match="equally many"):
        patient_intervals(probabilities, labels, ["a"], seed=0)


def test_printed_tables() -> None:
    rows = published_table1()
    assert len(rows) == 20 and [row["regime"] for row in rows[::5]] == ["ES", "ES+DA", "HB", "HB+DA"]
    assert {len({row["model"] for row in rows[start : start + 5]}) for start in (0, 5, 10, 15)} == {5}
    best = max(rows, key=lambda row: row["accuracy"])
    assert (best["regime"], best["model"], best["accuracy"], best["auc"]) == ("HB+DA", "ResNet18", 82.40, 89.29)
    assert sum(bool(row["auc_doubt"]) for row in rows) == 6
    # An accuracy is a number of 233 images; all but the printed rounding must be one.
    for row in rows + published_table2():
        hits = row["accuracy"] * 233 / 100
        assert abs(hits - round(hits)) < 0.02, row


def test_a_change_between_two_trainings_is_narrower_paired_than_apart() -> None:
    """Two classifiers that fail on the same hard patients differ surely, though each score alone is uncertain."""
    rng = np.random.default_rng(0)
    labels, patients = np.tile([1, 2, 3, 4], 60), np.repeat(np.arange(60), 4)
    hard = rng.random(60) < 0.4
    worse = np.eye(5)[np.where(hard[patients], 0, labels)] * 0.9 + 0.02
    better = worse.copy()
    slips = np.flatnonzero(hard[patients])[::5]
    better[slips] = np.eye(5)[labels[slips]] * 0.9 + 0.02
    found = paired_change([(worse[None], better[None])], labels, patients, seed=0)["accuracy"]
    apart = [patient_intervals(p, labels, patients, seed=0)["accuracy"] for p in (worse, better)]
    assert found[0] == pytest.approx(100 * len(slips) / 240)
    assert 0 < found[1] < found[0] < found[2]
    assert apart[1][0] < apart[0][1], "apart, the two intervals overlap"
    none = paired_change([(worse[None], worse[None])], labels, patients, seed=0)
    assert none["f1"] == (0, 0, 0)
