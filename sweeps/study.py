"""What a study is: its graph of steps, on one page.

In: an experiment and the catalog's records. Out: a `Plan`: every step up to the trained classifiers, known before
anything is drawn; and the steps that summarise what is done.

    catalog, selections -> judge, ranks -> shards of images -> features, pixels -> classifiers -> scores, report

What a replicate beyond the first repeats is `fulora.replicates`; it trains the rank that is sampled alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fulora.data.records import ImageRecord
from fulora.experiment import Experiment
from fulora.replicates import of_replicate
from sweeps.core.selections import Selection
from sweeps.core.step import Stage, Step
from sweeps.grid.cells import control_cells
from sweeps.grid.plan import GridPlan, plan_grid
from sweeps.images.quality_plan import (
    choice_step,
    features_step,
    planted_step,
    quality_step,
    rank_table_step,
    real_selections,
)
from sweeps.images.sets import SyntheticSet, control_set, repeated_set, synthetic_sets
from sweeps.ranks.plan import (
    heldout_selection,
    judge_selection,
    judge_step,
    lora_selection,
    rank_steps,
    repeated_step,
    trained_together,
)
from sweeps.report.plan import report_step
from sweeps.scores.controls_plan import controls_step
from sweeps.scores.plan import embedding_step, scaling_step, scores_step
from sweeps.sources.plan import audit_step, catalog_step

IsDone = Callable[[Step], bool]


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """What a replicate beyond the first trains and samples before its classifiers."""

    number: int
    """From 1; the first replicate, 0, is the plan itself."""
    adapter: Step
    images: SyntheticSet
    audit: Step
    """Audit of its images and the real ones."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every step of a study up to its trained classifiers, and what they name."""

    experiment: Experiment
    records: Sequence[ImageRecord]
    catalog: Step
    audit: Step
    """Audit of the real images; of all images where the grid is planned."""
    judge: Step
    ranks: list[Step]
    sets: list[SyntheticSet]
    replicates: list[Replicate] = field(default_factory=list)
    """Those beyond the first."""
    features: dict[str, Step] = field(default_factory=dict)
    """Features of every set, by its label; of real images as `learned` and `others`."""
    real: tuple[Selection, Selection] | None = None
    """LoRA's images, and images of other patients."""
    pixels: tuple[Step, ...] = ()
    cells: list[Step] = field(default_factory=list)
    embedding: Step | None = None
    selections: list[Selection] = field(default_factory=list)

    @property
    def chosen(self) -> SyntheticSet:
        """The images classifiers train on."""
        return next(which for which in self.sets if which.chosen)

    @property
    def trials(self) -> list[Step]:
        """The trainings, in the order of the stages."""
        return [self.judge, *self.ranks, *(each.adapter for each in self.replicates), *self.cells]

    @property
    def choice(self) -> Step | None:
        """The step that chooses the rank; None where it is given."""
        if self.experiment.choose_rank == "given" or self.real is None:
            return None
        compared = [(which, self._features_of(which)) for which in self.compared]
        real = (self.features["learned"], self.features["others"])
        return choice_step(self.experiment, compared, self.real, real)

    @property
    def compared(self) -> list[SyntheticSet]:
        """Every rank's set, as it is if another rank is chosen."""
        few = self.experiment.compare_per_plane
        return [
            replace(which, chosen=False, config=replace(which.config, images_per_plane=few))
            for which in sorted(self.sets, key=lambda s: s.rank or 0)
            if which.rank is not None
        ]

    def _features_of(self, which: SyntheticSet) -> Step:
        return features_step(self.experiment, self.judge, which.label, which.steps)

    def targets(self, until: Stage) -> list[Step]:
        """Return the steps that a run up to a stage does, apart from summaries."""
        steps = [self.catalog, self.audit if until in ("grid", "report") else self._real_audit]
        if until != "sources":
            steps += [*self.ranks, self.judge, *(each.adapter for each in self.replicates)]
        if until in ("sample", "grid", "report"):
            sets = [*self.sets, *(each.images for each in self.replicates)]
            steps += [step for which in sets for step in which.steps]
            steps += self.features.values()
        if until in ("grid", "report"):
            steps += [*(each.audit for each in self.replicates), *self.pixels, *self.cells]
        if until == "report" and self.embedding is not None:
            steps.append(self.embedding)
        return steps

    @property
    def _real_audit(self) -> Step:
        return audit_step(self.experiment, self.catalog)

    def summaries(self, until: Stage, is_done: IsDone) -> list[Step]:
        """Return the steps that summarise what is done: a rank or a cell that failed is left out of them."""
        steps: list[Step] = []
        compared = [
            (which, self.features[which.label])
            for which in self.sets
            if which.label in self.features and is_done(self.features[which.label])
        ]
        if until in ("sample", "grid", "report") and compared and is_done(self.judge):
            steps.append(rank_table_step(self.experiment, self.judge, compared))
            real = (self.features["learned"], self.features["others"])
            planted = self.features["planted"]
            if self.real is not None and all(map(is_done, (*real, planted))):
                steps.append(quality_step(self.experiment, compared, self.real, real, planted))
        if until in ("grid", "report") and (done := [cell for cell in self.cells if is_done(cell)]):
            audits = [audit for audit in (self.audit, *(r.audit for r in self.replicates)) if is_done(audit)]
            steps.append(scores_step(self.experiment, done, self.catalog, audits or [self._real_audit]))
            if scaling := scaling_step(self.experiment, done, self.catalog):
                steps.append(scaling)
            steps.append(controls_step(self.experiment, done, self.catalog))
        return steps

    def report(self, is_done: IsDone, summaries: Sequence[Step]) -> Step:
        """Return the step that writes the report from what is done."""
        embedding = [self.embedding] if self.embedding is not None and is_done(self.embedding) else []
        return report_step([*filter(is_done, summaries), *embedding, *filter(is_done, self.trials)])


def plan_catalog(experiment: Experiment) -> Step:
    """Return the step that everything is planned from."""
    return catalog_step(experiment)


def make_plan(experiment: Experiment, records: Sequence[ImageRecord], *, with_grid: bool = True) -> Plan:
    """Return the plan. Without the grid no synthetic image is listed, so that a set of millions can be planned."""
    catalog = catalog_step(experiment)
    learned, heldout = lora_selection(experiment, records), heldout_selection(experiment, records)
    judging = judge_selection(experiment, records)
    judge = judge_step(experiment, judging)
    ranks = trained_together(experiment, rank_steps(experiment, learned, heldout))
    sets = synthetic_sets(experiment, ranks)
    selections = [learned, heldout, *([judging] if judging else [])]
    known: dict[str, Any] = {
        "experiment": experiment,
        "records": records,
        "catalog": catalog,
        "judge": judge,
        "ranks": ranks,
    }
    if not with_grid:
        audit = audit_step(experiment, catalog)
        return Plan(**known, sets=sets, audit=audit, selections=selections)
    chosen = next(which for which in sets if which.chosen)
    audit = audit_step(experiment, catalog, chosen.steps)
    real = real_selections(experiment, records, sets)
    features = {which.label: features_step(experiment, judge, which.label, which.steps) for which in sets}
    for name, selection in zip(("learned", "others"), real, strict=True):
        features[name] = features_step(experiment, judge, selection.label, [selection.step])
    features["planted"] = planted_step(experiment, judge, features["learned"])
    replicates, repeated = _repeated(experiment, records, catalog)
    grid = plan_grid(
        [GridPlan(experiment, records, chosen, audit)]
        + [GridPlan(of_replicate(experiment, r.number), records, r.images, r.audit, replicate=r.number)
           for r in replicates]
        + _base_grids(experiment, records, catalog)
    )  # fmt: skip
    embedding, embedded = embedding_step(experiment, records, chosen, judge)
    return Plan(
        **known, sets=sets, audit=audit, features=features, real=real, cells=grid.cells, pixels=grid.pixels,
        replicates=replicates, embedding=embedding,
        selections=[*selections, *repeated, *real, *grid.selections, embedded],
    )  # fmt: skip


def _base_grids(experiment: Experiment, records: Sequence[ImageRecord], catalog: Step) -> list[GridPlan]:
    """Return the grid of the control with the base model's images, of every replicate; none where it is not asked for.

    Its images are of no table of sets, but in an audit of their own.
    """
    found = []
    for number in range(experiment.replicates):
        own = of_replicate(experiment, number)
        if control_cells(own, of_base=True):
            images = control_set(own)
            audit = audit_step(own, catalog, images.steps)
            found.append(GridPlan(own, records, images, audit, replicate=number, of_base=True))
    return found


def _repeated(
    experiment: Experiment, records: Sequence[ImageRecord], catalog: Step
) -> tuple[list[Replicate], list[Selection]]:
    """Return the replicates beyond the first, and the selections that their adapters name."""
    found, selections = list[Replicate](), list[Selection]()
    for number in range(1, experiment.replicates):
        own, repeated = of_replicate(experiment, number), repeated_step(experiment, number, records)
        images = repeated_set(own, repeated.step, number)
        audit = audit_step(own, catalog, images.steps)
        found.append(Replicate(number=number, adapter=repeated.step, images=images, audit=audit))
        selections += repeated.selections
    return found, selections
