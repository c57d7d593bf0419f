"""Errors split into predictions of Other and confusion of planes, of predictions and of the paper's printed rows."""

from __future__ import annotations

import numpy as np
import pytest

from fulora.errors import InputError
from fulora.evaluate.decomposition import SHARES, decompose, decompose_printed, mean_printed_errors
from fulora.evaluate.published import published_table1, published_table2
from fulora.evaluate.scores import score

SAVED_RUN = np.array([[0, 0, 0, 0, 0], [25, 37, 0, 2, 1], [1, 0, 64, 0, 0], [11, 0, 0, 53, 0], [8, 0, 1, 1, 29]])
"""Confusion matrix of the released ViT run: rows truth, columns prediction."""


def test_shares_of_the_saved_run() -> None:
    """45 of its 50 errors are predictions of Other; the second choice decides what four classes give."""
    truth, predicted = np.nonzero(SAVED_RUN)
    times = SAVED_RUN[truth, predicted]
    labels, guesses = np.repeat(truth, times), np.repeat(predicted, times)
    probabilities = 0.6 * np.eye(5)[guesses] + 0.1
    second = probabilities.copy()
    second[np.arange(233), labels] += 0.05
    found = decompose(second, labels)
    assert tuple(found) == SHARES
    assert found["share_other"] == pytest.approx(100 * 45 / 233)
    assert found["share_wrong_plane"] == pytest.approx(100 * 5 / 233)
    assert found["accuracy_4way"] == pytest.approx(100 * 228 / 233)
    assert score(second, labels)["accuracy"] + found["share_other"] + found["share_wrong_plane"] == pytest.approx(100)
    assert decompose(probabilities, labels)["accuracy_4way"] < found["accuracy_4way"]


def test_an_image_of_other_predicted_as_other_is_no_error() -> None:
    assert decompose(np.eye(5), np.arange(5)) == {"accuracy_4way": 80, "share_other": 0, "share_wrong_plane": 0}
    for probabilities, labels in ((np.zeros((0, 5)), np.zeros(0)), (np.eye(5), np.arange(4))):
        with pytest.raises(InputError, match="as many probabilities as labels"):
            decompose(probabilities, labels)


def test_the_papers_regimes_differ_in_predictions_of_other_and_hybrid_sets_confuse_planes_more() -> None:
    """The figures of the issue. Its ES counts the ViT row twice, as the paper prints it in both tables."""
    tables = mean_printed_errors(published_table1() + published_table2())
    rounded = {key: (round(other, 1), round(wrong, 1)) for key, (other, wrong) in tables.items()}
    assert rounded["ES", 6148, 0, 0] == (77.1, 6.6)
    assert rounded["ES+DA", 6148, 0, 0] == (65.0, 11.4)
    assert rounded["HB", 1150, 0, 5000] == (63.0, 5.4)
    assert rounded["HB+DA", 1150, 0, 5000] == (30.8, 18.0)
    assert rounded["HB", 6148, 0, 5000] == (45.0, 5.0)
    once = mean_printed_errors(published_table1())["ES", 6148, 0, 0]
    assert (round(once[0], 1), round(once[1], 1)) == (78.9, 6.7)


def test_printed_errors_add_up_to_the_accuracy_and_hold_the_saved_run() -> None:
    for row in published_table1() + published_table2():
        found = decompose_printed(row)
        assert float(str(row["accuracy"])) + found.share_other + found.share_wrong_plane == pytest.approx(100, abs=0.01)
        assert found.num_other_range[0] <= found.num_other <= found.num_other_range[1]
        assert found.num_wrong_plane_range[0] <= found.num_wrong_plane <= found.num_wrong_plane_range[1]
    saved = decompose_printed(published_table2()[3])
    assert saved.num_other_range == (45, 45) and saved.num_wrong_plane_range == (5, 5) and saved.num_matrices == 2
    with pytest.raises(InputError, match="not consistent with any confusion matrix of 233 images"):
        decompose_printed({"accuracy": 78.54, "recall": 78.14, "precision": 92.44, "f1": 85.85})
