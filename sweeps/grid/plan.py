"""The steps of the classifier grid: which cells there are, and which images each trains, validates and is tested on.

In: an experiment, the catalog's records, the synthetic set that is planned. Out: steps, known before anything is drawn,
and the selections they name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import MODELS, weights_identity
from fulora.controls import select_control_set
from fulora.data.near_duplicates import RULE
from fulora.data.records import ImageRecord
from fulora.data.regimes import (
    REGIMES,
    RegimeSizes,
    select_disjoint_validation,
    select_test_images,
    select_training_set,
    split_validation,
)
from fulora.errors import InputError, fault
from fulora.experiment import Experiment
from fulora.replicates import replicate_suffix
from fulora.seeds import derive_seed
from sweeps.core.hashing import PLACE
from sweeps.core.selections import Selection
from sweeps.core.step import Kind, Step
from sweeps.grid.cells import Cell, cell_label, cells_of, control_cells, scaling_sizes, splits_validation
from sweeps.images.sets import SyntheticSet, planned_records
from sweeps.ranks.plan import lora_selection

GRID = Kind(
    name="grid", stage="grid", work="sweeps.grid.classifier:train_cell", runs_on="gpu", is_trial=True,
    measure="sweeps.grid.classifier:measure_models",
)  # fmt: skip
PIXELS = Kind(name="pixels", stage="grid", work="sweeps.grid.pixels:decode_images")
_SECONDS_PER_IMAGE = 0.004
"""Of one epoch of ResNet18 at 64 px on one core, to order work by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellTrial:
    """One training of one cell; its images are needs."""

    regime: str
    classifier: ClassifierConfig
    weights: str
    """What the starting weights are: a hash of local files, or the hub's id."""
    weights_folder: Path | None = field(default=None, metadata=PLACE)
    seed: int
    seed_index: int
    replicate: int = field(default=0, metadata=PLACE)
    """Number of the replicate; its seed and images tell it from others."""
    num_validation: int
    validation: str
    num_spanish_hybrid: int | None = None
    """Asked-for real images of a training set that is varied; None in Tables 1 and 2."""
    num_synthetic: int | None = None
    """Asked-for synthetic images of a training set that is varied; None in Tables 1 and 2."""
    control: str | None = None
    """A control of `fulora.controls`, which is in no row of Tables 1 and 2."""
    leak_rule: str | None = None
    """Rule by which synthetic images near a test image are left out; None: none are."""

    @property
    def in_tables(self) -> bool:
        """Whether it is a training of a cell of Tables 1 and 2."""
        return self.num_synthetic is None and self.control is None


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelsConfig:
    """Side of the square images."""

    resolution_px: int


def disjoint_validation(experiment: Experiment, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the validation images of patients in no training set, the same for all trainings; may be empty.

    Of every training where the grid asks for validation beside its sets: of patients LoRA is not trained on, who are
    left out of all sets. Else of those that ask how many synthetic images help: of patients in none of its sets.
    """
    if experiment.grid.num_validation and not splits_validation(experiment):
        learned = lora_selection(experiment, records).roles["train"]
        found = select_disjoint_validation(records, learned, experiment.grid.num_validation, seed=experiment.seed)
        if not found:
            rule = "finds no Spanish patient that LoRA is not trained on"
            raise InputError(fault("grid.validation", "beside", rule, "Give more images, or --grid.num-validation 0."))
        return found
    sizes = scaling_sizes(experiment)
    if not experiment.grid.num_validation or not sizes:
        return []
    real = [r for r in records if r.source == "spanish"]
    most = max(s.num_spanish_hybrid for s in sizes)
    largest = replace(experiment.sizes, num_synthetic=0, num_spanish_hybrid=most)
    regime, seed = experiment.amounts.regime, experiment.seed
    taken = select_training_set(regime, real, largest, seed=seed).records if most else ()
    return select_disjoint_validation(real, taken, experiment.grid.num_validation, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid's steps and what they name."""

    cells: list[Step]
    selections: list[Selection]
    pixels: tuple[Step, ...]


def plan_grid(replicates: Sequence[GridPlan]) -> Grid:
    """Return the grid of every replicate, the first one's cells first; all share the pixels of real images."""
    chosen = [(plan, cell, plan.select(cell)) for plan in replicates for cell in plan.cells]
    selected, test = [selection for _, _, selection in chosen], replicates[0].test
    real_images = {r.image_id: r for s in (*selected, test) for rs in s.roles.values() for r in rs if r.path}
    every = Selection(label="images of the grid", roles={"all": [real_images[i] for i in sorted(real_images)]})
    size = PixelsConfig(resolution_px=replicates[0].experiment.grid.resolution_px)
    real = Step(kind=PIXELS, label="pixels of real images", config=size, needs={"images": (every.step,)}, cost=5)
    stores: dict[GridPlan, tuple[Step, ...]] = {}
    for plan in replicates:
        step_of = plan.synthetic.step_of
        drawn = {step_of[r.image_id] for p, _, s in chosen if p is plan for r in s.roles["train"] if not r.path}
        shards = tuple(step for step in plan.synthetic.steps if step in drawn)
        label = "pixels of synthetic images" + replicate_suffix(plan.replicate, plan.experiment.replicates)
        own = Step(kind=PIXELS, label=label, config=size, needs={"images": shards}, cost=5.0)
        stores[plan] = (real, own) if shards else (real,)
    cells = [plan.step(cell, selection, stores[plan]) for plan, cell, selection in chosen]
    selections = {key: selection for plan in replicates for key, selection in plan.selections.items()}
    selections[every.step.key] = every
    pixels = dict.fromkeys(step for steps in stores.values() for step in steps)
    return Grid(cells=cells, selections=list(selections.values()), pixels=tuple(pixels))


class GridPlan:
    """Plans one replicate of the grid: every regime's images are selected once, whichever cells train on them."""

    def __init__(
        self,
        experiment: Experiment,
        records: Sequence[ImageRecord],
        synthetic: SyntheticSet,
        audit: Step | None,
        *,
        replicate: int = 0,
        of_base: bool = False,
    ) -> None:
        """Take what the replicate's are: experiment (`fulora.replicates`), synthetic images, audit.

        `of_base`: the synthetic images are the base model's, of which one control is trained and nothing else.
        """
        self.experiment, self.synthetic, self.audit, self.replicate = experiment, synthetic, audit, replicate
        self.cells = control_cells(experiment, of_base=of_base)
        if not of_base:
            self.cells = [*cells_of(experiment), *self.cells]
        self.real = [r for r in records if r.source != "synthetic"]
        self.planned = planned_records(synthetic)
        self.test = Selection(label="test images", roles={"test": select_test_images(records)})
        self.beside = disjoint_validation(experiment, self.real)
        if not splits_validation(experiment):
            held = {r.patient_id for r in self.beside}
            self.real = [r for r in self.real if r.patient_id not in held]
        self.selections: dict[str, Selection] = {self.test.step.key: self.test}
        self._chosen: dict[tuple[str, RegimeSizes | None, int, str | None], Selection] = {}

    def select(self, cell: Cell) -> Selection:
        """Return the training and validation images of a cell."""
        seed = self._seed(cell)
        own_validation = splits_validation(self.experiment) and not (cell.sizes is not None and self.beside)
        which = (cell.regime, cell.sizes, seed if own_validation else 0, cell.control)
        if which not in self._chosen:
            planned = self.planned if REGIMES[cell.regime].synthetic else []
            sizes = cell.sizes or self.experiment.sizes
            select, name = (
                (select_training_set, cell.regime) if not cell.control else (select_control_set, cell.control)
            )
            chosen = select(name, [*self.real, *planned], sizes, seed=self.experiment.seed)
            training, validation, notes = list(chosen.records), self.beside, list(chosen.notes)
            if own_validation:
                grid = self.experiment.grid
                training, validation = split_validation(training, grid.num_validation, by=grid.validation, seed=seed)  # type: ignore[arg-type]
                notes += self._overlap(cell.regime, training, validation)
            label = f"images of {cell.control or cell.regime}"
            if cell.sizes is not None:
                label += f", {cell.sizes.num_spanish_hybrid} real + {cell.sizes.num_synthetic} synthetic"
            roles = {"train": training, **({"validation": validation} if validation else {})}
            selection = Selection(label=label, roles=roles, notes=tuple(notes))
            self._chosen[which] = self.selections.setdefault(selection.step.key, selection)
        return self._chosen[which]

    def _overlap(self, regime: str, training: Sequence[ImageRecord], validation: Sequence[ImageRecord]) -> list[str]:
        """Return a sentence if validation images are of training patients."""
        trained, validated = ({r.patient_id for r in side if r.patient_id} for side in (training, validation))
        if not (both := trained & validated):
            return []
        return [
            f"{regime}: {len(both)} of {len(validated)} validation patients are training patients too, so validation "
            f"accuracy is optimistic (epoch kept: {self.experiment.grid.keep}; --grid.validation patients splits them)"
        ]

    def _seed(self, cell: Cell) -> int:
        return derive_seed(self.experiment.seed, "grid", cell.seed_index)

    def step(self, cell: Cell, selection: Selection, stores: Sequence[Step]) -> Step:
        """Return the training of a cell on its images; `stores` have their pixels, real images first."""
        experiment, step_of = self.experiment, self.synthetic.step_of
        images = [r.image_id for records in selection.roles.values() for r in records if not r.path]
        shards = tuple({step_of[i].key: step_of[i] for i in images}.values())
        needs = {"images": (selection.step,), "test": (self.test.step,), "shards": shards}
        drops = bool(shards) and experiment.drop_duplicates
        if drops and self.audit is not None:
            needs["audit"] = (self.audit,)
        classifier = cell.classifier
        model = MODELS[classifier.model]
        num_images = classifier.epochs * sum(map(len, selection.roles.values()))
        if classifier.num_steps is not None:
            num_images = classifier.num_steps * classifier.batch_size
        return Step(
            kind=GRID,
            label=cell_label(cell, experiment, self.replicate),
            config=CellTrial(
                regime=cell.regime,
                classifier=replace(classifier, weights=None),
                weights=weights_identity(
                    classifier.model, weights=classifier.weights, pretrained=classifier.pretrained
                ),
                weights_folder=classifier.weights,
                seed=self._seed(cell),
                seed_index=cell.seed_index,
                replicate=self.replicate,
                num_validation=experiment.grid.num_validation,
                validation=experiment.grid.validation,
                num_spanish_hybrid=cell.sizes.num_spanish_hybrid if cell.sizes else None,
                num_synthetic=cell.sizes.num_synthetic if cell.sizes else None,
                control=cell.control,
                leak_rule=RULE if drops else None,
            ),
            needs=needs,
            uses={"pixels": tuple(stores if shards else stores[:1])},
            cost=model.relative_cost * num_images * _SECONDS_PER_IMAGE,
        )
