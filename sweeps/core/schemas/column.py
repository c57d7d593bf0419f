"""A column and a table: a type, a meaning in one sentence, a unit; and the columns that several tables share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

METRICS = ("accuracy", "recall", "precision", "f1", "auc")
"""Scores of a classifier, in percent; recall, precision, F1 and AUC are macro averages over the four tested planes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table."""

    type: pa.DataType
    """Arrow type; every column is nullable, and null means unknown or not applicable."""
    meaning: str
    """What a value means, as one phrase without a full stop."""
    unit: str | None
    """Unit of a value; None for text, flags, hashes and dimensionless numbers."""

    def field(self, name: str) -> pa.Field:
        """Return the Arrow field of this name, with the keys `meaning` and `unit` (where there is one) as metadata."""
        known = {"meaning": self.meaning} | ({} if self.unit is None else {"unit": self.unit})
        return pa.field(name, self.type, metadata=known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of a run."""

    name: str
    """Name in the file's metadata."""
    about: str
    """What a row is, in one sentence."""
    columns: Mapping[str, Column]
    """The columns by name, in the order of the file."""
    notes: str = ""
    """Markdown below the table in results/README.md: what a reader must know beyond the columns."""


def string(meaning: str) -> Column:
    """Return a column of text."""
    return Column(type=pa.string(), meaning=meaning, unit=None)


def integer(meaning: str, unit: str | None = None) -> Column:
    """Return a column of 64-bit integers."""
    return Column(type=pa.int64(), meaning=meaning, unit=unit)


def number(meaning: str, unit: str | None = None) -> Column:
    """Return a column of 64-bit floating-point numbers."""
    return Column(type=pa.float64(), meaning=meaning, unit=unit)


def components(of: str) -> dict[str, Column]:
    """Return the columns of what an interval's width consists of."""
    unit = "percentage points"
    return {
        "se_patients": number(f"Standard error of {of} from the choice of test patients", unit),
        "se_trainings": number(
            f"Standard error of {of} from replicates and seeds together; null with one training", unit
        ),
        "sd_replicates": number(
            f"Standard deviation of {of} between replicates, beyond that of their seeds; null with one replicate", unit
        ),
        "sd_seeds": number(
            f"Standard deviation of {of} between seeds of a replicate; null with one seed a replicate", unit
        ),
    }


def boolean(meaning: str) -> Column:
    """Return a column of flags."""
    return Column(type=pa.bool_(), meaning=meaning, unit=None)


def binary(meaning: str) -> Column:
    """Return a column of bytes."""
    return Column(type=pa.binary(), meaning=meaning, unit=None)


def with_interval(name: str, column: Column, of: str = "over what `covers` names") -> dict[str, Column]:
    """Return a column followed by the ends of its 95 % interval, `NAME_low` and `NAME_high`."""
    ends = {"low": "Lower", "high": "Upper"}
    bounds = {f"{name}_{end}": f"{word} end of the 95 % interval of `{name}` ({of})" for end, word in ends.items()}
    return {name: column} | {key: number(meaning, column.unit) for key, meaning in bounds.items()}


def score_columns(
    planes: str = "the four tested planes", metrics: Iterable[str] = METRICS
) -> dict[str, Column]:  # fmt: skip
    """Return the columns of scores, each with its 95 % interval, and how many trainings are in it; averages run over
    `planes`."""
    found = {key: c for name in metrics for key, c in with_interval(name, score_column(name, planes)).items()}
    return {"num_trainings": NUM_TRAININGS, "num_replicates": NUM_REPLICATES, **found, "covers": COVERS}


def score_column(name: str, planes: str = "the four tested planes") -> Column:
    """Return the column of a score, the mean over replicates of the mean over their seeds."""
    return number(_SCORES[name].format(planes=planes), "%")


_SCORES = {
    "accuracy": "Share of test images whose predicted plane is the true one; a prediction of Other is wrong",
    "recall": "Recall, macro average over {planes}",
    "precision": "Precision, macro average over {planes}",
    "f1": "F1 score, macro average over {planes}",
    "auc": "Area under the ROC curve from predicted probabilities, one-vs-rest, macro average over {planes}",
    "accuracy_4way": "Share of test images that are right where the choice is among the four tested planes alone",
    "share_other": "Share of test images predicted as Other, which the test set does not have",
    "share_wrong_plane": "Share of test images predicted as a tested plane that is not their own",
}

REGIME = string("Training regime: ES, ES+DA, HB, HB+DA, AF, ES+AF, or one of your own")
MODEL = string("Classifier architecture, by the paper's name")
NUM_TEST = integer("African test images", "images")
NUM_SEEDS = integer("Trainings with different seeds within a replicate, the most of any replicate", "trainings")
NUM_TRAININGS = integer("Trainings that the scores are means over: replicates times seeds", "trainings")
NUM_REPLICATES = integer("Replicates of the whole pipeline among them", "replicates")
NUM_COLLAPSED = integer("Trainings that give (nearly) all test images one class", "trainings")
COVERS = string(
    "What the 95 % interval covers: `patients`, `patients and seeds`, or `patients, replicates and seeds`; `nothing` "
    "where all test images are of one patient. With one training it covers patients alone"
)
NUM_ES = integer("Spanish training images", "images")
NUM_AF = integer("African training images", "images")
NUM_SYNTHETIC = integer("Synthetic training images", "images")
NUM_PATIENTS = integer("Patients of the real training images; a patient is (source, centre, number)", "patients")
WEIGHTS = string(
    "Initial weights of the classifier: `TAG (hub)`, `TAG (folder)`, a file's name, or `from scratch`; several are "
    "separated by commas"
)
TRIAL_IDS = string("Trials the row is computed from, rows of `trials` and `predictions`; separated by commas")
TRIAL_ID = string("The trial, as in `trials`")
RANK = integer("LoRA rank; null for the base model without an adapter")
FEATURES = string("Feature extractor, such as Inception or the judge; values of two extractors cannot be compared")
CHOSEN = boolean("Whether the synthetic training images of the classifiers are sampled with this adapter")
SECONDS = "s"
