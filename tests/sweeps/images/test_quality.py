"""Features, fidelity, memorisation and the table of ranks of a finished study, against the files they are made from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fulora.classify.training import predict
from fulora.data.pixels import decode_square
from fulora.data.regimes import select_heldout_images, select_lora_images
from fulora.evaluate import copies, fidelity
from fulora.evaluate.features import choose_features, features_from_classifier
from fulora.evaluate.judge import load_judge
from fulora.evaluate.membership import nearest_sample_scores
from fulora.evaluate.planted import KINDS
from fulora.experiment import Experiment
from fulora.planes import PLANES
from fulora.seeds import derive_seed
from sweeps.core.paths import RunPaths
from sweeps.core.tables import AUDITED, read_rows
from sweeps.images.features import read_features
from sweeps.images.quality import REAL
from sweeps.images.rows import drawn_rows
from sweeps.images.sets import SyntheticSet
from sweeps.sources.catalog import read_catalog
from sweeps.study import Plan, make_plan, plan_catalog

from ..studies import one_thread

RESOLUTION_PX = 64


class Study:
    """A finished study: its plan, and what its judge makes of files."""

    def __init__(self, paths: RunPaths, experiment: Experiment) -> None:
        self.paths, self.experiment = paths, experiment
        records = read_catalog(paths.store.folder(plan_catalog(experiment)), paths.root)
        self.plan: Plan = make_plan(experiment, records)
        self.judge = load_judge(paths.judge)
        own = features_from_classifier(self.judge.model, self.judge.name, device="cpu")
        self.extractor = choose_features(experiment.embedding.feature_weights, own, device="cpu")
        assert self.extractor.name == self.judge.name, "no weights of Inception here"
        learned, _ = select_lora_images(records, per_plane=experiment.lora.images_per_plane, seed=experiment.seed)
        others = select_heldout_images(records, learned, per_plane=10**9, seed=experiment.seed)
        least = min(sum(r.plane == plane.name for r in others) for plane in PLANES)
        self.learned, self.others = (
            learned,
            select_heldout_images(records, learned, per_plane=min(least, 2 * 2 * 2), seed=experiment.seed),
        )  # twice the two images of two samplers

    def folder(self, which: SyntheticSet) -> Path:
        return self.paths.synthetic if which.chosen else self.paths.images(which.label)

    def rows(self, which: SyntheticSet) -> list[dict[str, Any]]:
        return read_rows(self.folder(which) / "metadata.parquet", "metadata")

    def side(self, files: list[Any], image_ids: list[str], patients: list[str] | None = None) -> copies.FeatureSet:
        """Return images as the near-copy audit takes them, from their files."""
        pixels = decode_square(files, resolution_px=RESOLUTION_PX, workers=1)
        return copies.FeatureSet(
            pixels=pixels, features=self.extractor(pixels), image_ids=image_ids, patient_ids=patients or []
        )

    def set_side(self, which: SyntheticSet) -> copies.FeatureSet:
        rows = self.rows(which)
        return self.side([self.folder(which) / r["file_name"] for r in rows], [r["image_id"] for r in rows])

    def real_side(self, records: list[Any]) -> copies.FeatureSet:
        ids, patients = [r.image_id for r in records], [r.patient_id for r in records]
        return self.side([r.path for r in records], ids, patients)


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal, floats but for rounding."""
    return one == (pytest.approx(other, rel=1e-4, abs=1e-6, nan_ok=True) if isinstance(other, float) else other)


@pytest.fixture(scope="module")
def study(finished: RunPaths, mini_experiment: Experiment) -> Study:
    with one_thread():
        return Study(finished, mini_experiment)


def test_features_are_those_of_the_judge_on_the_files_in_sampling_order(study: Study) -> None:
    for which in study.plan.sets:
        kept = read_features(study.paths.store.folder(study.plan.features[which.label]))
        rows = study.rows(which)
        assert kept.image_ids == [r["image_id"] for r in rows] == [r.image_id for r in which.rows()]
        assert kept.planes == [r["plane"] for r in rows] and kept.samplers == [r["sampler"] for r in rows]
        with one_thread():
            found = study.set_side(which)
            seen = predict(study.judge.model, found.pixels, device="cpu").argmax(1)
        assert np.array_equal(kept.pixels, found.pixels)
        assert np.allclose(kept.features, found.features, atol=1e-5)
        assert kept.seen_planes == [PLANES[index].name for index in seen]


@pytest.mark.parametrize("name", ["learned", "others"])
def test_features_of_real_images_are_in_the_order_of_their_selection(study: Study, name: str) -> None:
    records = getattr(study, name)
    kept = read_features(study.paths.store.folder(study.plan.features[name]))
    assert kept.image_ids == [r.image_id for r in records] and set(kept.samplers) == {None}
    with one_thread():
        assert np.allclose(kept.features, study.real_side(records).features, atol=1e-5)


def test_fidelity_is_that_of_the_files_at_one_size(study: Study) -> None:
    with one_thread():
        real = study.real_side(study.others)
        size = fidelity.comparable_size(real.patient_ids, 1 * len(PLANES))  # one image per plane is compared
        shared: dict[str, Any] = {
            "features": study.extractor.name, "seed": derive_seed(study.experiment.seed, "fidelity"), "size": size
        }  # fmt: skip
        expected = {}
        for which in study.plan.sets:
            found, samplers = study.set_side(which), np.array([r["sampler"] for r in study.rows(which)])
            for sampler in which.config.samplers:
                scores = fidelity.measure(real.features, found.features[samplers == sampler], **shared)
                expected[which.label, which.rank, sampler] = asdict(scores)
        expected[REAL, None, None] = asdict(fidelity.baseline(real.features, groups=real.patient_ids, **shared))  # type: ignore[arg-type]
    rows = read_rows(study.paths.table("fidelity"), "fidelity")
    assert [(r["adapter"], r["rank"], r["sampler"]) for r in rows] == list(expected)
    for row in rows:
        scores = expected[row["adapter"], row["rank"], row["sampler"]]
        assert all(alike(row[name], value) for name, value in scores.items()), (row, scores)


def test_near_copies_are_those_of_the_files_and_stand_beside_each_image(study: Study) -> None:
    with one_thread():
        learned, others = study.real_side(study.learned), study.real_side(study.others)
    rows = {r["adapter"]: r for r in read_rows(study.paths.table("copies"), "copies")}
    ranks = [which for which in study.plan.sets if which.rank is not None]
    assert list(rows) == [which.label for which in ranks] and len(ranks) == 2
    for which in ranks:
        with one_thread():
            audit = copies.audit_copies(study.set_side(which), learned, others, extractor=study.extractor.name)
        row = rows[which.label]
        assert (row["chosen"], row["num_synthetic"]) == (which.chosen, which.num_images)
        assert (row["num_training"], row["num_heldout"]) == (len(study.learned), len(study.others))
        assert row["share_closer"] == audit.share_closer
        found = {image.image_id: asdict(image) for image in audit.images}
        for image in study.rows(which):
            assert all(alike(image[name], found[image["image_id"]][name]) for name in AUDITED), image
    (base,) = [which for which in study.plan.sets if which.rank is None]
    assert all(image[name] is None for image in study.rows(base) for name in AUDITED), "it has learned from none"
    worst = [r["image_id"] for r in read_rows(study.paths.table("worst_copies"), "worst_copies")]
    chosen = {r["image_id"] for r in study.rows(study.plan.chosen)}
    assert worst and set(worst) <= chosen


def test_planted_copies_and_membership_stand_beside_the_verdict(study: Study) -> None:
    planted = {r["kind"]: r for r in read_rows(study.paths.table("planted_copies"), "planted_copies")}
    assert set(planted) == set(KINDS) and {r["num_planted"] for r in planted.values()} == {20}
    assert planted["exact"]["share_found"] == planted["exact"]["share_traced"] == 100
    for row in read_rows(study.paths.table("copies"), "copies"):
        assert row["planted_found"] == pytest.approx(np.mean([r["share_found"] for r in planted.values()]))
        assert row["least_aligned"] <= row["percentile_aligned"] and row["share_below_percentile"] is not None
        which = next(s for s in study.plan.sets if s.label == row["adapter"])
        with one_thread():
            drawn, sides = study.set_side(which), [study.real_side(side) for side in (study.learned, study.others)]
        near = [nearest_sample_scores(side.features, drawn.features) for side in sides]
        won = np.sign(near[0][:, None] - near[1][None]) / 2 + 0.5
        assert row["membership_auc"] == pytest.approx(100 * won.mean(), abs=0.1)
        assert row["membership_auc_low"] <= row["membership_auc"] <= row["membership_auc_high"]


def test_the_table_of_ranks_counts_what_the_judge_sees_and_what_an_adapter_cost(study: Study) -> None:
    shares = {}
    for which in study.plan.sets:
        kept = read_features(study.paths.store.folder(study.plan.features[which.label]))
        right = [seen == plane for seen, plane in zip(kept.seen_planes, kept.planes)]
        shares[which.label] = 100 * sum(right) / len(right)
    rows = read_rows(study.paths.table("ranks"), "ranks")
    assert [(r["adapter"], r["rank"], r["chosen"]) for r in rows] == [("rank-002", 2, False), ("rank-004", 4, True)]
    for row, step in zip(rows, study.plan.ranks, strict=True):
        record = study.paths.store.done(step)
        assert record is not None and row["trial_id"] == step.key
        assert row["recognised"] == shares[row["adapter"]] and row["recognised_base"] == shares["base"]
        assert row["num_images"] == (20 if row["chosen"] else 10)
        for name in ("final_loss", "heldout_loss", "num_trainable", "adapter_sha256"):
            assert row[name] == record.metrics[name]
        assert row["recognised"] == pytest.approx((row["recognised_euler"] + row["recognised_unipc"]) / 2)


def test_a_set_of_images_is_joined_of_its_shards(study: Study) -> None:
    for which in study.plan.sets:
        parts = {r["image_id"]: r for step in which.steps for r in drawn_rows(study.paths.store.folder(step))}
        for row in study.rows(which):
            assert {k: v for k, v in row.items() if k not in AUDITED} == {
                k: v for k, v in parts[row["image_id"]].items() if k not in AUDITED
            }
