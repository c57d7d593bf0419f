"""What the classifier grid consists of: which cells there are, and which images each of them takes.

In: an experiment, the catalog's records, the planned synthetic images. Out: trials, whose ids are known before anything
is sampled; the training and validation images of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fulora.classify.classifier_config import ClassifierConfig
from fulora.classify.models import MODELS, weights_identity
from fulora.data.near_duplicates import RULE
from fulora.data.records import ImageRecord
from fulora.data.regimes import (
    REGIMES,
    RegimeSizes,
    TrainingSet,
    select_test_images,
    select_training_set,
    select_validation_beside,
    split_validation,
)
from fulora.experiment import Experiment
from fulora.seeds import derive_seed
from sweeps.image_sets import ImageSet
from sweeps.lora_sweep import UNKNOWN_DATA
from sweeps.trials import Trial, data_hash, plain, short_hash


def training_set(
    experiment: Experiment, regime: str, records: Sequence[ImageRecord], sizes: RegimeSizes | None = None
) -> TrainingSet:
    """Return the images of a regime, in the experiment's numbers unless others are given."""
    return select_training_set(regime, records, sizes or experiment.sizes, seed=experiment.seed)


@dataclass(frozen=True, slots=True)
class _Cell:
    """One way of training; `sizes` None: in the experiment's own numbers."""

    regime: str
    config: ClassifierConfig
    seed_index: int
    sizes: RegimeSizes | None = None


def _cells(experiment: Experiment) -> list[_Cell]:
    """Return the cells of Tables 1 and 2, then those that ask how many synthetic images help."""
    cells = [_Cell(regime, config, index) for regime, index, config in experiment.grid.trials()]
    amounts = experiment.amounts
    for sizes in dict.fromkeys(amount_sizes(experiment)):
        for index in range(experiment.grid.num_seeds):
            cell = _Cell(amounts.regime, experiment.grid.config(amounts.regime, amounts.model), index, sizes)
            # A cell of the tables in the very numbers asked for is trained once; not where validation images are set
            # aside, for there they are taken out of the training set.
            same = sizes == experiment.sizes and not experiment.grid.num_validation
            cell = replace(cell, sizes=None) if same else cell
            if cell not in cells:
                cells.append(cell)
    return cells


def amount_sizes(experiment: Experiment) -> list[RegimeSizes]:
    """Return the numbers of images of every training set that asks how many synthetic images help, in its order."""
    return [
        replace(experiment.sizes, num_spanish_hybrid=real, num_synthetic=synthetic)
        for _, real, synthetic in experiment.amounts.cells(experiment.sizes)
    ]


def validation_beside(experiment: Experiment, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Return the validation images of every training that asks how many synthetic images help: of patients in none of
    its sets, so that the sets have the sizes asked for and all are validated alike. None where all patients are taken.
    """
    sizes = amount_sizes(experiment)
    if not experiment.grid.num_validation or not sizes:
        return []
    real = [r for r in records if r.source == "spanish"]
    most = max(s.num_spanish_hybrid for s in sizes)
    largest = replace(experiment.sizes, num_synthetic=0, num_spanish_hybrid=most)
    taken = training_set(experiment, experiment.amounts.regime, real, largest).records if most else ()
    return select_validation_beside(real, taken, experiment.grid.num_validation, seed=experiment.seed)


def split_of(
    trial: Trial, experiment: Experiment, records: Sequence[ImageRecord], chosen: TrainingSet
) -> tuple[Sequence[ImageRecord], Sequence[ImageRecord]]:
    """Return a trial's (training, validation) images."""
    if "num_synthetic" in trial.config and (beside := validation_beside(experiment, records)):
        return chosen.records, beside
    num, by = experiment.grid.num_validation, experiment.grid.validation
    return split_validation(chosen.records, num, by=by, seed=trial.seed)


def sizes_of(trial: Trial, experiment: Experiment) -> RegimeSizes:
    """Return the numbers of images a trial's regime asks for."""
    names = ("num_spanish_hybrid", "num_synthetic")
    return replace(experiment.sizes, **{n: trial.config[n] for n in names if n in trial.config})


def grid_trials(
    experiment: Experiment, records: Sequence[ImageRecord] | None, synthetic: ImageSet | None
) -> list[Trial]:
    """Return one trial per cell and seed; `records` None plans without data.

    Synthetic images count by what they are drawn from and how many are asked for, so ids are known before sampling.
    """
    real = None if records is None else [r for r in records if r.source != "synthetic"]
    planned = [] if real is None or synthetic is None else _planned_synthetic(synthetic)
    hashed: dict[tuple[str, RegimeSizes | None], tuple[str, int]] = {}
    test = UNKNOWN_DATA if records is None else data_hash(select_test_images(records))
    beside = [] if records is None else validation_beside(experiment, records)
    trials = []
    for cell in _cells(experiment):
        which = (cell.regime, cell.sizes)
        if which not in hashed:
            hashed[which] = _regime_hash(experiment, *which, real, planned, synthetic)
        data, size = hashed[which]
        label, config = f"{cell.regime}, {cell.config.model}", plain(cell.config)
        config.pop("weights")  # where they lie; what they are is among the inputs
        if cell.sizes is not None:
            config |= {n: getattr(cell.sizes, n) for n in ("num_spanish_hybrid", "num_synthetic")}
            label += f", {cell.sizes.num_spanish_hybrid} real + {cell.sizes.num_synthetic} synthetic"
        trials.append(
            Trial(
                stage="grid",
                label=label + (f", seed {cell.seed_index}" if experiment.grid.num_seeds > 1 else ""),
                config={
                    **config,
                    "regime": cell.regime,
                    "seed_index": cell.seed_index,
                    "num_validation": experiment.grid.num_validation,
                    "validation": experiment.grid.validation,
                },
                inputs={
                    "data": data,
                    "test": test,
                    "weights": weights_identity(
                        cell.config.model, weights=cell.config.weights, pretrained=cell.config.pretrained
                    ),
                    **({"validation": data_hash(beside)} if beside and cell.sizes is not None else {}),
                },
                seed=derive_seed(experiment.seed, "grid", cell.seed_index),
                cost=MODELS[cell.config.model].relative_cost * size,
            )
        )
    return trials


def _regime_hash(
    experiment: Experiment,
    regime: str,
    sizes: RegimeSizes | None,
    real: Sequence[ImageRecord] | None,
    planned: Sequence[ImageRecord],
    synthetic: ImageSet | None,
) -> tuple[str, int]:
    """Return the hash of what a regime trains on and how many images those are."""
    wanted = REGIMES[regime]
    if real is None:
        return UNKNOWN_DATA, 1
    chosen = training_set(experiment, regime, [*real, *(planned if wanted.synthetic else [])], sizes)
    if not chosen.num_synthetic:
        return data_hash(chosen.records), len(chosen.records)
    science = [data_hash(chosen.records), synthetic.science if synthetic else UNKNOWN_DATA]
    if experiment.drop_duplicates:
        # Which of them are near a test image shows once they are drawn, but is decided by these and the rule.
        science += [data_hash(r for r in real if r.split != "train"), RULE]
    return short_hash(science), len(chosen.records)


def _planned_synthetic(which: ImageSet) -> list[ImageRecord]:
    """Return the synthetic images that will be, so that a plan selects exactly those a run will."""
    return [
        ImageRecord(
            image_id=f"synthetic/{row.image_id}", path="", source="synthetic", plane=row.plane, patient_id="",
            centre="", machine=None, split="train", width_px=0, height_px=0, sha256="", pixel_hash="",
        )
        for _, rows in which.shards() for row in rows
    ]  # fmt: skip


def validation_notes(trials: Sequence[Trial], records: Sequence[ImageRecord], experiment: Experiment) -> list[str]:
    """Return a sentence on each regime whose validation images are of patients that are trained on too."""
    notes: dict[str, str] = {}
    for trial in trials:
        regime = trial.config["regime"]
        if regime in notes or not experiment.grid.num_validation or trial.config["seed_index"]:
            continue
        chosen = training_set(experiment, regime, records, sizes_of(trial, experiment))
        sides = split_of(trial, experiment, records, chosen)
        trained, validated = ({r.patient_id for r in side if r.patient_id} for side in sides)
        if both := trained & validated:
            notes[regime] = (
                f"{regime}: {len(both)} of {len(validated)} validation patients are trained on too, so its validation "
                f"accuracy flatters (the kept epoch: {experiment.grid.keep}; --grid.validation patients parts them)"
            )
    return list(notes.values())
