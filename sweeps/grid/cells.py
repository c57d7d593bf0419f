"""Which cells a grid has: Tables 1 and 2, sets with more and more synthetic images, controls.

In: an experiment. Out: cells, each a regime or control with its classifier, and what a person calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import weights_faults
from fulora.controls import CONTROLS
from fulora.data.regimes import RegimeSizes
from fulora.errors import raise_if_any
from fulora.experiment import Experiment
from fulora.replicates import replicate_suffix
from sweeps.core.step import Step


@dataclass(frozen=True, slots=True)
class Cell:
    """One way of training; `sizes` None: in the experiment's own numbers."""

    regime: str
    classifier: ClassifierConfig
    seed_index: int
    sizes: RegimeSizes | None = None
    control: str | None = None
    """A control of `fulora.controls`; `regime` is then the one it is based on."""


def cells_of(experiment: Experiment) -> list[Cell]:
    """Return the cells of Tables 1 and 2, then those that ask how many synthetic images help."""
    cells = [Cell(regime, config, index) for regime, index, config in experiment.grid.trials()]
    amounts = experiment.amounts
    for sizes in dict.fromkeys(scaling_sizes(experiment)):
        for index in range(experiment.grid.num_seeds):
            cell = Cell(amounts.regime, experiment.grid.config(amounts.regime, amounts.model), index, sizes)
            # A cell of the tables in the very numbers asked for is trained once; not where validation images are set
            # aside, for there they are taken out of the training set.
            same = sizes == experiment.sizes and not splits_validation(experiment)
            cell = replace(cell, sizes=None) if same else cell
            if cell not in cells:
                cells.append(cell)
    return cells


def control_cells(experiment: Experiment, *, of_base: bool) -> list[Cell]:
    """Return the cells of the controls: those with images of the base model without an adapter, or all others."""
    controls = experiment.controls
    cells = []
    for name in controls.names:
        control = CONTROLS[name]
        if (control.images == "base") != of_base:
            continue
        regime = controls.regime(control.based_on)
        for model in controls.models:
            config = replace(experiment.grid.config(regime, model), balance=control.balance)
            cells += [Cell(regime, config, index, None, name) for index in range(experiment.grid.num_seeds)]
    return cells


def scaling_sizes(experiment: Experiment) -> list[RegimeSizes]:
    """Return the numbers of images of every training set that asks how many synthetic images help, in its order."""
    return [
        replace(experiment.sizes, num_spanish_hybrid=real, num_synthetic=synthetic)
        for _, real, synthetic in experiment.amounts.cells(experiment.sizes)
    ]


def cell_label(cell: Cell, experiment: Experiment, replicate: int = 0) -> str:
    """Return what a person calls a cell: `HB+DA, ViT b16, replicate 1, seed 0`."""
    label = f"{cell.regime}, {cell.classifier.model}"
    if cell.sizes is not None:
        label += f", {cell.sizes.num_spanish_hybrid} real + {cell.sizes.num_synthetic} synthetic"
    if cell.control is not None:
        label += f", control {cell.control}"
    label += replicate_suffix(replicate, experiment.replicates)
    return label + (f", seed {cell.seed_index}" if experiment.grid.num_seeds > 1 else "")


def splits_validation(experiment: Experiment) -> bool:
    """Return whether validation images are taken out of each cell's training set."""
    return bool(experiment.grid.num_validation) and experiment.grid.validation != "beside"


def check_weights(cells: Sequence[Step]) -> None:
    """Raise InputError where trainings ask for initial weights that are nowhere to be found, naming each model once."""
    asked = {
        (c.classifier.model, c.weights_folder, c.classifier.pretrained): None for c in (step.config for step in cells)
    }
    raise_if_any([
        text
        for model, folder, pretrained in asked
        for text in weights_faults(model, weights=folder, pretrained=pretrained)
    ])  # fmt: skip
