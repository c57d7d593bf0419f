"""The attack says 50 where nothing tells members apart, and its interval is as wide as patients make it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fulora.errors import InputError
from fulora.evaluate.membership import MembershipAttack, membership_attack, nearest_sample_scores


def attack(members: np.ndarray, others: np.ndarray, per_patient: int = 1, seed: int = 0) -> MembershipAttack:
    return membership_attack(
        members,
        others,
        member_patients=[f"member {i // per_patient}" for i in range(len(members))],
        other_patients=[f"other {i // per_patient}" for i in range(len(others))],
        seed=seed,
    )


def test_the_auc_is_scikit_learns_and_repeats() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(0.5, 1, 80).round(1), rng.normal(0, 1, 120).round(1)
    found = attack(members, others)
    truth = np.repeat([1, 0], [80, 120])
    assert found.auc == pytest.approx(100 * roc_auc_score(truth, np.concatenate([members, others])))
    assert found.low < found.auc < found.high and found.leaks and (found.num_members, found.num_others) == (80, 120)
    assert found == attack(members, others) != attack(members, others, seed=1)


def test_intervals_hold_fifty_where_nothing_leaks_though_patients_images_are_alike() -> None:
    rng = np.random.default_rng(1)
    held = {1: 0, 4: 0}
    for _ in range(150):
        members, others = (np.repeat(rng.normal(size=40), 4) + 0.3 * rng.normal(size=160) for _ in range(2))
        for per_patient in held:
            found = attack(members, others, per_patient)
            held[per_patient] += found.low <= 50 <= found.high
    assert 0.89 <= held[4] / 150 <= 0.99
    assert held[1] / 150 < 0.8, "images taken for independent"


def test_samples_that_repeat_training_images_give_the_members_away() -> None:
    rng = np.random.default_rng(2)
    members, others, samples = rng.normal(size=(50, 16)), rng.normal(size=(60, 16)), rng.normal(size=(100, 16))
    nothing = attack(nearest_sample_scores(members, samples), nearest_sample_scores(others, samples))
    assert not nothing.leaks and nothing.low < 50 < nothing.high
    samples[:50] = 3 * members + 0.1 * rng.normal(size=(50, 16))
    copied = attack(nearest_sample_scores(members, samples), nearest_sample_scores(others, samples))
    assert copied.auc > 99 and copied.leaks


def test_one_patient_and_faults() -> None:
    scores = np.arange(6.0)
    found = attack(scores, scores, per_patient=6)
    assert found.auc == 50 and np.isnan(found.low) and not found.leaks
    with pytest.raises(InputError, match="must not hold patients of the members"):
        membership_attack(scores, scores, member_patients=["a"] * 6, other_patients=["a"] * 6, seed=0)
    for members in (scores[:0], scores * np.nan):
        with pytest.raises(InputError, match=r"members: .* equally many, at least one, and finite"):
            attack(members, scores)
    with pytest.raises(InputError, match="from one extractor"):
        nearest_sample_scores(np.zeros((3, 4)), np.zeros((3, 5)))
