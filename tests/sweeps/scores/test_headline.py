"""The headline table: which way it points, when it is significant, and the published change beside it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fulora.endpoint import Endpoint
from fulora.evaluate.differences import difference
from fulora.evaluate.inference import SPREAD_ASSUMED
from fulora.evaluate.intervals import draw_resamples
from fulora.evaluate.power import replicates_needed
from fulora.evaluate.published import published_table1
from fulora.evaluate.trainings import MeasuredTrainings, measure_trainings, name_trainings
from sweeps.scores.headline import headline_rows

MODELS = ("DenseNet169", "ResNet18")
PATIENTS = [f"p{i // 2}" for i in range(80)]
LABELS = np.tile(np.arange(1, 5), 20)

Cells = dict[tuple[str, str], MeasuredTrainings]


def _measured(
    shares: dict[tuple[str, str], float], patients: list[str] = PATIENTS, *, num: tuple[int, int] = (1, 4),
    spread: float = 0.0,
) -> Cells:  # fmt: skip
    """Return classifiers that are right in a share of the images; trainings [L, S] differ by a spread in that share."""
    resamples = draw_resamples(patients, seed=0, num_resamples=400)
    found = {}
    for index, (cell, share) in enumerate(shares.items()):
        rng = np.random.default_rng(index)
        rights = [[rng.random(len(LABELS)) < np.clip(share + spread * rng.standard_normal(), 0, 1)
                   for _ in range(num[1])] for _ in range(num[0])]  # fmt: skip
        answers = [[np.eye(5)[np.where(right, LABELS, 0)] for right in seeds] for seeds in rights]
        found[cell] = measure_trainings(name_trainings(answers), LABELS, resamples)
    return found


SHARES = {("ES", "DenseNet169"): 0.4, ("ES", "ResNet18"): 0.5, ("HB", "DenseNet169"): 0.9, ("HB", "ResNet18"): 0.8}


def test_a_change_is_regime_minus_reference_averaged_over_models() -> None:
    measured = _measured(SHARES)
    rows = headline_rows(measured, models=MODELS, num_images=80)
    assert {(r["regime"], r["reference"]) for r in rows} == {("HB", "ES")}, "HB+DA has no scores"
    row = next(r for r in rows if r["metric"] == "accuracy")
    gains = [measured["HB", m].mean("accuracy") - measured["ES", m].mean("accuracy") for m in MODELS]
    assert row["change"] == pytest.approx(np.mean(gains)) and row["low"] < row["change"] < row["high"]
    assert row["significant"] is True
    assert (row["models"], row["num_models"]) == ("DenseNet169, ResNet18", 2)
    assert (row["num_test"], row["num_patients"]) == (80, 40)


def test_the_interval_is_that_of_the_pairwise_comparison_where_there_is_one_model() -> None:
    """One model: the mean over models is the pair's own difference, so both tables must say the same."""
    measured = _measured({cell: share for cell, share in SHARES.items() if cell[1] == "ResNet18"})
    pair = difference(*measured.values(), "f1").estimate
    row = next(r for r in headline_rows(measured, models=MODELS, num_images=80) if r["metric"] == "f1")
    assert (row["change"], row["low"], row["high"]) == pytest.approx((pair.value, pair.low, pair.high))


def test_equal_regimes_do_not_differ_significantly_and_a_loss_may() -> None:
    measured = _measured(SHARES)
    for pair, expected in ((("ES", "ES"), False), (("ES", "HB"), True)):
        same = {("ES", m): measured["ES", m] for m in MODELS} | {("AF", m): measured[pair[1], m] for m in MODELS}
        endpoint = Endpoint(metric="accuracy", regime="ES", reference="AF")
        row = headline_rows(same, models=MODELS, num_images=80, endpoint=endpoint)[0]
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


def _row(cells: Cells, metric: str = "accuracy") -> dict:
    return next(r for r in headline_rows(cells, models=MODELS, num_images=80) if r["metric"] == metric)


def test_one_training_claims_nothing_and_several_are_part_of_the_interval() -> None:
    """The gain is large and so is the spread of trainings: patients alone would call it certain."""
    alone = _row(_measured(SHARES, num=(1, 1)))
    assert alone["low"] > 0 and alone["significant"] is alone["p_value"] is alone["se_trainings"] is None
    assert (alone["covers"], alone["num_trainings"]) == ("patients", 1)
    steady, shaky = (_row(_measured(SHARES, spread=spread)) for spread in (0.01, 0.25))
    assert steady["significant"] is True and steady["num_trainings"] == 4
    assert steady["covers"] == shaky["covers"] == "patients and seeds"
    assert shaky["high"] - shaky["low"] > 1.5 * (steady["high"] - steady["low"])
    whole = _row(_measured(SHARES, num=(3, 2), spread=0.05))
    assert (whole["covers"], whole["num_replicates"]) == ("patients, replicates and seeds", 3)


def test_the_replicates_needed_are_those_of_the_spread_measured_or_assumed_with_one_training() -> None:
    sure = {cell: 0.99 if cell[0] == "HB" else 0.98 for cell in SHARES}  # patients hardly differ
    found = [_row(_measured(sure, num=num, spread=0.02)) for num in ((3, 4), (1, 1))]
    spreads = (found[0]["se_trainings"] * np.sqrt(3), SPREAD_ASSUMED)
    for row, spread in zip(found, spreads):
        known = {"error_patients": row["se_patients"], "num_patients": 40, "spread": spread}
        assert row["replicates_needed"] == replicates_needed(5, **known) is not None
    assert _row(_measured(SHARES, num=(1, 1)))["replicates_needed"] is None, "40 patients are too few"


def test_a_model_that_collapsed_is_left_out_of_the_mean_and_named() -> None:
    measured = _measured(SHARES)
    without = headline_rows(measured, models=["ResNet18"], num_images=80)
    constant = [np.eye(5)[np.full(80, 2)]] * 4
    resamples = draw_resamples(PATIENTS, seed=0, num_resamples=400)
    measured["ES", "DenseNet169"] = measure_trainings(name_trainings([constant]), LABELS, resamples)
    rows = headline_rows(measured, models=MODELS, num_images=80)
    assert {(r["models"], r["models_collapsed"]) for r in rows} == {("ResNet18", "DenseNet169")}
    assert [r["change"] for r in rows] == [r["change"] for r in without]
    measured["HB", "ResNet18"] = measured["ES", "DenseNet169"]
    assert {r["change"] for r in headline_rows(measured, models=MODELS, num_images=80)} == {None}


def test_trainings_without_their_counterpart_are_left_out_and_counted() -> None:
    measured = _measured(SHARES)
    whole, part = measured["HB", "ResNet18"], (0, 1, 3)
    measured["HB", "ResNet18"] = MeasuredTrainings(
        trainings=tuple(whole.trainings[i] for i in part), num_patients=whole.num_patients,
        values={m: v[list(part)] for m, v in whole.values.items()}, collapsed=(False,) * 3,
        resampled={m: v[list(part)] for m, v in whole.resampled.items()},
    )  # fmt: skip
    row = _row(measured)
    assert (row["num_trainings"], row["num_unmatched"]) == (3, 1)
    gains = [measured["HB", m].values["accuracy"][:3] - measured["ES", m].values["accuracy"][list(part)]
             for m in MODELS[1:]]  # fmt: skip
    gains += [(measured["HB", m].values["accuracy"] - measured["ES", m].values["accuracy"])[list(part)]
              for m in MODELS[:1]]  # fmt: skip
    assert row["change"] == pytest.approx(np.mean(gains))


def test_the_endpoint_comes_first_and_alone_is_primary() -> None:
    both = SHARES | {(f"{regime}+DA", model): share for (regime, model), share in SHARES.items()}
    rows = headline_rows(_measured(both), models=MODELS, num_images=80)
    assert [(r["regime"], r["metric"]) for r in rows if r["primary"]] == [("HB+DA", "recall")]
    assert list(dict.fromkeys(r["regime"] for r in rows)) == ["HB+DA", "HB"]
    other = Endpoint(metric="f1", regime="HB", reference="ES+DA")
    rows = headline_rows(_measured(both), models=MODELS, num_images=80, endpoint=other)
    assert [(r["regime"], r["reference"], r["metric"]) for r in rows if r["primary"]] == [("HB", "ES+DA", "f1")]
    assert len({(r["regime"], r["reference"]) for r in rows}) == 3
    assert len(Endpoint(metric="kappa", regime="HB", reference="HX").validate()) == 2
