"""Scores give the published numbers, and scikit-learn's."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from fulora.errors import InputError
from fulora.evaluate.differences import all_pairs, difference
from fulora.evaluate.intervals import Resamples, draw_resamples, measure
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
from fulora.evaluate.trainings import measure_trainings

SAVED_RUN = np.array([[0, 0, 0, 0, 0], [25, 37, 0, 2, 1], [1, 0, 64, 0, 0], [11, 0, 0, 53, 0], [8, 0, 1, 1, 29]])
"""Confusion matrix of the released ViT run: rows truth, columns prediction."""


def predictions(num: int = 233, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 5, num)
    scores = rng.dirichlet(np.ones(5), num)
    scores[np.arange(num), labels] += 0.2
    scores = (scores / scores.sum(1, keepdims=True)).round(2)  # ties
    return scores, labels, [f"patient {number}" for number in rng.integers(0, 64, num)]


def intervals(
    probabilities: np.ndarray, labels: np.ndarray, patients: list[str], *, seed: int = 0
) -> dict[str, tuple[float, float]]:
    found = measure(probabilities, labels, draw_resamples(patients, seed=seed))
    return {name: found.interval(name) for name in METRICS}


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
    with pytest.raises(ValueError, match="at least 1"):
        score(np.zeros((0, 5)), np.zeros(0))


def test_intervals_hold_the_score_and_repeat() -> None:
    probabilities, labels, patients = predictions()
    found = intervals(probabilities, labels, patients)
    for name, value in score(probabilities, labels).items():
        low, high = found[name]
        assert low < value < high and high - low < 20
    assert found == intervals(probabilities, labels, patients)
    assert found != intervals(probabilities, labels, patients, seed=1)


def test_twenty_rows_are_measured_and_compared_in_under_five_seconds() -> None:
    _, labels, patients = predictions()
    rows = [predictions(seed=seed)[0] for seed in range(20)]
    start = time.process_time()
    resamples = draw_resamples(patients, seed=0)
    measured = [measure_trainings({(0, 0): row}, labels, resamples) for row in rows]
    pairs = [all_pairs(measured, name) for name in METRICS]
    assert time.process_time() - start < 5
    assert resamples.times.shape[0] == 2000 and [len(found) for found in pairs] == [190] * 5


def test_trainings_of_a_cell_are_averaged_within_each_resample() -> None:
    _, labels, patients = predictions()
    trainings = np.stack([predictions(seed=seed)[0] for seed in (0, 1)])
    resamples = draw_resamples(patients, seed=0)
    both, single = measure(trainings, labels, resamples), [measure(p, labels, resamples) for p in trainings]
    for name in METRICS:
        assert both.values[name] == pytest.approx(np.mean([m.values[name] for m in single]))
        assert both.resampled[name] == pytest.approx(np.mean([m.resampled[name] for m in single], axis=0))


def test_interval_is_wider_where_patients_repeat_themselves() -> None:
    """Four copies of each image are no news if they are of the same patient."""
    probabilities, labels, _ = predictions(60)
    one = intervals(probabilities, labels, [str(row) for row in range(60)])
    copies = [np.repeat(array, 4, axis=0) for array in (probabilities, labels)]
    clustered = intervals(*copies, [str(row // 4) for row in range(240)])
    naive = intervals(*copies, [str(row) for row in range(240)])
    width = {
        name: {m: i[m][1] - i[m][0] for m in METRICS}
        for name, i in (("one", one), ("clustered", clustered), ("naive", naive))
    }
    for metric in METRICS:
        assert width["clustered"][metric] == pytest.approx(width["one"][metric], rel=0.1)
        assert width["naive"][metric] < 0.7 * width["clustered"][metric]


def test_resampled_scores_equal_those_of_repeated_images() -> None:
    """Against the plain way: build each resample's images and score them."""
    probabilities, labels, patients = predictions(80)
    resamples = draw_resamples(patients, seed=0, num_resamples=4)
    found = measure(probabilities, labels, resamples).resampled
    for row, times in enumerate(resamples.times.astype(int)):
        images = np.repeat(np.arange(80), times[resamples.patient])
        for name, value in score(probabilities[images], labels[images]).items():
            assert found[name][row] == pytest.approx(value), name


def test_a_plane_that_a_resample_lacks_is_left_out_of_its_averages() -> None:
    """It says nothing of that plane: all scores are those of the images that are left."""
    probabilities, labels, _ = predictions(40)
    kept = labels != 2
    alone = Resamples(patient=np.arange(40), times=kept.astype(float)[None])
    found = measure(probabilities, labels, alone).resampled
    for name, value in score(probabilities[kept], labels[kept]).items():
        assert found[name] == pytest.approx(value), name


def test_a_perfect_classifier_has_an_interval_of_no_width_though_resamples_lack_planes() -> None:
    labels = np.array([1, 2, 3, 4, 1, 2])
    resamples = draw_resamples([str(i) for i in range(6)], seed=0)
    drawn = resamples.times > 0
    assert not (drawn[:, [1, 5]].any(1) & drawn[:, 2] & drawn[:, 3]).all(), "some resamples lack a plane"
    found = measure(np.eye(5)[labels], labels, resamples)
    assert all(found.interval(name) == (100, 100) for name in METRICS)
    assert np.isnan(scores_from_confusion(np.zeros((5, 5)))["recall"])


def test_one_patient_has_no_interval() -> None:
    probabilities, labels, _ = predictions(10)
    assert np.isnan(intervals(probabilities, labels, ["a"] * 10)["accuracy"]).all()
    with pytest.raises(InputError, match="equally many"):
        intervals(probabilities, labels, ["a"])
    with pytest.raises(InputError, match="at least one test image"):
        draw_resamples([], seed=0)
    resamples = draw_resamples(["a"] * 10, seed=0)
    one = [measure_trainings({(0, 0): p}, labels, resamples) for p in (probabilities, np.eye(5)[labels])]
    pair = difference(*one, "accuracy")
    assert pair.estimate.value > 0 and np.isnan(pair.estimate.low) and pair.significant is pair.p_adjusted is None


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
    resamples = draw_resamples(patients, seed=0)
    cells = [measure_trainings({(0, 0): p}, labels, resamples) for p in (worse, better)]
    found = difference(*cells, "accuracy").estimate
    apart = [measure(p, labels, resamples).interval("accuracy") for p in (worse, better)]
    assert found.value == pytest.approx(100 * len(slips) / 240)
    assert 0 < found.low < found.value < found.high
    assert apart[1][0] < apart[0][1], "apart, the two intervals overlap"
    same = difference(cells[0], cells[0], "f1").estimate
    assert (same.value, same.low, same.high) == (0, 0, 0)
