"""Controls as cells of the grid: beside its own, which stay what they are, and done in a run as any other training."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from fulora.controls import CONTROLS, Controls
from fulora.experiment import Experiment
from fulora.recipes import demo
from sweeps.core.paths import RunPaths
from sweeps.core.step import Step
from sweeps.core.tables import read_rows
from sweeps.grid.classifier import PREDICTIONS_FILE
from sweeps.sources.catalog import read_catalog
from sweeps.study import Plan, make_plan

from ..mini import go
from .test_cells import RECORDS, roles_of

MODEL = "ResNet18"
PLAIN = replace(demo(), grid=replace(demo().grid, num_seeds=1))
ASKED = replace(PLAIN, controls=Controls(names=tuple(CONTROLS), models=(MODEL,)))


def controls_of(plan: Plan) -> dict[str, Step]:
    """Return the first training of every control."""
    return {c.config.control: c for c in reversed(plan.cells) if c.config.control}


def test_controls_are_cells_beside_a_grid_that_stays_what_it_is() -> None:
    plain, plan = make_plan(PLAIN, RECORDS), make_plan(ASKED, RECORDS)
    assert {c.key for c in plain.cells} < {c.key for c in plan.cells}
    assert len(plan.cells) == len(plain.cells) + len(CONTROLS) and set(controls_of(plan)) == set(CONTROLS)
    for name, cell in controls_of(plan).items():
        trial = cell.config
        assert trial.regime == f"{CONTROLS[name].based_on}+DA" and trial.classifier.augment and not trial.in_tables
        assert trial.classifier.balance == CONTROLS[name].balance and f"control {name}" in cell.label
    assert {which.label for which in plan.sets} == {which.label for which in plain.sets}


def test_each_control_needs_the_images_it_trains_on_and_no_others() -> None:
    plan = make_plan(ASKED, RECORDS)
    hybrid = next(c for c in plan.cells if (c.config.regime, c.config.classifier.model) == ("HB+DA", MODEL))
    drawn = set(plan.chosen.steps)
    for name, cell in controls_of(plan).items():
        shards, training = set(cell.in_role("shards")), roles_of(cell, plan)["train"]
        images = CONTROLS[name].images
        assert bool(shards) == (images != "none") and (shards <= drawn) == (images != "base")
        assert Counter(r.source for r in training)["synthetic"] == (80 if images != "none" else 0)
    cells = controls_of(plan)
    assert cells["shuffled_prompts"].in_role("shards") == hybrid.in_role("shards")
    assert cells["shuffled_prompts"].need("images") != hybrid.need("images"), "other labels are other images"
    base = cells["base_images"].in_role("shards")
    assert {shard.config.rank for shard in base} == {None} and not any(s.in_role("adapter") for s in base)
    assert cells["base_images"].uses["pixels"][1] != hybrid.uses["pixels"][1], "ids are the same, images are not"
    assert cells["base_images"].need("images") == hybrid.need("images")
    audited = make_plan(replace(ASKED, drop_duplicates=True), RECORDS)
    audits = {name: cell.in_role("audit") for name, cell in controls_of(audited).items()}
    assert audits["base_images"] != audits["shuffled_prompts"] == (audited.audit,) and audits["real_alone"] == ()


def test_every_replicate_has_its_own_controls() -> None:
    plan = make_plan(replace(ASKED, replicates=2), RECORDS)
    mine = [c for c in plan.cells if c.config.control]
    assert Counter(c.config.replicate for c in mine) == {0: len(CONTROLS), 1: len(CONTROLS)}
    assert len({c.key for c in mine}) == 2 * len(CONTROLS)
    base = [c for c in mine if c.config.control == "base_images"]
    assert not set(base[0].in_role("shards")) & set(base[1].in_role("shards"))


def test_controls_are_trained_compared_and_shown(copied: RunPaths, mini_experiment: Experiment) -> None:
    controls = Controls(names=("base_images", "real_repeated", "shuffled_labels"), models=("MobileNet v2",))
    experiment = replace(mini_experiment, controls=controls, grid=replace(mini_experiment.grid, num_steps=2))
    experiment = replace(experiment, grid=replace(experiment.grid, models=("MobileNet v2",), table2_regimes=()))
    assert go(experiment, copied) == []
    plan = make_plan(experiment, read_catalog(copied.root, copied.root))
    steps = {record.metrics["num_steps"] for c in plan.cells if (record := copied.store.done(c)) is not None}
    assert steps == {2}, "as many for every row"
    rows = read_rows(copied.table("controls"), "controls")
    names = list(dict.fromkeys(r["control"] for r in rows))
    assert names == ["ES+DA", "HB+DA", "base_images", "real_repeated", "shuffled_labels"]
    facts = {r["control"]: (r["num_es"], r["num_synthetic"], r["num_steps"]) for r in rows if r["metric"] == "recall"}
    assert facts["base_images"] == (20, 20, 2) and facts["real_repeated"] == (20, 0, 2)
    for row in rows:
        assert row["value_low"] <= row["value"] <= row["value_high"] and row["verdict"] is None, (
            "there is one training of each"
        )
    cell = controls_of(plan)["base_images"]
    assert len(read_rows(copied.store.folder(cell) / PREDICTIONS_FILE, "predictions")) == 40
    centres = read_rows(copied.table("centres"), "centres")
    assert {(r["regime"], r["reference"]) for r in centres} == {("HB", "ES"), ("HB+DA", "ES+DA")}
    page = copied.report.read_text()
    assert "HB with images of the base model without an adapter" in page and "There is one training of each" in page
