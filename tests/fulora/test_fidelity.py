"""FID, KID, precision and recall give known answers, at equal numbers of images and without a patient on both sides."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.linalg import sqrtm

from fulora.errors import InputError
from fulora.evaluate.fidelity import baseline, comparable_size, fid, kid_full, measure, precision_recall


def normal(num: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, width))


def exactly(mean: np.ndarray, root: np.ndarray, num: int, seed: int) -> np.ndarray:
    """Return features whose sample mean is `mean` and whose sample covariance is root' root, to rounding."""
    rows = normal(num, len(mean), seed)
    rows = np.linalg.qr(rows - rows.mean(0))[0] * np.sqrt(num - 1)
    return rows @ root + mean


def test_fid_of_exact_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    means, roots = rng.standard_normal((2, 8)), rng.standard_normal((2, 8, 8))
    a, b = (exactly(means[i], roots[i], 200 + 50 * i, seed=i) for i in range(2))
    ca, cb = (root.T @ root for root in roots)
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(ca + cb - 2 * np.real(sqrtm(ca @ cb)))
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)
    # Axes in common: per axis the squares of the differences of mean and deviation.
    deviations = np.array([[1.0, 2, 3], [4, 2, 0.5]])
    c, d = (exactly(np.array([i, 0.0, 2 * i]), np.diag(deviations[i]), 50, seed=i) for i in range(2))
    assert fid(c, d) == pytest.approx(1 + 4 + 9 + 0 + 6.25, rel=1e-9)


def test_fid_of_many_samples_comes_close_to_the_closed_form() -> None:
    a, b = normal(40000, 4, seed=0), 2 * normal(40000, 4, seed=1) + 1
    assert fid(a, b) == pytest.approx(4 + 4, rel=0.03)
    assert fid(a, b) == fid(a, b) == pytest.approx(fid(b, a))


def test_fid_of_fewer_images_than_features_is_the_matrix_root_formula() -> None:
    a, b = normal(20, 64, seed=0), normal(30, 64, seed=1) + 0.3
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # Singular covariances: the root's trace from the eigenvalues, which are not negative but for rounding.
    eigenvalues = np.linalg.eigvals(ca @ cb).real.clip(0)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * np.sqrt(eigenvalues).sum()
    assert fid(a, b) == pytest.approx(expected, rel=1e-5)
    # Two points each: one axis. Apart along it, and at right angles (nothing shared).
    two = np.array([[1.0, 0, 0], [-1, 0, 0]])
    assert fid(two, 3 * two) == pytest.approx((3 * np.sqrt(2) - np.sqrt(2)) ** 2)
    assert fid(two, np.roll(two, 1, axis=1)) == pytest.approx(4)


@pytest.mark.parametrize("shape", [(300, 16), (20, 200), (2, 5)])
def test_equal_sets_have_fid_zero_never_below(shape: tuple[int, int]) -> None:
    rows = normal(*shape) * 100 + 50
    for other in (rows, rows[::-1]):
        assert 0 <= fid(rows, other) < 1e-9 * np.square(rows).sum() / len(rows)
    assert fid(np.ones(shape), np.ones(shape)) == 0


def test_kid_of_three_points_by_hand() -> None:
    """k(x, y) = (x.y / 2 + 1)^3. Within a: 1, 1, 1. Within b: 1, 27, 1. Across: 3 + 55 + 29 over 9 pairs."""
    a = np.array([[0.0, 0], [2, 0], [0, 2]])
    b = np.array([[2.0, 2], [0, 0], [2, 0]])
    expected = 1 + 29 / 3 - 2 * 87 / 9
    assert kid_full(a, b) == pytest.approx(expected)
    # Unequal sides: within b 1; across 1 + 1, 1 + 27 and 1 + 1 over 6 pairs.
    assert kid_full(a, b[1:]) == pytest.approx(1 + 1 - 2 * 32 / 6)


def test_kid_is_the_plain_mean_over_all_pairs() -> None:
    a, b = normal(520, 3, seed=0), normal(600, 3, seed=1) + 0.4  # more rows than are looked at in one go

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / 3 + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
    assert kid_full(a, b) == pytest.approx(sum(within) - 2 * kernel(a, b).mean())


def test_the_deviation_of_kid_is_that_over_halves_of_both_sides() -> None:
    """Six images a side have 20 halves: the deviation over all 400 pairs of halves is what 100 drawn ones estimate."""
    a, b = normal(6, seed=0), normal(6, seed=1) + 0.4
    halves = [list(rows) for rows in itertools.combinations(range(6), 3)]
    exact = np.std([kid_full(a[mine], b[theirs]) for mine in halves for theirs in halves])
    found = [measure(a, b, features="", seed=seed) for seed in range(100)]
    assert np.sqrt(np.mean([one.kid_deviation**2 for one in found])) == pytest.approx(exact, rel=0.05)
    assert len({one.kid_deviation for one in found}) == 100
    assert found[0] == measure(a, b, features="", seed=0)


def test_kid_is_unbiased_and_fid_is_not() -> None:
    draws = [(normal(30, seed=2 * r), normal(30, seed=2 * r + 1)) for r in range(400)]
    values = np.array([kid_full(a, b) for a, b in draws])
    assert abs(values.mean()) < 4 * values.std() / 20
    assert 0.3 < (values < 0).mean() < 0.75
    assert min(fid(a, b) for a, b in draws[:20]) > 0.1


def test_the_deviation_of_kid_is_its_standard_error() -> None:
    """Over repeats of independent images that differ; and on the safe side, up to root 3, where they do not."""
    for shift, low, high in ((0.5, 0.85, 1.25), (0.0, 1.0, 2.1)):
        drawn = [(normal(60, seed=2 * r), normal(60, seed=2 * r + 1) + shift) for r in range(150)]
        found = [measure(a, b, features="", seed=r) for r, (a, b) in enumerate(drawn)]
        true = np.std([f.kid for f in found])
        assert low < np.sqrt(np.mean([f.kid_deviation**2 for f in found])) / true < high


def test_precision_and_recall_at_their_ends() -> None:
    real = normal(300)
    assert precision_recall(real, real) == precision_recall(real, real[::-1] + 0.0) == (100, 100)
    repeated = np.repeat(real[:50], 6, axis=0)  # Every neighbour is a repeat: all distances are 0.
    assert precision_recall(repeated, repeated) == (100, 100)
    turned = 1e3 * np.repeat(normal(50, 40), 6, axis=0)[::-1] @ np.linalg.qr(normal(40, 40, seed=1))[0]
    assert precision_recall(turned, turned[np.random.default_rng(0).permutation(300)]) == (100, 100)
    assert precision_recall(real, real + 1000) == (0, 0)
    collapsed = real[0] + 1e-3 * normal(300, seed=1)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 100 and recall < 2
    assert precision_recall(collapsed, real) == (recall, precision)


@pytest.mark.parametrize("numbers", [(60, 45), (512, 513), (1100, 700)])
def test_precision_and_recall_are_those_of_all_distances(numbers: tuple[int, int]) -> None:
    real, generated = normal(numbers[0], 3, seed=0) + 100, 1.3 * normal(numbers[1], 3, seed=1) + 100.5
    for k in (1, 3, 5):

        def inside(points: np.ndarray, others: np.ndarray, k: int = k) -> float:
            own = np.linalg.norm(others[:, None] - others, axis=2)
            reach = np.sort(own, axis=1)[:, k]
            return 100 * (np.linalg.norm(points[:, None] - others, axis=2) <= reach).any(1).mean()

        expected = inside(generated, real), inside(real, generated)
        assert precision_recall(real, generated, k=k) == pytest.approx(expected)
        assert 5 < expected[0] < 95


def test_measure_takes_equal_numbers_and_repeats() -> None:
    real, generated = normal(90, seed=0), normal(40, seed=1) + 0.2
    found = measure(real, generated, features="judge", seed=0)
    assert (found.num_real, found.num_generated, found.features) == (40, 40, "judge")
    assert found == measure(real, generated, features="judge", seed=0)
    other = measure(real, generated, features="judge", seed=1)
    assert found.fid != other.fid
    twelve = measure(real, generated, features="judge", seed=0, size=12)
    assert (twelve.num_real, twelve.num_generated) == (12, 12) and twelve.fid > found.fid
    whole = measure(real[:40], generated, features="judge", seed=0)
    assert whole.fid == fid(real[:40], generated) and whole.kid == pytest.approx(kid_full(real[:40], generated))
    assert (whole.precision, whole.recall) == precision_recall(real[:40], generated)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.fid = 0  # type: ignore[misc]


def test_baseline_has_no_patient_on_both_sides_and_the_size_asked_for() -> None:
    rng = np.random.default_rng(0)
    # Patients far apart, the images of one close together: neighbours on the other side would be the same patient's.
    groups = np.repeat([f"patient {number}" for number in range(15)], 8)
    apart = np.repeat(1e3 * normal(15, 40), 8, axis=0) + normal(120, 40, seed=1)
    found = [baseline(apart, groups=groups, size=56, features="", seed=seed) for seed in range(20)]
    assert [(one.precision, one.recall) for one in found if one] == [(0, 0)] * 20
    assert len({one.fid for one in found if one}) > 10, "the seed decides who is on which side"
    mixed = baseline(apart, groups=[str(row) for row in range(120)], size=60, features="", seed=0)
    assert mixed is not None and mixed.precision > 50 and mixed.recall > 50
    groups = np.array([f"patient {number}" for number in rng.integers(0, 30, 120)])
    real = normal(120)
    size = comparable_size(groups, 50)
    assert size == 50 and comparable_size(groups, 5000) in (59, 60)
    found = baseline(real, groups=groups, size=size, features="judge", seed=0)
    beside = measure(real, normal(50, seed=1), features="judge", seed=0, size=size)
    assert found is not None and (found.num_real, found.num_generated) == (50, 50)
    assert (beside.num_real, beside.num_generated) == (50, 50)
    assert found.fid == pytest.approx(beside.fid, rel=0.5) and abs(found.kid) < 4 * found.kid_deviation
    assert found == baseline(real, groups=list(groups), size=size, features="judge", seed=0)


def test_patients_who_are_alike_in_themselves_show_in_the_baseline_only_when_split_by_patient() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 12)
    real = 3 * rng.standard_normal((10, 6))[groups] + 0.1 * normal(120)
    by_patient = baseline(real, groups=groups, size=60, features="", seed=0)
    by_image = baseline(real, groups=np.arange(120), size=60, features="", seed=0)
    assert by_patient is not None and by_image is not None
    assert by_patient.fid > 3 * by_image.fid and by_patient.recall < 20 < 90 < by_image.recall


def test_no_baseline_of_too_few() -> None:
    assert baseline(normal(20), groups=["a"] * 20, size=4, features="", seed=0) is None
    assert baseline(normal(20), groups=["a"] * 17 + ["b"] * 3, size=4, features="", seed=0) is None
    assert baseline(np.zeros((0, 6)), groups=[], size=4, features="", seed=0) is None
    assert comparable_size(["a"] * 20, 9) == comparable_size([], 9) == 0
    with pytest.raises(InputError, match=r"size: 5 must be from 4 to .* \(4\)"):
        baseline(normal(8), groups=list("aaaabbbb"), size=5, features="", seed=0)
    with pytest.raises(InputError, match=r"groups: 3 must be as many"):
        baseline(normal(8), groups=list("aaa"), size=4, features="", seed=0)


def test_faults_name_field_value_rule_and_remedy() -> None:
    good, bad = normal(10), normal(10)
    bad[3, 2] = np.nan
    bad[4, 1] = np.inf
    with pytest.raises(InputError) as error:
        measure(bad, good[:3], features="", seed=0)
    assert error.value.faults == (
        "real: 2 of 10 rows hold numbers that are not finite. Look at these images and at the extractor",
        "generated: 3 must be at least 4 images. Give more images",
    )
    for call in (
        lambda: fid(good, good[:1]),
        lambda: fid(good, good[:, :3]),
        lambda: fid(good[0], good),
        lambda: kid_full(good, bad),
        lambda: precision_recall(good[:3], good),
        lambda: precision_recall(good, good, k=0),
        lambda: measure(good, good, features="", seed=0, size=11),
    ):
        with pytest.raises(InputError, match=r"^\w[\w ]*: .* must be|not finite"):
            call()
