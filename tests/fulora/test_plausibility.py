"""The check of printed scores: it refuses what no matrix has, never what one has, and knows the paper's rows."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from fulora.evaluate.plausibility import NUM_IMAGES, NUM_TEST, check_row
from fulora.evaluate.published import published_table1, published_table2
from fulora.evaluate.scores import auc_from_hard_labels, auc_published, scores_from_confusion

SAVED_RUN = np.array([[0, 0, 0, 0, 0], [25, 37, 0, 2, 1], [1, 0, 64, 0, 0], [11, 0, 0, 53, 0], [8, 0, 1, 1, 29]])
SAVED = {"accuracy": 78.54, "recall": 78.14, "precision": 97.44, "f1": 85.85, "auc": 88.76}


def printed(matrix: np.ndarray, formula=auc_published, cut: bool = False) -> dict[str, float]:
    """Return a matrix's row as a paper would print it, rounded, or cut after two decimals."""
    values = {name: float(value) for name, value in scores_from_confusion(matrix).items()}
    values["auc"] = formula(matrix)
    return {name: math.floor(100 * v + 1e-9) / 100 if cut else round(v, 2) for name, v in values.items()}


def random_matrix(rng: np.random.Generator) -> np.ndarray:
    """Return a confusion matrix of the test images by a classifier that is right, and says Other, at random rates."""
    matrix = np.zeros((5, 5), dtype=int)
    for plane, num in enumerate(NUM_IMAGES, start=1):
        right, other = rng.uniform(0.4, 1), rng.uniform(0, 1)
        shares = np.array([other, *(1 - other) * rng.dirichlet(np.ones(4))]) * (1 - right)
        shares[plane] += right
        matrix[plane] = rng.multinomial(num, shares / shares.sum())
    return matrix


def test_the_class_counts_are_the_saved_runs() -> None:
    assert tuple(SAVED_RUN.sum(1)[1:]) == NUM_IMAGES and NUM_TEST == 233
    assert printed(SAVED_RUN) == SAVED


def test_the_saved_run_passes_by_either_formula() -> None:
    found = check_row(SAVED)
    assert (found.findings, found.doubt(), found.auc_fits) == ((), None, "published formula")
    assert check_row(printed(SAVED_RUN, auc_from_hard_labels)).auc_fits in ("hard labels", "both")


def test_no_row_that_a_matrix_has_is_refused() -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        matrix = random_matrix(rng)
        for formula, fits in ((auc_published, "published formula"), (auc_from_hard_labels, "hard labels")):
            found = check_row(printed(matrix, formula, cut=number % 2 == 1))
            assert not any(finding.impossible for finding in found.findings) and found.num_counts > 0, matrix
            assert formula is auc_published or not found.findings, matrix
            assert found.auc_fits in (fits, "both"), matrix


def test_a_plane_that_is_never_right_is_no_reason_to_refuse() -> None:
    matrix = np.array([[0] * 5, [0, 60, 0, 5, 0], [0, 0, 65, 0, 0], [4, 0, 0, 60, 0], [3, 30, 6, 0, 0]])
    assert check_row(printed(matrix)).doubt() is None
    all_brain = np.zeros((5, 5), dtype=int)
    all_brain[1:, 2] = NUM_IMAGES
    assert check_row(printed(all_brain)).doubt() is None
    perfect = np.diag([0, *NUM_IMAGES])
    assert printed(perfect)["auc"] == 100 and check_row(printed(perfect)).doubt() is None


@pytest.mark.parametrize(
    ("changed", "metric", "words"),
    [
        (
            {"accuracy": 78.60},
            "accuracy",
            "accuracy 78.60 is not a fraction of 233 images: 183 give 78.54, 184 give 78.97",
        ),
        ({"recall": 95.14}, "recall", "recall 95.14 is not a mean over planes of 65, 65, 64, 39 images of which 183"),
        ({"precision": 92.44}, "precision", "precision 92.44 and F1 85.85"),
        ({"f1": 85.97}, "f1", "precision 97.44 and F1 85.97"),
        (
            {"auc": 78.76},
            "auc",
            "AUC 78.76 cannot be of predicted labels: the row's other scores allow 88.71 from hard labels and "
            "88.52 to 89.00",
        ),
        ({"auc": 89.60}, "auc", "implies a specificity of 101.06 %"),
        ({"auc": 89.60, "f1": 85.97}, "auc", "AUC 89.60 with recall 78.14 implies a specificity of 101.06 % if from"),
    ],
)
def test_a_changed_figure_is_named_with_its_numbers(changed: dict, metric: str, words: str) -> None:
    found = check_row(SAVED | changed)
    assert words in (found.doubt(metric) or ""), found
    if len(changed) == 1:
        assert found.doubt() == found.doubt(metric) and len(found.findings) == 1
        others = SAVED.keys() - found.findings[0].metrics
        assert all(found.doubt(name) is None for name in others)


def test_most_changes_of_one_figure_are_caught() -> None:
    """The figures of a row hang together so closely that a wrong digit rarely passes."""
    rng = np.random.default_rng(1)
    rows = [printed(SAVED_RUN) | {name: round(SAVED[name] + rng.uniform(-2, 2), 2)} for name in SAVED for _ in range(8)]
    caught = [check_row(row).doubt() is not None for row in rows if row != SAVED]
    assert np.mean(caught) > 0.7, caught


def test_the_papers_rows() -> None:
    """What the issue of the published tables rests on: six AUCs, and nothing else, of 24 rows."""
    start = time.process_time()
    first, second = published_table1(), published_table2()
    assert time.process_time() - start < 10, "under 2 s a row, all rows together"
    doubted = [(r["regime"], r["model"]) for r in first if check_row(r).findings]
    models = ["DenseNet169", "MobileNet v2", "EfficientNet b0", "ResNet18", "ViT b16"]
    assert doubted == [("ES", "ResNet18"), *(("HB", model) for model in models)]
    assert not any(check_row(r).findings for r in second)
    for row in first + second:
        found = check_row(row)
        assert found.num_counts > 0, "accuracy, recall, precision and F1 of every row have a confusion matrix"
        assert (found.auc_fits == "neither") == (row in first and row["regime"] == "HB"), row
        assert row["auc_doubt"] == (found.doubt("auc") is not None) == bool(found.findings)
        implied = 2 * float(row["auc"]) - float(row["recall"])
        assert (implied > 100.03) == (row["regime"] == "ES" and row["model"] == "ResNet18"), row


def test_the_papers_formula_can_give_the_row_that_hard_labels_cannot() -> None:
    """Table 1's ES ResNet18: a matrix with all five printed figures, so its AUC is odd but not impossible."""
    matrix = np.array([[0] * 5, [36, 25, 2, 0, 2], [3, 0, 62, 0, 0], [30, 0, 0, 34, 0], [26, 1, 5, 0, 7]])
    assert tuple(matrix.sum(1)[1:]) == NUM_IMAGES
    row = next(r for r in published_table1() if (r["regime"], r["model"]) == ("ES", "ResNet18"))
    assert printed(matrix) == {name: row[name] for name in SAVED}
    (finding,) = check_row(row).findings
    assert not finding.impossible and "specificity of 100.95 % if from hard labels" in finding.words
    assert "possible only by the paper's formula" in finding.words
