"""Differences that survive another training; one training announces nothing; equal cells are rarely told apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fulora.errors import InputError
from fulora.evaluate.differences import all_pairs, difference, holm, mean_difference
from fulora.evaluate.intervals import draw_resamples
from fulora.evaluate.power import power, replicates_needed
from fulora.evaluate.trainings import MeasuredTrainings

RESAMPLES = draw_resamples([f"{i:02d}" for i in range(60)], seed=0, num_resamples=400)
NAMES = tuple((i, j) for i in range(3) for j in range(2))


def cells(
    rng: np.random.Generator, means: np.ndarray, *, spread: float = 4.0, names: tuple[tuple[int, int], ...] = NAMES
) -> list[MeasuredTrainings]:
    """Return cells of normal scores around `means`: patients 10 points, luck with patients 10, trainings `spread`."""
    shared = 10 * rng.normal(size=60)
    found = []
    for mean in means:
        luck, skill = rng.normal(size=(len(names), 60)), rng.normal(size=(len(names), 1))
        by_patient = 60 + mean + shared + 3 * rng.normal(size=60) + 10 * luck + spread * skill
        found.append(
            MeasuredTrainings(
                trainings=names,
                values={"accuracy": by_patient.mean(1)},
                resampled={"accuracy": by_patient @ RESAMPLES.times.T / 60},
                collapsed=(False,) * len(names),
                num_patients=60,
            )
        )
    return found


def only(cell: MeasuredTrainings, *places: int) -> MeasuredTrainings:
    return MeasuredTrainings(
        trainings=tuple(cell.trainings[i] for i in places),
        values={k: v[list(places)] for k, v in cell.values.items()},
        resampled={k: v[list(places)] for k, v in cell.resampled.items()},
        collapsed=tuple(cell.collapsed[i] for i in places),
        num_patients=cell.num_patients,
    )


def test_one_training_of_each_announces_nothing_however_far_apart() -> None:
    before, after = (only(cell, 0) for cell in cells(np.random.default_rng(0), np.array([0, 30.0])))
    found = difference(before, after, "accuracy")
    assert found.estimate.low > 10 and found.estimate.covers == "patients"
    assert found.significant is None and found.p_adjusted is None
    assert all_pairs([before, after], "accuracy")[0, 1].significant is None
    assert mean_difference([(before, after)], "accuracy").significant is None


def test_a_difference_is_paired_by_training_and_survives_other_trainings() -> None:
    before, after = cells(np.random.default_rng(0), np.array([0, 20.0]))
    found = difference(before, after, "accuracy")
    expected = np.mean([after.values["accuracy"][i] - before.values["accuracy"][i] for i in range(6)])
    assert found.estimate.value == pytest.approx(expected) and found.num_unmatched == 0
    assert found.significant and found.estimate.low > 0 and found.p_adjusted == found.estimate.p_value < 0.05
    swapped = difference(after, before, "accuracy")
    assert swapped.estimate.value == -found.estimate.value and swapped.estimate.p_value == found.estimate.p_value
    same = difference(before, before, "accuracy")
    assert (same.estimate.value, same.estimate.p_value, same.significant) == (0, 1, False)
    fewer = difference(only(before, 0, 1, 2, 4), only(after, 0, 1, 2, 3), "accuracy")
    assert fewer.num_unmatched == 2 and fewer.estimate.num_trainings == 3
    apart = difference(only(before, 0), only(after, 1), "accuracy")
    assert np.isnan(apart.estimate.value) and apart.significant is None and apart.num_unmatched == 2


def test_a_p_value_is_small_where_the_interval_leaves_out_zero() -> None:
    rng = np.random.default_rng(1)
    found = [difference(*cells(rng, np.array([0, shift])), "accuracy") for shift in np.linspace(0, 15, 40)]
    outside = [f.estimate.low > 0 or f.estimate.high < 0 for f in found]
    assert outside == [f.significant for f in found] and 5 < sum(outside) < 35


def test_collapsed_models_are_left_out_of_a_mean_and_named() -> None:
    made = cells(np.random.default_rng(2), np.array([0, 10, 0, 10.0]))
    stuck = MeasuredTrainings(
        trainings=NAMES, values={"accuracy": np.full(6, 25.0)}, resampled={"accuracy": np.full((6, 400), 25.0)},
        collapsed=(True, True, True, False, False, False), num_patients=60,
    )  # fmt: skip
    pairs = [(made[0], made[1]), (made[2], stuck), (made[2], made[3])]
    found = mean_difference(pairs, "accuracy")
    assert found.left_out == (1,)
    assert found.estimate.value == mean_difference([pairs[0], pairs[2]], "accuracy").estimate.value
    assert mean_difference(pairs, "accuracy", keep_collapsed=True).left_out == ()
    assert stuck.has_collapsed and difference(made[2], stuck, "accuracy").estimate.value < -20
    nothing = mean_difference([pairs[1]], "accuracy")
    assert np.isnan(nothing.estimate.value) and nothing.significant is None and nothing.left_out == (0,)


def test_the_mean_of_models_is_surer_than_one_of_them() -> None:
    made = cells(np.random.default_rng(3), np.tile([0, 10.0], 5))
    pairs = list(zip(made[::2], made[1::2]))
    errors = [difference(*pair, "accuracy").estimate.standard_error for pair in pairs]
    assert mean_difference(pairs, "accuracy").estimate.standard_error < 0.7 * np.mean(errors)


def test_all_pairs_of_equal_cells_are_rarely_told_apart_and_a_far_one_is() -> None:
    rng = np.random.default_rng(4)
    names = tuple((i, 0) for i in range(3))
    own, corrected = 0, 0
    for _ in range(40):
        found = all_pairs(cells(rng, np.zeros(8), names=names), "accuracy").values()
        own += holm(np.array([d.estimate.p_value for d in found])).min() < 0.05
        corrected += any(d.significant for d in found)
        assert all(d.p_adjusted is not None and d.p_adjusted >= d.estimate.p_value for d in found)
    assert corrected <= 6, "2 expected"
    assert own > 10, "Holm's correction of each pair's own p-value does not hold its word with three replicates"
    far = all_pairs(cells(rng, np.array([0] * 7 + [25.0]), names=names), "accuracy")
    told = {pair for pair, d in far.items() if d.significant}
    assert told and told <= {(i, 7) for i in range(7)} and len(told) >= 5
    assert all_pairs([], "accuracy") == {} and list(far) == [(a, b) for a in range(8) for b in range(a + 1, 8)]


def test_pairs_of_one_training_do_not_count_among_those_tested() -> None:
    made = cells(np.random.default_rng(5), np.array([0, 20.0, 0]))
    found = all_pairs([made[0], made[1], only(made[2], 0)], "accuracy")
    assert found[0, 1].significant and found[0, 2].significant is None
    assert found[0, 1].p_adjusted == found[0, 1].estimate.p_value


def test_holm_as_by_hand() -> None:
    assert holm(np.array([0.04, 0.01, 0.03, 0.5])) == pytest.approx([0.09, 0.04, 0.09, 0.5])


def test_power_is_the_share_of_studies_that_announce_it_and_replicates_needed_is_where_it_suffices() -> None:
    rng = np.random.default_rng(6)
    known = {"spread": 5.0, "error_patients": 2.0, "num_patients": 60}
    draws = 7 + 2 * rng.normal(size=(20000, 1)) + 5 * rng.normal(size=(20000, 8))
    patients, trained = 4 * rng.chisquare(59, 20000) / 59, draws.var(1, ddof=1) / 8
    freedom = (patients + trained) ** 2 / (patients**2 / 59 + trained**2 / 7)
    share = np.mean(np.abs(draws.mean(1)) > stats.t.isf(0.025, freedom) * np.sqrt(patients + trained))
    assert power(7, num_replicates=8, **known) == pytest.approx(share, abs=0.02)
    needed = replicates_needed(7, **known)
    assert needed is not None and power(7, num_replicates=needed, **known) >= 0.8
    assert power(7, num_replicates=needed - 1, **known) < 0.8
    assert replicates_needed(30, **known) in (2, 3) and replicates_needed(3, **known) is None
    assert power(7, num_replicates=1, **known) == 0
    assert power(1, num_replicates=2, spread=0, error_patients=0, num_patients=2) == 1
    assert power(0, num_replicates=5, **known) == pytest.approx(0.05, abs=1e-6)
    for changed in ({"spread": -1}, {"error_patients": np.nan}, {"num_patients": 1}):
        with pytest.raises(InputError, match=next(iter(changed))):
            power(7, num_replicates=3, **(known | changed))
