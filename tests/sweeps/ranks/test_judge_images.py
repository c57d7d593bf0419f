"""The judge, the reference of FID and KID, and the embedding each look at patients of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fulora.experiment import Experiment
from fulora.planes import PLANES
from fulora.recipes import demo
from sweeps.images.quality_plan import real_selections
from sweeps.images.sets import synthetic_sets
from sweeps.ranks.plan import judge_selection, lora_selection, rank_steps
from sweeps.scores.plan import embedding_step
from sweeps.study import make_plan

from ..studies import made_up

RECORDS = [
    *(made_up("spanish", plane.name, number) for plane in PLANES for number in range(60)),
    *(made_up("african", plane.name, number) for plane in PLANES[1:] for number in range(8)),
    *(made_up("african", plane.name, number, "test") for plane in PLANES[1:] for number in range(8)),
]


def on_images(tmp_path: Path) -> Experiment:
    """Return a study whose judge learns from Spanish images, not from phantoms."""
    return replace(demo(), spanish=tmp_path, african=tmp_path, lora=replace(demo().lora, images_per_plane=5))


def test_no_patient_of_the_judge_is_in_the_reference_that_its_features_compare_with(tmp_path: Path) -> None:
    experiment = on_images(tmp_path)
    sets = synthetic_sets(experiment, rank_steps(experiment, None, None))
    learned, others = real_selections(experiment, RECORDS, sets)
    judged = judge_selection(experiment, RECORDS)
    assert judged is not None and not judged.notes
    judges = {r.patient_id for images in judged.roles.values() for r in images}
    reference = {r.patient_id for r in others.roles["heldout"]}
    loras = {r.patient_id for r in learned.roles["train"]}
    assert len(judges) >= 100 and len(reference) >= 50
    assert not judges & reference and not judges & loras and not reference & loras


def test_a_judge_of_few_patients_takes_loras_and_says_so(tmp_path: Path) -> None:
    experiment = on_images(tmp_path)
    few = [r for r in RECORDS if r.source != "spanish" or int(r.image_id.rsplit("-", 1)[1]) < 8]
    judged = judge_selection(experiment, few)
    assert judged is not None and "LoRA's training images" in judged.notes[0]
    sets = synthetic_sets(experiment, rank_steps(experiment, None, None))
    assert real_selections(experiment, few, sets)[1].roles["heldout"], "the reference is not left without images"


def test_the_embedding_draws_from_test_and_lora_images_only_where_it_is_the_papers(tmp_path: Path) -> None:
    experiment = on_images(tmp_path)
    plan = make_plan(experiment, RECORDS)
    learned = {r.patient_id for r in lora_selection(experiment, RECORDS).roles["train"]}
    for held_out in (False, True):
        asked = replace(experiment, embedding=replace(experiment.embedding, held_out=held_out, images_per_source=60))
        step, selection = embedding_step(asked, RECORDS, plan.chosen, plan.judge)
        drawn = selection.roles["embedded"]
        assert {r.split for r in drawn if r.source == "african"} == {"train" if held_out else "test"}
        spanish = {r.patient_id for r in drawn if r.source == "spanish"}
        assert bool(spanish & learned) != held_out and step.config.output == "features"
