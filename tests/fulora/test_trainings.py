"""Scores and differences over patients, replicates and seeds hold what their intervals say they cover."""

from __future__ import annotations

import numpy as np
import pytest

from fulora.errors import InputError
from fulora.evaluate.clusters import merge_patients
from fulora.evaluate.inference import Estimate, estimate
from fulora.evaluate.intervals import draw_resamples, measure
from fulora.evaluate.scores import score
from fulora.evaluate.trainings import ALL_METRICS, MeasuredTrainings, is_collapsed, measure_trainings, name_trainings

LABELS = np.tile([1, 2, 3, 4], 60)
PATIENTS = [f"patient {i // 4}" for i in range(240)]
RESAMPLES = draw_resamples(PATIENTS, seed=0)


def classifiers(num_replicates: int, num_seeds: int, *, spread: float = 0.5, seed: int = 0) -> np.ndarray:
    """Return probabilities [L, S, 240, 5] of trainings that differ in skill, on patients that differ in difficulty."""
    rng = np.random.default_rng(seed)
    hard = np.repeat(rng.normal(0, 1, 60), 4)
    skill = (
        1
        + spread * rng.normal(0, 1, (num_replicates, 1, 1))
        + spread * rng.normal(0, 1, (num_replicates, num_seeds, 1))
    )
    logits = rng.normal(0, 1, (num_replicates, num_seeds, 240, 5))
    logits[..., np.arange(240), LABELS] += skill + hard
    odds = np.exp(logits)
    return odds / odds.sum(-1, keepdims=True)


def measured(predictions: np.ndarray) -> MeasuredTrainings:
    return measure_trainings(name_trainings(predictions), LABELS, RESAMPLES)


def of(cell: MeasuredTrainings, metric: str = "accuracy") -> Estimate:
    return estimate(cell.trainings, cell.values[metric], cell.resampled[metric], cell.num_patients)


def test_scores_of_every_training_and_their_mean_over_unequal_replicates() -> None:
    made = classifiers(2, 3)
    ragged = [list(made[0]), [made[1, 0]]]
    cell = measure_trainings(name_trainings(ragged), LABELS, RESAMPLES)
    assert cell.trainings == ((0, 0), (0, 1), (0, 2), (1, 0))
    for name, value in score(made[0, 1], LABELS).items():
        assert cell.values[name][1] == pytest.approx(value)
    assert set(cell.values) == set(cell.resampled) == set(ALL_METRICS)
    total = sum(cell.values[name] for name in ("accuracy", "share_other", "share_wrong_plane"))
    assert total == pytest.approx(np.full(4, 100))
    resampled = sum(cell.resampled[name] for name in ("accuracy", "share_other", "share_wrong_plane"))
    assert resampled == pytest.approx(np.full((4, 2000), 100))
    assert (cell.values["accuracy_4way"] >= cell.values["accuracy"]).all()
    by_replicate = cell.values["f1"][:3].mean(), cell.values["f1"][3]
    assert cell.mean("f1") == of(cell, "f1").value == pytest.approx(np.mean(by_replicate))
    assert cell.resampled["auc"][0] == pytest.approx(measure(made[0, 0], LABELS, RESAMPLES).resampled["auc"])


def test_what_an_interval_covers_is_what_was_repeated() -> None:
    made = classifiers(3, 2)
    full, seeds, one = of(measured(made)), of(measured(made[:1])), of(measured(made[:1, :1]))
    assert [e.covers for e in (full, seeds, one)] == [
        "patients, replicates and seeds",
        "patients and seeds",
        "patients",
    ]
    assert (full.num_replicates, full.num_trainings, full.num_patients) == (3, 6, 60)
    assert full.components.replicates is not None and full.components.seeds is not None
    assert seeds.components.replicates is None and seeds.components.seeds is not None
    assert (one.components.trainings, one.components.replicates, one.components.seeds) == (None, None, None)
    assert of(measured(made[:, :1])).components.seeds is None
    for found in (full, seeds, one):
        assert found.low < found.value < found.high and found.components.patients > 1
    low, high = np.percentile(measured(made[:1, :1]).resampled["accuracy"], [2.5, 97.5])
    assert (one.low, one.high) == pytest.approx((low, high), abs=1), "patients alone: as the percentile interval"


def test_components_are_those_that_the_trainings_were_made_with() -> None:
    """Many replicates of normal scores: the standard deviations come back, patients' luck taken off."""
    rng = np.random.default_rng(0)
    names = [(i, j) for i in range(300) for j in range(3)]
    by_patient = 10 * rng.normal(size=(900, 60)) + 5 * rng.normal(size=60)
    by_patient += np.repeat(4 * rng.normal(size=300), 3)[:, None] + 2 * rng.normal(size=(900, 1))
    resampled = by_patient @ RESAMPLES.times.T / 60
    found = estimate(names, by_patient.mean(1), resampled, 60).components
    assert found.replicates == pytest.approx(4, rel=0.15) and found.seeds == pytest.approx(2, rel=0.15)
    assert found.patients == pytest.approx(5 / np.sqrt(60), rel=0.3)
    assert found.trainings == pytest.approx(np.sqrt((16 + 4 / 3) / 300), rel=0.15)


def crossed_error(by_patient: np.ndarray, rng: np.random.Generator, num: int = 4000) -> float:
    """Return the standard error by a bootstrap of replicates, seeds within them, and patients, [L, S, P].

    Each level's draws vary by (n - 1) / n too little: scaled up. It counts interactions more than once, as Owen shows.
    """
    L, S, P = by_patient.shape
    replicate = rng.integers(L, size=(num, L))
    seed = rng.integers(S, size=(num, L, S))
    patient = rng.multinomial(P, np.full(P, 1 / P), size=num) / P
    drawn = by_patient[replicate[:, :, None], seed].mean((1, 2))
    return float(np.einsum("np,np->n", drawn, patient).std())


def test_the_standard_error_is_that_of_a_crossed_bootstrap() -> None:
    """With many of each, so that the bootstrap's own shortfalls are small, and a modest interaction."""
    rng = np.random.default_rng(3)
    by_patient = 6 * rng.normal(size=(1, 1, 60)) + rng.normal(size=(20, 1, 1)) + 0.7 * rng.normal(size=(20, 5, 1))
    by_patient = by_patient + rng.normal(size=(20, 5, 60))
    values = by_patient.reshape(100, 60)
    names = [(i, j) for i in range(20) for j in range(5)]
    found = estimate(names, values.mean(1), values @ RESAMPLES.times.T / 60, 60)
    assert found.standard_error == pytest.approx(crossed_error(by_patient, rng), rel=0.06)
    assert found.components.patients < 0.97 * found.standard_error > found.components.trainings


def test_an_interaction_is_counted_once_where_the_crossed_bootstrap_counts_it_more_than_once() -> None:
    """Trainings differ by their luck with patients alone: against the true error, over many studies."""
    rng = np.random.default_rng(4)
    ours, crossed, truth = [], [], np.sqrt((25 + 100 / 6) / 60)
    for _ in range(40):
        by_patient = 5 * rng.normal(size=(1, 1, 60)) + 10 * rng.normal(size=(6, 1, 60))
        values = by_patient[:, 0]
        found = estimate([(i, 0) for i in range(6)], values.mean(1), values @ RESAMPLES.times.T / 60, 60)
        ours.append(found.standard_error**2)
        crossed.append(crossed_error(by_patient, rng, 500) ** 2)
    assert np.sqrt(np.mean(ours)) == pytest.approx(truth, rel=0.12)
    assert np.sqrt(np.mean(crossed)) > 1.12 * truth


def test_intervals_of_three_replicates_hold_the_truth() -> None:
    """Replicates differ by far more than patients do: patients alone would cover a third."""
    rng = np.random.default_rng(5)
    held = {"all": 0, "patients": 0}
    for _ in range(300):
        by_patient = 3 * rng.normal(size=60) + 2 * rng.normal(size=(3, 1)) + 5 * rng.normal(size=(3, 60))
        resampled = by_patient @ RESAMPLES.times[:300].T / 60
        found = estimate([(i, 0) for i in range(3)], by_patient.mean(1), resampled, 60)
        held["all"] += found.low <= 0 <= found.high
        held["patients"] += abs(found.value) <= 2 * found.components.patients
    assert 0.92 <= held["all"] / 300 <= 0.98
    assert held["patients"] / 300 < 0.7


def test_the_interval_is_never_narrower_than_that_of_the_trainings_alone() -> None:
    """Three replicates far apart: two degrees of freedom, whatever the patients' many say."""
    from scipy import stats

    values = np.array([40.0, 50, 60])
    resampled = values[:, None] + np.random.default_rng(0).normal(0, 3, 500)
    found = estimate([(i, 0) for i in range(3)], values, resampled, 60)
    assert found.high - found.value == pytest.approx(stats.t.isf(0.025, 2) * 10 / np.sqrt(3), rel=1e-6)
    assert found.p_value > 0.01


def test_replicates_vary_at_least_as_their_seeds_do() -> None:
    """Means of replicates that are equal by luck, of seeds far apart: the seeds' variance counts, with more freedom."""
    resampled = np.random.default_rng(0).normal(60, 1, 400)
    names = [(i, j) for i in range(3) for j in range(2)]
    lucky = estimate(names, np.array([50, 70, 51, 69, 49, 71.0]), np.broadcast_to(resampled, (6, 400)), 60)
    assert lucky.variances.freedom == 5 and lucky.components.replicates == 0
    pooled = (2 * 0 + 3 * np.mean([200, 162, 242]) / 2 / 3) / 5
    assert lucky.variances.trainings == pytest.approx(pooled)
    many = [(i, j) for i in range(4) for j in range(2)]
    more = estimate(many, np.tile([50, 70.0], 4), np.broadcast_to(resampled, (8, 400)), 60)
    assert (more.variances.freedom, more.variances.trainings) == (3, 0), "four know their own variance well enough"
    apart = estimate(names, np.array([50, 51, 60, 61, 70, 71.0]), np.broadcast_to(resampled, (6, 400)), 60)
    assert apart.variances.freedom == 2 and apart.variances.trainings == pytest.approx(100 / 3)


def test_one_patient_and_equal_trainings() -> None:
    alone = draw_resamples(["a"] * 240, seed=0)
    cell = measure_trainings(name_trainings(classifiers(2, 2)), LABELS, alone)
    found = of(cell)
    assert found.covers == "nothing" and np.isnan([found.low, found.high, found.standard_error]).all()
    assert found.p_value == 1 and found.components.replicates is not None and found.components.replicates >= 0
    one_plane = measure_trainings(name_trainings(classifiers(2, 2)), np.full(240, 2), RESAMPLES)
    assert of(one_plane, "auc").covers == "nothing" and of(one_plane, "auc").p_value == 1, "an AUC needs two planes"
    assert of(one_plane, "recall").covers == "patients, replicates and seeds"
    perfect = measured(np.broadcast_to(np.eye(5)[LABELS], (3, 2, 240, 5)))
    found = of(perfect, "f1")
    assert (found.value, found.low, found.high, found.standard_error) == (100, 100, 100, 0)
    wide = estimate([(0, 0), (1, 0)], np.array([90.0, 99.0]), np.full((2, 4), 95.0), 60)
    assert wide.high > 100 and wide.clipped()[1] == 100


def test_a_classifier_that_says_one_class_has_collapsed_even_with_a_slip() -> None:
    stuck = np.full((240, 5), 0.1)
    stuck[:, 2] = 0.6
    stuck[0, 3] = 0.9
    assert is_collapsed(stuck, LABELS) and not is_collapsed(classifiers(1, 1)[0, 0], LABELS)
    assert not is_collapsed(stuck[:, :], np.full(240, 2)), "all images are of that class"
    stuck[:4, 3] = 0.9
    assert not is_collapsed(stuck, LABELS)


def test_faults() -> None:
    with pytest.raises(InputError, match="at least one training"):
        measure_trainings({}, LABELS, RESAMPLES)
    with pytest.raises(InputError, match=r"training \(0, 1\): \(239, 240, 240\)"):
        measure_trainings({(0, 0): classifiers(1, 1)[0, 0], (0, 1): np.zeros((239, 5))}, LABELS, RESAMPLES)


def test_patients_who_share_an_image_are_one() -> None:
    patients = ["d", "c", "b", "a", "e", "f", "f"]
    hashes = ["1", "1", "2", "3", "4", "5", "3"]
    assert merge_patients(patients, hashes) == ["c", "c", "b", "a", "e", "a", "a"]
    chain = merge_patients(["a", "b", "b", "c", "c", "d"], ["1", "1", "2", "2", "3", "3"])
    assert chain == ["a"] * 6
    backwards = merge_patients(patients[::-1], hashes[::-1])
    assert backwards[::-1] == merge_patients(patients, hashes)
    assert merge_patients(["a", "b"], ["", ""]) == ["a", "b"], "an unknown hash is equal to none"
    with pytest.raises(InputError, match="as many pixel hashes"):
        merge_patients(["a"], [])
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(30) < 0.6, 2)
    probabilities = np.where(right[:, None], np.eye(5)[2], np.eye(5)[1])
    twice = [f"{i}" for i in range(60)]
    merged = merge_patients(twice, [f"{i // 2}" for i in range(60)])
    errors = []
    for ids in (twice, merged):
        cell = measure_trainings({(0, 0): probabilities}, np.full(60, 2), draw_resamples(ids, seed=0))
        errors.append(of(cell).standard_error)
    assert errors[1] == pytest.approx(np.sqrt(2) * errors[0], rel=0.1), "images filed twice are no news"
