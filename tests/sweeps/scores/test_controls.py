"""What explains a gain, from intervals alone: verdicts, chance, and signs over centres of made-up trainings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fulora.controls import Controls
from fulora.evaluate.intervals import draw_resamples
from sweeps.core.schemas import SCHEMAS
from sweeps.scores.controls import Measured, centre_rows, control_rows, verdict
from sweeps.scores.predictions import TestImages

NUM = 240
RNG = np.random.default_rng(0)
TEST = TestImages(
    image_ids=[f"i{i:03d}" for i in range(NUM)], patient_ids=[f"p{i // 2}" for i in range(NUM)],
    centres=[("Algeria", "Egypt", "Ghana", "Malawi", "Uganda")[i // 48] for i in range(NUM)],
    labels=np.array([1 + i % 4 for i in range(NUM)]),
)  # fmt: skip


def predicted(right: float, *, seed: int, other: float = 0.0) -> np.ndarray:
    """Return probabilities [N, 5] of a training that gets a share of the images right; some errors are Other."""
    rng = np.random.default_rng(seed)
    guesses = np.where(rng.random(NUM) < right, TEST.labels, 1 + (TEST.labels + rng.integers(0, 3, NUM)) % 4)
    guesses = np.where((guesses != TEST.labels) & (rng.random(NUM) < other), 0, guesses)
    return 0.9 * np.eye(5)[guesses] + 0.02


def measured(shares: dict[str, float], num: int = 4, **more: Any) -> Measured:
    cells = {
        (name, "ResNet18"): {(k, 0): predicted(right, seed=100 * k + n, **more) for k in range(num)}
        for n, (name, right) in enumerate(shares.items())
    }
    return Measured(test=TEST, predicted=cells, resamples=draw_resamples(TEST.resampled, seed=0), seed=0)


SHARES = {"ES": 0.5, "HB": 0.8, "hb_priors": 0.79, "real_alone": 0.51, "shuffled_labels": 0.25}
CONTROLS = Controls(names=("hb_priors", "real_alone", "shuffled_labels"), augment=False)
FACTS = {(name, "ResNet18"): {"num_es": 9, "num_synthetic": 0, "num_steps": 7} for name in SHARES}


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], dict[str, Any]]:
    found = control_rows(measured(SHARES), CONTROLS, FACTS)
    assert all(set(row) <= set(SCHEMAS["controls"]) for row in found)
    return {(r["control"], r["metric"]): r for r in found}


def test_a_control_that_reaches_hb_explains_the_gain_and_one_that_stays_at_es_does_not(rows) -> None:
    verdicts = {name: rows[name, "accuracy"]["verdict"] for name in SHARES}
    assert verdicts == {
        "ES": None, "HB": None, "hb_priors": "explains it", "real_alone": "does not explain it",
        "shuffled_labels": None,
    }  # fmt: skip
    gain, left = rows["HB", "accuracy"], rows["real_alone", "accuracy"]
    assert gain["against_es"] == pytest.approx(rows["HB", "accuracy"]["value"] - rows["ES", "accuracy"]["value"])
    assert left["below_hb"] == pytest.approx(gain["value"] - left["value"]) and left["below_hb_low"] > 0
    assert gain["below_hb"] == gain["below_hb_low"] == 0 and gain["num_trainings"] == 4
    assert gain["covers"] == "patients, replicates and seeds" and gain["num_steps"] == 7


def test_shuffled_labels_hold_chance_whatever_share_goes_to_other(rows) -> None:
    row = rows["shuffled_labels", "recall"]
    assert row["verdict"] == "at chance" and row["value_low"] <= row["chance"] <= row["value_high"]
    assert row["chance"] == pytest.approx(25.0), "no image is predicted as Other here"
    leaking = control_rows(measured(SHARES | {"shuffled_labels": 0.6}), CONTROLS, FACTS)
    assert (
        next(r for r in leaking if (r["control"], r["metric"]) == ("shuffled_labels", "recall"))["verdict"]
        == "not at chance"
    )
    some = control_rows(measured(SHARES | {"shuffled_labels": 0.2}, other=0.5), CONTROLS, FACTS)
    assert next(r for r in some if (r["control"], r["metric"]) == ("shuffled_labels", "recall"))["chance"] < 20


def test_wide_intervals_and_single_trainings_have_no_verdict() -> None:
    known = {"control": "hb_priors", "metric": "accuracy", "num_trainings": 3}
    assert verdict({**known, "against_es_low": -1.0, "below_hb_low": -2.0}) == "undecided"
    assert verdict({**known, "against_es_low": 1.0, "below_hb_low": 0.5}) == "does not explain it"
    assert verdict({**known, "against_es_low": 1.0, "below_hb_low": -0.5, "num_trainings": 1}) is None
    single = control_rows(measured(SHARES, num=1), CONTROLS, FACTS)
    assert {r["verdict"] for r in single} == {None} and {r["covers"] for r in single} == {"patients"}


def test_a_control_that_failed_is_a_row_without_scores() -> None:
    found = control_rows(measured({"ES": 0.5, "HB": 0.8}), CONTROLS, FACTS)
    failed = [r for r in found if r["control"] == "hb_priors"]
    assert failed and all(r.get("value") is None and r["num_trainings"] == 0 for r in failed)


def test_differences_by_centre_and_their_signs() -> None:
    base, better = predicted(0.5, seed=1), predicted(0.8, seed=2)
    better[:48] = base[:48]  # Algeria: no difference
    better[48:96], base[48:96] = base[48:96].copy(), better[48:96].copy()  # Egypt: worse
    cells = {("ES", "ResNet18"): {(0, 0): base}, ("HB", "ResNet18"): {(0, 0): better}}
    found = Measured(test=TEST, predicted=cells, resamples=draw_resamples(TEST.resampled, seed=0), seed=0)
    rows = centre_rows(found, ["ResNet18", "ViT b16"])
    assert [r["centre"] for r in rows] == ["Algeria", "Egypt", "Ghana", "Malawi", "Uganda"]
    assert all(set(row) <= set(SCHEMAS["centres"]) for row in rows)
    signs = [np.sign(r["here"]) for r in rows]
    assert signs == [0, -1, 1, 1, 1] and {(r["num_centres"], r["num_positive"]) for r in rows} == {(5, 3)}
    assert all(r["p_sign"] == pytest.approx(0.625) for r in rows), "3 of 4 that differ"
    right = [(p.argmax(1) == TEST.labels) for p in (base, better)]
    for row, centre in zip(rows, range(5)):
        rest = np.arange(NUM) // 48 != centre
        assert row["here"] == pytest.approx(100 * (right[1][~rest].mean() - right[0][~rest].mean()))
        assert row["without"] == pytest.approx(100 * (right[1][rest].mean() - right[0][rest].mean()))
        assert (row["num_here"], row["num_without"], row["num_patients"]) == (48, 192, 24)
        assert row["here_low"] <= row["here"] <= row["here_high"]
    assert centre_rows(found, ["ViT b16"]) == []
